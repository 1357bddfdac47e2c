//! A guest that is no virtual machine: a namespace with a tap, wired to the tap that a VMM would open.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use koya_sandbox::network::Namespace;
use koya_sandbox::network::takeover::Taken;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::host::{LONG, attempt, run};

/// A container of a guest, with a network as its agent would set it up.
pub struct Guest {
    pub namespace: Namespace,
    stop: Arc<AtomicBool>,
    wires: Vec<JoinHandle<()>>,
}

impl Guest {
    /// `host` is the namespace that a VMM would be started in.
    pub fn new(host: &Namespace, taken: &Taken, path: &Path) -> Self {
        let namespace = Namespace::create(path).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut wires = Vec::new();
        for interface in &taken.interfaces {
            let outside = host.run(|| open_tap(&interface.tap)).unwrap();
            let inside = namespace.run(|| open_tap(&interface.name)).unwrap();
            for (from, to) in [(&outside, &inside), (&inside, &outside)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let stop = Arc::clone(&stop);
                wires.push(thread::spawn(move || copy(from, to, &stop)));
            }
        }
        let set_up = || {
            run("ip link set lo up");
            for interface in &taken.interfaces {
                let name = &interface.name;
                run(&format!(
                    "ip link set {name} address {} mtu {}",
                    interface.mac, interface.mtu
                ));
                for address in &interface.addresses {
                    let no_detection = if address.address().is_ipv6() { "nodad" } else { "" };
                    run(&format!("ip address add {address} dev {name} {no_detection}"));
                }
                run(&format!("ip link set {name} up"));
            }
            for route in &taken.routes {
                let via = route
                    .gateway
                    .map(|gateway| format!("via {gateway}"))
                    .unwrap_or_default();
                let family = if route.destination.address().is_ipv6() {
                    "-6"
                } else {
                    "-4"
                };
                run(&format!(
                    "ip {family} route add {} {via} dev {} metric {}",
                    route.destination, route.interface, route.metric
                ));
            }
        };
        namespace.run(set_up).unwrap();
        for neighbour in &taken.neighbours {
            let (address, mac, name) = (neighbour.address, neighbour.mac, &neighbour.interface);
            let line = format!("ip neighbour replace {address} lladdr {mac} dev {name} nud permanent");
            namespace.run(|| run(&line)).unwrap();
        }
        Self {
            namespace,
            stop,
            wires,
        }
    }

    /// One that is nobody's: whoever has this namespace.
    pub fn of(namespace: Namespace) -> Self {
        Self {
            namespace,
            stop: Arc::default(),
            wires: Vec::new(),
        }
    }

    pub fn attempt(&self, line: &str) -> Result<String, String> {
        self.namespace.run(|| attempt(line)).unwrap()
    }

    pub fn pings(&self, address: &str) -> bool {
        self.attempt(&format!("ping -n -q -c 2 -i 0.2 -W 5 {address}"))
            .is_ok()
    }

    /// Listens on a port, and says a word to everybody who connects.
    pub fn serve(&self, port: u16, word: &'static str) {
        self.serve_at(&format!("0.0.0.0:{port}"), word);
    }

    /// The same, at an address as well.
    pub fn serve_at(&self, address: &str, word: &'static str) {
        let listener = self
            .namespace
            .run(|| TcpListener::bind(address).unwrap())
            .unwrap();
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(word.as_bytes());
            }
        });
    }

    /// What whoever listens there says.
    pub fn hear(&self, address: &str) -> Result<String, std::io::Error> {
        self.namespace.run(|| hear(address)).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for wire in self.wires.drain(..) {
            let _ = wire.join();
        }
        Namespace::remove(self.namespace.path()).unwrap();
    }
}

/// What whoever listens there says to this thread.
pub fn hear(address: &str) -> Result<String, std::io::Error> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, LONG)?;
    stream.set_read_timeout(Some(LONG))?;
    let mut word = String::new();
    stream.read_to_string(&mut word)?;
    Ok(word)
}

/// As `koya-vmm` opens it.
pub fn open_tap(name: &str) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: an ifreq of zeros is valid: an empty name and zeros in every member of its union.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{name}: {}", std::io::Error::last_os_error());
    file
}

fn copy(mut from: File, mut to: File, stop: &AtomicBool) {
    let mut frame = vec![0; 70_000];
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };
    while !stop.load(Ordering::Relaxed) {
        let mut wanted = [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)];
        if poll(&mut wanted, Some(&pause)).unwrap() == 0 {
            continue;
        }
        let Ok(length) = from.read(&mut frame) else { return };
        // An interface that is down takes none.
        let _ = to.write(&frame[..length]);
    }
}
