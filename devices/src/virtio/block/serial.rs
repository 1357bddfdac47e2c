//! The serial number by which a guest finds a disk.

/// Bytes of a serial number (virtio 1.2 §5.2.6).
pub const SERIAL_SIZE: usize = 20;

/// Bytes of a long id that stay readable in its serial number.
const PREFIX: usize = 11;

/// The serial number of the drive `id`, padded with zero bytes. Linux shows it as `/sys/block/*/serial` and udev as
/// `/dev/disk/by-id/virtio-*`.
///
/// It is the id itself when that has 20 bytes or less. Of a longer one it is the first 11 bytes, `-`, and the 32-bit
/// FNV-1a hash of the whole id as 8 lower-case hexadecimal digits: two ids that begin alike still differ, and as an
/// id of the API has no `-`, no short one can be mistaken for a long one.
pub fn serial(id: &str) -> [u8; SERIAL_SIZE] {
    let mut serial = [0; SERIAL_SIZE];
    let id = id.as_bytes();
    let fill = |serial: &mut [u8], bytes: &[u8]| {
        for (to, from) in serial.iter_mut().zip(bytes) {
            *to = *from;
        }
    };
    if id.len() <= SERIAL_SIZE {
        fill(&mut serial, id);
        return serial;
    }
    let hash = id.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    let (prefix, suffix) = serial.split_at_mut(PREFIX);
    fill(prefix, id);
    fill(suffix, format!("-{hash:08x}").as_bytes());
    serial
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_up_to_twenty_bytes_are_their_serial() {
        assert_eq!(&serial("rootfs"), b"rootfs\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&serial("a2345678901234567890"), b"a2345678901234567890");
        assert_eq!(serial(""), [0; 20]);
    }

    #[test]
    fn longer_ids_keep_their_beginning_and_differ() {
        let one = serial("container_layer_0000000001");
        let two = serial("container_layer_0000000002");
        assert_eq!(&one[..12], b"container_l-");
        assert_ne!(one, two);
        assert!(one[12..].iter().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(&serial("aaaaaaaaaaaaaaaaaaaaa")[11..], b"-271b8a78");
    }
}
