//! Which addresses are free: those that no container has.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::definition::{Network, Subnet};
use super::{Attached, NetworkError};

/// One address of each subnet of a network.
pub(super) fn addresses(network: &Network, attached: &[Attached]) -> Result<Vec<IpAddr>, NetworkError> {
    let links = attached.iter().flat_map(|container| &container.links);
    let taken: BTreeSet<IpAddr> = links
        .filter(|link| link.network == network.name)
        .flat_map(|link| link.addresses.iter().copied())
        .collect();
    network
        .subnets
        .iter()
        .map(|subnet| free(subnet, &taken).ok_or_else(|| NetworkError::Full(network.name.clone())))
        .collect()
}

/// The lowest one. The network's own is none, nor is the broadcast's, nor the gateway's.
fn free(subnet: &Subnet, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let last = subnet.subnet.size().saturating_sub(1);
    (1..last)
        .filter_map(|number| subnet.subnet.host(number))
        .find(|address| *address != subnet.gateway && !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_once_and_never_the_gateways() {
        let subnet = Subnet {
            subnet: "10.1.2.0/29".parse().unwrap(),
            gateway: "10.1.2.3".parse().unwrap(),
        };
        let mut taken = BTreeSet::new();
        while let Some(address) = free(&subnet, &taken) {
            assert!(taken.insert(address));
        }
        let all: Vec<_> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["10.1.2.1", "10.1.2.2", "10.1.2.4", "10.1.2.5", "10.1.2.6"]);
        taken.remove(&"10.1.2.4".parse().unwrap());
        assert_eq!(free(&subnet, &taken), Some("10.1.2.4".parse().unwrap()));
    }
}
