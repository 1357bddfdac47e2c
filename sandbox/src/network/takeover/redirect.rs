//! Whatever arrives at one interface leaves by another: an ingress queueing discipline, a filter that takes everything,
//! and the action `mirred` (tc-mirred(8)).

use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption,
    TcActionType, TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMirror,
    TcMirrorActionType, TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::TakeoverError;
use super::device::Device;
use crate::network::netlink::{Add, Netlink};

/// Handle of the ingress discipline, `ffff:`.
const HANDLE: TcHandle = TcHandle {
    major: u16::MAX,
    minor: 0,
};
/// Priority of the one filter.
const PRIORITY: u32 = 1;

/// Sends what arrives at `from` out of `to`.
pub(super) fn add(netlink: &Netlink, from: &Device, to: &Device) -> Result<(), TakeoverError> {
    let failed = |source| TakeoverError::Redirect {
        from: from.name.clone(),
        to: to.name.clone(),
        source,
    };
    let discipline = RouteNetlinkMessage::NewQueueDiscipline(discipline(from).map_err(failed)?);
    netlink.request(discipline, Add::New).map_err(failed)?;
    let filter = RouteNetlinkMessage::NewTrafficFilter(filter(from, to).map_err(failed)?);
    netlink.request(filter, Add::New).map_err(failed)
}

/// Lets what arrives at `from` go its usual way. Nothing to remove is as wished.
pub(super) fn remove(netlink: &Netlink, from: &Device) -> Result<(), TakeoverError> {
    let failed = |source| TakeoverError::Change {
        act: "remove the redirection",
        name: from.name.clone(),
        source,
    };
    let discipline = RouteNetlinkMessage::DelQueueDiscipline(discipline(from).map_err(failed)?);
    match netlink.request(discipline, Add::Change) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
            Err(failed(error))
        }
        _ => Ok(()),
    }
}

fn header(device: &Device) -> io::Result<TcHeader> {
    let index = i32::try_from(device.index).map_err(io::Error::other)?;
    Ok(TcHeader {
        index,
        ..Default::default()
    })
}

fn discipline(device: &Device) -> io::Result<TcMessage> {
    let header = TcHeader {
        handle: HANDLE,
        parent: TcHandle::INGRESS,
        ..header(device)?
    };
    let kind = TcAttribute::Kind("ingress".to_owned());
    Ok(TcMessage::from_parts(header, vec![kind]))
}

/// cls_matchall would say it more simply; cls_u32 is in more kernels.
fn filter(from: &Device, to: &Device) -> io::Result<TcMessage> {
    /// `ETH_P_ALL` as it is on the wire.
    const ALL: u16 = libc::ETH_P_ALL as u16;
    let header = TcHeader {
        parent: HANDLE,
        info: PRIORITY << 16 | u32::from(ALL.to_be()),
        ..header(from)?
    };
    // One key, which masks everything away.
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let options = vec![
        TcOption::U32(TcFilterU32Option::Selector(selector)),
        TcOption::U32(TcFilterU32Option::Action(vec![action(to)])),
    ];
    let attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(options),
    ];
    Ok(TcMessage::from_parts(header, attributes))
}

fn action(to: &Device) -> TcAction {
    let mut generic = TcActionGeneric::default();
    generic.action = TcActionType::Stolen;
    let mut mirror = TcMirror::default();
    mirror.generic = generic;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to.index;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    action
}
