//! Network interfaces.

use serde::{Deserialize, Deserializer, Serialize};

use super::number::{Number, narrow};
use super::{IdError, MacAddress, RateLimiter};

/// The smallest MTU a network can have (RFC 791), in bytes.
pub const MIN_MTU: u16 = 68;
/// Longest name of a network device of the host, in bytes (`IFNAMSIZ` less the final NUL).
const MAX_DEVICE_NAME: usize = 15;

/// A network interface of the guest, joined to a tap device of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterface {
    /// Names the interface in the API.
    pub iface_id: String,
    /// The name of the host's tap device.
    pub host_dev_name: String,
    /// The guest's address; without it, the guest's driver makes one up.
    pub guest_mac: Option<MacAddress>,
    /// The largest packet, in bytes from 68, that the guest is told to send; without it, the guest decides.
    #[serde(default, deserialize_with = "optional_mtu")]
    pub mtu: Option<u16>,
    /// How fast the guest may receive.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// How fast the guest may send.
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// Parts of a [`NetworkInterface`] to change while the guest runs; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkInterfaceUpdate {
    /// The interface in question.
    pub iface_id: String,
    /// The new limit on receiving.
    pub rx_rate_limiter: Option<RateLimiter>,
    /// The new limit on sending.
    pub tx_rate_limiter: Option<RateLimiter>,
}

/// A network interface that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkConfigError {
    /// Its identifier.
    #[error("the network interface's id")]
    Id(#[source] IdError),
    /// Two interfaces with one identifier.
    #[error("two network interfaces have the id {0:?}: each needs one of its own")]
    DuplicateId(String),
    /// Two interfaces with one address. Clients match this text.
    #[error("The MAC address is already in use: {mac} (by the network interface {by:?})")]
    MacInUse {
        /// The address.
        mac: MacAddress,
        /// Who has it.
        by: String,
    },
    /// Two interfaces on one tap.
    #[error(
        "the network interfaces {first:?} and {second:?} both use the tap {tap:?}: each needs one of its own"
    )]
    SharedTap {
        /// The first interface.
        first: String,
        /// The second interface.
        second: String,
        /// The tap.
        tap: String,
    },
    /// A name that no tap can have.
    #[error(
        "network interface {id:?} has the `host_dev_name` {name:?}: the name of a tap has 1 to {MAX_DEVICE_NAME} \
         bytes without '/', ':' and spaces"
    )]
    DeviceName {
        /// The interface.
        id: String,
        /// The name, or the start of it.
        name: String,
    },
    /// An MTU that is too small.
    #[error("network interface {id:?} has an `mtu` of {mtu}: it must be {MIN_MTU} to 65535")]
    Mtu {
        /// The interface.
        id: String,
        /// The MTU.
        mtu: u16,
    },
}

const MTU: Number = Number {
    max: u16::MAX as u64,
    what: "an MTU in bytes, 68 to 65535",
};

fn optional_mtu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    MTU.read_optional(deserializer)?
        .map(|mtu| narrow(mtu, &MTU))
        .transpose()
}

impl NetworkInterface {
    /// Checks what needs no host; not the identifier, whose rule depends on where it comes from.
    ///
    /// # Errors
    /// [`NetworkConfigError`]
    pub fn validate(&self) -> Result<(), NetworkConfigError> {
        let name = self.host_dev_name.as_str();
        let possible = (1..=MAX_DEVICE_NAME).contains(&name.len())
            && name != "."
            && name != ".."
            && !name
                .chars()
                .any(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control());
        if !possible {
            let name = name.chars().take(32).collect();
            return Err(NetworkConfigError::DeviceName {
                id: self.iface_id.clone(),
                name,
            });
        }
        match self.mtu {
            Some(mtu) if mtu < MIN_MTU => Err(NetworkConfigError::Mtu {
                id: self.iface_id.clone(),
                mtu,
            }),
            _ => Ok(()),
        }
    }

    /// A name with '%' is a pattern: the host makes a new tap of it each time.
    fn shares_tap_with(&self, other: &Self) -> bool {
        self.host_dev_name == other.host_dev_name && !self.host_dev_name.contains('%')
    }

    /// Adds this interface to `interfaces`, or replaces the one with its id there.
    ///
    /// # Errors
    /// [`NetworkConfigError`]; `interfaces` is then as it was.
    pub fn insert_into(self, interfaces: &mut Vec<NetworkInterface>) -> Result<(), NetworkConfigError> {
        self.validate()?;
        for other in interfaces.iter().filter(|other| other.iface_id != self.iface_id) {
            if let Some(mac) = self.guest_mac
                && other.guest_mac == Some(mac)
            {
                return Err(NetworkConfigError::MacInUse {
                    mac,
                    by: other.iface_id.clone(),
                });
            }
            if self.shares_tap_with(other) {
                return Err(NetworkConfigError::SharedTap {
                    first: other.iface_id.clone(),
                    second: self.iface_id,
                    tap: self.host_dev_name,
                });
            }
        }
        match interfaces
            .iter_mut()
            .find(|other| other.iface_id == self.iface_id)
        {
            Some(place) => *place = self,
            None => interfaces.push(self),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(id: &str, tap: &str, mac: Option<u8>) -> NetworkInterface {
        NetworkInterface {
            iface_id: id.into(),
            host_dev_name: tap.into(),
            guest_mac: mac.map(|last| MacAddress::new([6, 0, 0, 0, 0, last])),
            ..NetworkInterface::default()
        }
    }

    #[test]
    fn impossible_taps_and_mtus_are_refused() {
        assert_eq!(interface("a", "tap0", None).validate(), Ok(()));
        for name in ["", "..", "a/b", "a b", "a:b", "sixteen_letters_", "a\0"] {
            let err = interface("a", name, None).validate().unwrap_err();
            assert!(err.to_string().contains("1 to 15"), "{err}");
        }
        let mut low = interface("a", "tap0", None);
        low.mtu = Some(67);
        assert_eq!(
            low.validate(),
            Err(NetworkConfigError::Mtu {
                id: "a".into(),
                mtu: 67
            })
        );
    }

    #[test]
    fn addresses_and_taps_are_unique_and_ids_replace() {
        let mut all = Vec::new();
        interface("1", "tap1", Some(1)).insert_into(&mut all).unwrap();
        interface("2", "tap2", Some(2)).insert_into(&mut all).unwrap();
        let err = interface("2", "tap2", Some(1)).insert_into(&mut all).unwrap_err();
        assert!(
            err.to_string()
                .starts_with("The MAC address is already in use: 06:00:00:00:00:01"),
            "{err}"
        );
        let err = interface("2", "tap1", Some(2)).insert_into(&mut all).unwrap_err();
        assert!(err.to_string().contains("both use the tap \"tap1\""), "{err}");
        interface("2", "tap3", Some(3)).insert_into(&mut all).unwrap();
        assert_eq!((all.len(), all[1].host_dev_name.as_str()), (2, "tap3"));
    }
}
