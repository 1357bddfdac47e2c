//! The kernel's network configuration, asked and changed over one blocking socket (rtnetlink(7)).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// A dump that somebody changes while it is read begins anew, so often.
const TRIES: usize = 8;

/// A socket in the network namespace of the thread that opened it.
pub(crate) struct Netlink(Socket);

/// What is to happen if something is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Add {
    /// It is an error.
    New,
    /// It is replaced.
    Over,
    /// There is nothing to add: it is a change or removal.
    Change,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Asks for something to be done and waits until it is.
    pub(crate) fn request(&self, message: RouteNetlinkMessage, add: Add) -> io::Result<()> {
        let more = match add {
            Add::New => NLM_F_CREATE | NLM_F_EXCL,
            Add::Over => NLM_F_CREATE | NLM_F_REPLACE,
            Add::Change => 0,
        };
        self.send(message, NLM_F_ACK | more)?;
        loop {
            let (buffer, _) = self.0.recv_from_full()?;
            for message in messages(&buffer) {
                match message?.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    /// All there are of what `message` asks for.
    fn dump(&self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..TRIES {
            if let Some(all) = self.try_dump(message.clone())? {
                return Ok(all);
            }
        }
        Err(io::Error::other("it changes faster than it can be read"))
    }

    /// `None` if it changed meanwhile.
    fn try_dump(&self, message: RouteNetlinkMessage) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        /// `NLM_F_DUMP_INTR` of the kernel's headers.
        const INTERRUPTED: u16 = 0x10;
        self.send(message, NLM_F_DUMP)?;
        let (mut all, mut whole) = (Vec::new(), true);
        loop {
            let (buffer, _) = self.0.recv_from_full()?;
            for message in messages(&buffer) {
                let message = message?;
                whole &= message.header.flags & INTERRUPTED == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => all.push(message),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(_) => return Ok(whole.then_some(all)),
                    _ => {}
                }
            }
        }
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.0.send(&buffer, 0)?;
        Ok(())
    }

    pub(crate) fn links(&self) -> io::Result<Vec<LinkMessage>> {
        let all = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(pick(all, |message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        }))
    }

    pub(crate) fn addresses(&self) -> io::Result<Vec<AddressMessage>> {
        let all = self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(pick(all, |message| match message {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        }))
    }

    pub(crate) fn routes(&self) -> io::Result<Vec<RouteMessage>> {
        let all = self.dump(&RouteNetlinkMessage::GetRoute(RouteMessage::default()))?;
        Ok(pick(all, |message| match message {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        }))
    }

    pub(crate) fn neighbours(&self) -> io::Result<Vec<NeighbourMessage>> {
        let all = self.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
        Ok(pick(all, |message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour),
            _ => None,
        }))
    }
}

fn pick<T>(all: Vec<RouteNetlinkMessage>, wanted: impl Fn(RouteNetlinkMessage) -> Option<T>) -> Vec<T> {
    all.into_iter().filter_map(wanted).collect()
}

/// The messages of what one read gave.
fn messages(buffer: &[u8]) -> impl Iterator<Item = io::Result<NetlinkMessage<RouteNetlinkMessage>>> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = NetlinkMessage::deserialize(rest)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
        let length = match &message {
            Ok(message) => usize::try_from(message.header.length).unwrap_or(usize::MAX),
            Err(_) => usize::MAX,
        };
        // Each begins at a multiple of four bytes; one without length would be the last.
        let length = length.max(1).checked_next_multiple_of(4).unwrap_or(usize::MAX);
        rest = rest.get(length..).unwrap_or_default();
        Some(message)
    })
}
