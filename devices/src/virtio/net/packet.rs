//! The header in front of every frame (virtio 1.2 §5.1.6), and what a guest may say in it.
//!
//! A frame is handed to the host with a header rebuilt here from the guest's: what passes has been checked against the
//! frame and the negotiated features, what the specification tells devices to ignore is gone, and nothing
//! the guest writes to its memory afterwards changes what was checked.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO,
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP,
};

/// Size of `struct virtio_net_hdr_v1` in bytes. With VIRTIO_F_VERSION_1 it is the same whatever else was negotiated.
pub const HEADER_LEN: usize = 12;

/// Size of an Ethernet header (destination, source, type) in bytes.
pub const ETHERNET_LEN: usize = 14;

/// Largest frame in bytes, header included: 65,550 bytes of Ethernet frame, the most a segmentation offload
/// produces, and the 12 bytes of the header (virtio 1.2 §5.1.6.3.1).
pub const FRAME_MAX: usize = 65_562;

/// What is copied out of guest memory to be looked at: the header and the Ethernet header.
pub const PREFIX_LEN: usize = HEADER_LEN + ETHERNET_LEN;

/// Offset of `num_buffers` in the header.
pub(super) const NUM_BUFFERS_OFFSET: usize = 10;

/// A MAC address.
pub type MacAddress = [u8; 6];

/// A frame that is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Header and Ethernet header are not both there.
    #[error("a frame has at least {PREFIX_LEN} bytes, this one {0}")]
    TooShort(u64),
    /// Larger than any offload produces.
    #[error("a frame has at most {FRAME_MAX} bytes, this one {0}")]
    TooLong(u64),
    /// A checksum is asked for that was not negotiated.
    #[error("a checksum offload that was not negotiated")]
    ChecksumFeature,
    /// The checksum would be written outside the frame or into the Ethernet header.
    #[error("the checksum at {start} + {offset} lies outside the frame of {len} bytes")]
    ChecksumPlace {
        /// Start of the checksummed part, in bytes from the start of the Ethernet header.
        start: u16,
        /// Place of the checksum, in bytes from `start`.
        offset: u16,
        /// Length of the frame without the virtio header.
        len: u64,
    },
    /// A segmentation is asked for that is unknown or was not negotiated.
    #[error("a segmentation offload of type {0:#x}, which was not negotiated")]
    SegmentationFeature(u8),
    /// A segmentation without the fields it needs.
    #[error(
        "a segmentation offload without a checksum offload, without a segment size, or with headers beyond the frame"
    )]
    Segmentation,
    /// The frame's source address is not the guest's.
    #[error("the source address is not the guest's")]
    Spoofed,
}

/// The first bytes of a frame from the guest, copied out of its memory.
#[derive(Debug, Clone, Copy)]
pub struct Prefix(pub [u8; PREFIX_LEN]);

impl Prefix {
    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn le16(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.byte(at), self.byte(at.saturating_add(1))])
    }

    fn source(&self) -> Option<&[u8]> {
        self.0.get(HEADER_LEN + 6..HEADER_LEN + 12)
    }

    /// Checks the frame that starts with this prefix and rebuilds its header.
    ///
    /// `total` is the length of header and frame in bytes, `features` what was negotiated, and `mac` the only
    /// source address that may leave, if there is such a rule.
    pub fn check(&self, total: u64, features: u64, mac: Option<MacAddress>) -> Result<Self, PacketError> {
        check_length(total)?;
        if let Some(mac) = mac
            && self.source() != Some(&mac)
        {
            return Err(PacketError::Spoofed);
        }
        let len = total.saturating_sub(HEADER_LEN as u64);
        let mut header = [0; HEADER_LEN];
        let checksum = self.check_checksum(len, features, &mut header)?;
        self.check_segmentation(len, features, checksum, &mut header)?;
        let mut clean = *self;
        if let Some(place) = clean.0.first_chunk_mut() {
            *place = header;
        }
        Ok(clean)
    }

    fn check_checksum(&self, len: u64, features: u64, header: &mut [u8]) -> Result<bool, PacketError> {
        if u32::from(self.byte(0)) & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 {
            return Ok(false);
        }
        if !has(features, VIRTIO_NET_F_CSUM) {
            return Err(PacketError::ChecksumFeature);
        }
        let (start, offset) = (self.le16(6), self.le16(8));
        let end = u64::from(start)
            .saturating_add(u64::from(offset))
            .saturating_add(2);
        if usize::from(start) < ETHERNET_LEN || end > len {
            return Err(PacketError::ChecksumPlace { start, offset, len });
        }
        if let (Some(flags), Some(fields)) = (header.split_first_mut(), self.0.get(6..10)) {
            *flags.0 = VIRTIO_NET_HDR_F_NEEDS_CSUM as u8;
            if let Some(place) = flags.1.get_mut(5..9) {
                place.copy_from_slice(fields);
            }
        }
        Ok(true)
    }

    fn check_segmentation(
        &self,
        len: u64,
        features: u64,
        checksum: bool,
        header: &mut [u8],
    ) -> Result<(), PacketError> {
        let kind = self.byte(1);
        let feature = match u32::from(kind) {
            VIRTIO_NET_HDR_GSO_NONE => return Ok(()),
            VIRTIO_NET_HDR_GSO_TCPV4 => VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_HDR_GSO_TCPV6 => VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_HDR_GSO_UDP => VIRTIO_NET_F_HOST_UFO,
            _ => return Err(PacketError::SegmentationFeature(kind)),
        };
        if !has(features, feature) {
            return Err(PacketError::SegmentationFeature(kind));
        }
        let (headers, size) = (self.le16(2), self.le16(4));
        if !checksum || size == 0 || u64::from(headers) > len {
            return Err(PacketError::Segmentation);
        }
        if let (Some(place), Some(fields)) = (header.get_mut(1..6), self.0.get(1..6)) {
            place.copy_from_slice(fields);
        }
        Ok(())
    }
}

/// Whether a frame of `total` bytes, header included, can be one.
pub fn check_length(total: u64) -> Result<(), PacketError> {
    if total < PREFIX_LEN as u64 {
        return Err(PacketError::TooShort(total));
    }
    if total > FRAME_MAX as u64 {
        return Err(PacketError::TooLong(total));
    }
    Ok(())
}

/// Whether bit number `feature` is in `features`.
pub(super) fn has(features: u64, feature: u32) -> bool {
    features.checked_shr(feature).is_some_and(|rest| rest & 1 == 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::*;

    const MAC: MacAddress = [2, 0, 0, 0, 0, 1];
    const ALL: u64 = 1 << VIRTIO_NET_F_CSUM
        | 1 << VIRTIO_NET_F_HOST_TSO4
        | 1 << VIRTIO_NET_F_HOST_TSO6
        | 1 << VIRTIO_NET_F_HOST_UFO;

    fn prefix(header: [u8; HEADER_LEN]) -> Prefix {
        let mut bytes = [0xff; PREFIX_LEN];
        bytes[..HEADER_LEN].copy_from_slice(&header);
        bytes[HEADER_LEN + 6..HEADER_LEN + 12].copy_from_slice(&MAC);
        Prefix(bytes)
    }

    fn tso4(flags: u8, hdr_len: u8, size: u8, start: u8, offset: u8) -> Prefix {
        prefix([flags, 1, hdr_len, 0, 0, size, start, 0, offset, 0, 0, 0])
    }

    #[test]
    fn a_checked_header_keeps_the_offloads_and_loses_the_rest() {
        // Unknown flags, a number of buffers, and the fields of a segmentation that is not asked for.
        let clean = prefix([0xfe, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9])
            .check(60, ALL, Some(MAC))
            .unwrap();
        assert_eq!(clean.0[..HEADER_LEN], [0; HEADER_LEN]);
        assert_eq!(clean.0[HEADER_LEN..], prefix([0; HEADER_LEN]).0[HEADER_LEN..]);
        let clean = prefix([0xff, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 7, 7])
            .check(4000, ALL, None)
            .unwrap();
        assert_eq!(clean.0[..HEADER_LEN], [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]);
    }

    #[test]
    fn lengths_have_limits_on_both_sides() {
        let frame = prefix([0; HEADER_LEN]);
        assert_eq!(frame.check(25, ALL, None).unwrap_err(), PacketError::TooShort(25));
        assert!(frame.check(26, ALL, None).is_ok());
        assert!(frame.check(65_562, ALL, None).is_ok());
        assert_eq!(
            frame.check(65_563, ALL, None).unwrap_err(),
            PacketError::TooLong(65_563)
        );
    }

    #[test]
    fn only_the_guests_own_source_address_leaves() {
        let frame = prefix([0; HEADER_LEN]);
        assert!(frame.check(60, ALL, Some(MAC)).is_ok());
        assert_eq!(
            frame.check(60, ALL, Some([2, 0, 0, 0, 0, 2])).unwrap_err(),
            PacketError::Spoofed
        );
        assert!(frame.check(60, ALL, None).is_ok());
    }

    #[test]
    fn a_checksum_must_lie_within_the_frame() {
        let at = |start: u8, offset: u8| prefix([1, 0, 0, 0, 0, 0, start, 0, offset, 0, 0, 0]);
        assert!(at(34, 12).check(60, ALL, None).is_ok());
        assert_eq!(
            at(34, 13).check(60, ALL, None).unwrap_err(),
            PacketError::ChecksumPlace {
                start: 34,
                offset: 13,
                len: 48
            }
        );
        assert!(at(13, 4).check(60, ALL, None).is_err());
        let wild = prefix([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0]);
        assert!(wild.check(60, ALL, None).is_err());
        assert_eq!(
            at(34, 12).check(60, 0, None).unwrap_err(),
            PacketError::ChecksumFeature
        );
    }

    #[test]
    fn a_segmentation_needs_its_feature_a_size_and_a_checksum() {
        assert!(tso4(1, 54, 5, 34, 16).check(4000, ALL, None).is_ok());
        assert_eq!(
            tso4(0, 54, 5, 34, 16).check(4000, ALL, None).unwrap_err(),
            PacketError::Segmentation
        );
        assert_eq!(
            tso4(1, 54, 0, 34, 16).check(4000, ALL, None).unwrap_err(),
            PacketError::Segmentation
        );
        assert_eq!(
            tso4(1, 90, 5, 34, 16).check(80, ALL, None).unwrap_err(),
            PacketError::Segmentation
        );
        let without = ALL & !(1 << VIRTIO_NET_F_HOST_TSO4);
        assert_eq!(
            tso4(1, 54, 5, 34, 16).check(4000, without, None).unwrap_err(),
            PacketError::SegmentationFeature(1)
        );
        for unknown in [2, 5, 0x81, 0xff] {
            let frame = prefix([1, unknown, 54, 0, 0, 5, 34, 0, 16, 0, 0, 0]);
            assert_eq!(
                frame.check(4000, ALL, None).unwrap_err(),
                PacketError::SegmentationFeature(unknown)
            );
        }
    }
}
