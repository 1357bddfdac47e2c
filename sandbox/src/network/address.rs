//! Addresses as they are written: of hosts with their prefix, and of network cards.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// It is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No address with a prefix.
    #[error("{0:?} is no address with a prefix; want one like 10.91.0.0/16 or fd00:91::/64")]
    Cidr(String),
    /// No address of a network card.
    #[error("{0:?} is no address of a network card; want six bytes like 02:00:00:00:00:01")]
    Mac(String),
}

/// An address of IPv4 or IPv6 and how many of its bits name the network. Written `10.91.0.2/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// `None` if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= width(address)).then_some(Self { address, prefix })
    }

    /// The address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits name the network.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it is a network's own: no bit of a host is set.
    pub fn is_network(self) -> bool {
        bits(self.address) & self.host_mask() == 0
    }

    /// How many addresses there are, the network's own and the broadcast's among them; saturates.
    pub fn size(self) -> u128 {
        self.host_mask().saturating_add(1)
    }

    /// The address with this number in the network; 0 is the network's own. `None` beyond its end.
    pub fn host(self, number: u128) -> Option<IpAddr> {
        let mask = self.host_mask();
        (number <= mask).then(|| self.with_bits(bits(self.address) & !mask | number))
    }

    /// Whether the address is in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && (bits(address) ^ bits(self.address)) & !self.host_mask() & self.full_mask() == 0
    }

    /// Whether the two networks have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    fn full_mask(self) -> u128 {
        u128::MAX
            .checked_shr(u32::from(128_u8.saturating_sub(width(self.address))))
            .unwrap_or(0)
    }

    fn host_mask(self) -> u128 {
        self.full_mask().checked_shr(u32::from(self.prefix)).unwrap_or(0)
    }

    fn with_bits(self, bits: u128) -> IpAddr {
        match self.address {
            IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
        }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix = prefix.parse().ok().filter(|_| digits)?;
            Self::new(address.parse().ok()?, prefix)
        });
        parsed.ok_or_else(|| AddressError::Cidr(shown(text)))
    }
}

/// The address of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// From six bytes.
    pub fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// From six random bytes, made one card's own and one that nobody sells (IEEE 802, section 8.2).
    pub fn local(random: [u8; 6]) -> Self {
        let [first, rest @ ..] = random;
        let [a, b, c, d, e] = rest;
        Self([first & 0xfc | 0x02, a, b, c, d, e])
    }

    /// Its bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let byte = |digits: &str| {
            let fine = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            u8::from_str_radix(digits, 16).ok().filter(|_| fine)
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| AddressError::Mac(shown(text)))
    }
}

/// What somebody wrote, as much of it as fits into a message.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

macro_rules! as_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = AddressError;

            fn try_from(text: String) -> Result<Self, AddressError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}

as_text!(Cidr);
as_text!(Mac);

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_know_their_addresses() {
        let network = cidr("10.91.4.0/22");
        assert!(network.is_network() && !cidr("10.91.4.1/22").is_network());
        assert_eq!(network.size(), 1024);
        assert_eq!(network.host(1), Some("10.91.4.1".parse().unwrap()));
        assert_eq!(network.host(1023), Some("10.91.7.255".parse().unwrap()));
        assert_eq!(network.host(1024), None);
        assert_eq!(
            cidr("fd00:1::/64").host(0x1_0002),
            Some("fd00:1::1:2".parse().unwrap())
        );
    }

    #[test]
    fn what_overlaps_does_so_both_ways() {
        for (one, other, overlap) in [
            ("10.0.0.0/8", "10.91.0.0/16", true),
            ("0.0.0.0/0", "10.91.0.0/16", true),
            ("10.90.0.0/16", "10.91.0.0/16", false),
            ("::/0", "10.91.0.0/16", false),
            ("fd00::/16", "fd00:1::/64", true),
            ("fd00::/64", "fd00:0:0:1::/64", false),
        ] {
            assert_eq!(cidr(one).overlaps(cidr(other)), overlap, "{one} {other}");
            assert_eq!(cidr(other).overlaps(cidr(one)), overlap, "{other} {one}");
        }
        assert!(cidr("10.91.0.0/16").contains("10.91.255.255".parse().unwrap()));
        assert!(!cidr("10.91.0.0/16").contains("10.92.0.0".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_named() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0/8",
            "fd00::/129",
            "x/8",
        ] {
            assert_eq!(bad.parse::<Cidr>(), Err(AddressError::Cidr(bad.to_owned())));
        }
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:001",
            "02:00:00:00:00:+1",
            "02-00-00-00-00-01",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        assert_eq!(
            "02:0a:00:FF:00:01".parse::<Mac>().unwrap().to_string(),
            "02:0a:00:ff:00:01"
        );
        assert_eq!(Mac::local([0xff; 6]).to_string(), "fe:ff:ff:ff:ff:ff");
    }
}
