//! Hears that something changes in a namespace (rtnetlink(7), its groups).

use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whoever brings an interface makes a row of changes.
const SETTLED: Duration = Duration::from_millis(100);
/// The longest that they are waited for: somebody may change something all the time.
const MOST_WAITS: usize = 20;
/// Links, and addresses and routes of both families.
const GROUPS: i32 = libc::RTMGRP_LINK
    | libc::RTMGRP_IPV4_IFADDR
    | libc::RTMGRP_IPV4_ROUTE
    | libc::RTMGRP_IPV6_IFADDR
    | libc::RTMGRP_IPV6_ROUTE;

/// What is said of interfaces, addresses and routes.
pub struct Watch(Socket);

impl Watch {
    /// From now on, in this thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, GROUPS.cast_unsigned()))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Waits until something has changed since the last time, and nothing more does for a moment; or no longer than this.
    ///
    /// # Errors
    /// The kernel's.
    pub fn wait(&self, most: Option<Duration>) -> io::Result<()> {
        let most = most
            .map(Timespec::try_from)
            .transpose()
            .map_err(io::Error::other)?;
        let mut wanted = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        while poll(&mut wanted, most.as_ref()) == Err(rustix::io::Errno::INTR) {}
        for _ in 0..MOST_WAITS {
            self.drain()?;
            thread::sleep(SETTLED);
            if poll(&mut wanted, Some(&Timespec::default()))? == 0 {
                break;
            }
        }
        self.drain()
    }

    /// What has been said does not matter, and what was lost because too much was said does not either: whoever waits looks
    /// for himself.
    fn drain(&self) -> io::Result<()> {
        let mut buffer = [0; 256];
        loop {
            match self.0.recv(&mut &mut buffer[..], 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
}
