//! The PC's own devices: serial port, keyboard controller, sleep register.

use std::fs::File;
use std::sync::{Arc, Mutex};

use koya_boot::layout;
use koya_devices::Bus;
use koya_devices::legacy::serial::FdSink;
use koya_devices::legacy::{I8042, Serial, Sleep};

use super::{Frame, StartError};
use crate::ending::Ending;

/// The devices that the API can reach later; all of them are on the port bus.
pub(super) struct Legacy {
    pub ports: Bus,
    pub serial: Arc<Mutex<Serial>>,
    pub i8042: Arc<Mutex<I8042>>,
}

/// Creates the devices and puts them on a bus. The console's output goes to `output`, or else to standard output.
pub(super) fn create(frame: &Frame, output: Option<File>) -> Result<Legacy, StartError> {
    let port = "the serial console";
    let sink = match output {
        Some(file) => FdSink::new(file.into()),
        None => FdSink::stdout().map_err(StartError::device(port))?,
    };
    let serial =
        Serial::new(frame.line(layout::COM1_IRQ)?, Box::new(sink)).map_err(StartError::device(port))?;
    let serial = Arc::new(Mutex::new(serial));
    let end = frame.end.clone();
    let reset = Arc::new(move || end.announce(Ending::Reset));
    let i8042 = Arc::new(Mutex::new(I8042::new(frame.line(layout::I8042_IRQ)?, reset)));
    let end = frame.end.clone();
    let sleep = Sleep::new(Arc::new(move || end.announce(Ending::PowerOff)));

    let mut ports = Bus::default();
    ports.insert(u64::from(layout::COM1_PORT), Serial::LEN, serial.clone())?;
    ports.insert(I8042::BASE, I8042::LEN, i8042.clone())?;
    ports.insert(
        u64::from(layout::SLEEP_CONTROL_PORT),
        Sleep::LEN,
        Arc::new(Mutex::new(sleep)),
    )?;
    Ok(Legacy { ports, serial, i8042 })
}
