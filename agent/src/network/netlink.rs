//! One blocking socket to the kernel's network configuration (rtnetlink(7)).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::plan::Mac;

/// In the network namespace of the thread that opened it.
pub struct Netlink(Socket);

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Asks for a change; what is there already is replaced.
    pub fn change(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        let flags = match &message {
            RouteNetlinkMessage::SetLink(_) | RouteNetlinkMessage::DelRoute(_) => NLM_F_ACK,
            _ => NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        };
        self.exchange(message, flags, |_| {})
    }

    /// Asks for something beside what is there already.
    pub fn append(&self, message: RouteNetlinkMessage) -> io::Result<()> {
        let appended = self.exchange(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND, |_| {});
        match appended {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            outcome => outcome,
        }
    }

    /// Index of the first device that has one of these attributes and none of those.
    fn find(
        &self,
        wanted: impl Fn(&LinkAttribute) -> bool,
        unwanted: impl Fn(&LinkAttribute) -> bool,
    ) -> io::Result<Option<u32>> {
        let mut found = None;
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.exchange(all, NLM_F_DUMP, |message| {
            if let RouteNetlinkMessage::NewLink(link) = message
                && link.attributes.iter().any(&wanted)
                && !link.attributes.iter().any(&unwanted)
            {
                found.get_or_insert(link.header.index);
            }
        })?;
        Ok(found)
    }

    /// Index of the card with this MAC. What somebody has put on top of one has its MAC as well.
    pub fn find_mac(&self, mac: Mac) -> io::Result<Option<u32>> {
        let has =
            |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::Address(bytes) if *bytes == mac.0);
        self.find(has, is_on_top)
    }

    pub fn find_name(&self, name: &str) -> io::Result<Option<u32>> {
        self.find(
            |attribute| matches!(attribute, LinkAttribute::IfName(found) if found == name),
            |_| false,
        )
    }

    /// Sends a request and reads up to its end.
    fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.0.send(&buffer, 0)?;
        loop {
            let (buffer, _) = self.0.recv_from_full()?;
            let mut rest = buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                // Each begins at a multiple of four bytes.
                let length = usize::try_from(message.header.length).unwrap_or(usize::MAX);
                let length = length.max(1).checked_next_multiple_of(4).unwrap_or(usize::MAX);
                rest = rest.get(length..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => each(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

/// Whether it says that the device is made of others.
fn is_on_top(attribute: &LinkAttribute) -> bool {
    let kind = |info: &LinkInfo| match info {
        LinkInfo::Kind(kind) => matches!(
            kind,
            InfoKind::Bridge
                | InfoKind::Bond
                | InfoKind::Vlan
                | InfoKind::MacVlan
                | InfoKind::MacVtap
                | InfoKind::IpVlan
                | InfoKind::IpVtap
        ),
        _ => false,
    };
    matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.iter().any(kind))
}
