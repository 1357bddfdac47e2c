//! From the start of the VMM's process to the first answer on its control socket: `GET /`, or the greeting
//! of QEMU's monitor.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::{Better, Context, Figure, Measurement, milliseconds};
use crate::bench::BenchError;
use crate::bench::process::{Process, later};
use crate::bench::vmm::{Kind, Vmm};

/// Between two attempts to connect. Short against what is measured, long enough to leave the processor
/// to the VMM.
const PAUSE: Duration = Duration::from_micros(20);

/// See the module.
#[derive(Debug)]
pub struct ApiReady;

const FIGURES: [Figure; 1] = [Figure {
    name: "api-ready",
    title: "Spawn → control socket answers",
    unit: "ms",
    better: Better::Lower,
    goal: None,
}];

impl Measurement for ApiReady {
    fn figures(&self) -> &[Figure] {
        &FIGURES
    }

    fn sample(&self, vmm: &Vmm, context: &Context) -> Result<Vec<f64>, BenchError> {
        let socket = context.scratch.join("control.sock");
        // Left over from the VMM that was killed last time.
        let _ = fs::remove_file(&socket);
        let argv = vmm.command(vmm.kind.control_arguments(context.kvm, &socket));
        let mut process = Process::spawn(&argv, &context.errors())?;
        let stream = connect(&socket, &mut process, context.limit)?;
        let when = ask(stream, vmm.kind, context.limit)?;
        Ok(vec![milliseconds(&process, when)])
    }
}

fn connect(socket: &Path, process: &mut Process, limit: Duration) -> Result<UnixStream, BenchError> {
    let deadline = later(limit);
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return Ok(stream),
            Err(_) if process.has_ended() => return Err(process.early_exit("its control socket")),
            Err(_) if Instant::now() < deadline => thread::sleep(PAUSE),
            Err(_) => {
                return Err(BenchError::Timeout {
                    awaited: "control socket".into(),
                    limit,
                });
            }
        }
    }
}

/// Sends the request and returns when the answer began to arrive.
fn ask(mut stream: UnixStream, kind: Kind, limit: Duration) -> Result<Instant, BenchError> {
    let talk = || BenchError::host("talk to the control socket");
    stream.set_read_timeout(Some(limit)).map_err(talk())?;
    stream.write_all(kind.greeting().as_bytes()).map_err(talk())?;
    let mut answer = [0; 512];
    let length = stream.read(&mut answer).map_err(talk())?;
    let when = Instant::now();
    let answer = String::from_utf8_lossy(answer.get(..length).unwrap_or_default());
    if !answer.starts_with(kind.answer()) {
        let found = answer.lines().next().unwrap_or_default().to_owned();
        return Err(BenchError::Output {
            expected: kind.answer(),
            found,
        });
    }
    Ok(when)
}
