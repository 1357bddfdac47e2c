//! The header that every packet begins with (virtio 1.2 §5.10.6).

/// Size of [`Header`] in the rings, in bytes.
pub const HEADER_LEN: usize = 44;
/// The host's address (virtio 1.2 §5.10.4).
pub const HOST_CID: u64 = 2;
/// The only type of socket here: a stream.
pub const TYPE_STREAM: u16 = 1;

/// What a packet wants (virtio 1.2 §5.10.6).
pub mod op {
    /// Opens a connection.
    pub const REQUEST: u16 = 1;
    /// Accepts a [`REQUEST`].
    pub const RESPONSE: u16 = 2;
    /// Ends a connection at once, or says that there is none.
    pub const RST: u16 = 3;
    /// Ends one direction or both.
    pub const SHUTDOWN: u16 = 4;
    /// Carries data.
    pub const RW: u16 = 5;
    /// Tells the current credit.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks for the current credit.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`] (virtio 1.2 §5.10.6.4).
pub mod shutdown {
    /// The sender will receive no more.
    pub const RECEIVE: u32 = 1;
    /// The sender will send no more.
    pub const SEND: u32 = 2;
    /// The sender will do neither.
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// `struct virtio_vsock_hdr`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Address of the sender.
    pub src_cid: u64,
    /// Address of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Bytes of data behind the header.
    pub len: u32,
    /// Type of socket.
    pub socket_type: u16,
    /// One of [`op`].
    pub op: u16,
    /// Depends on `op`.
    pub flags: u32,
    /// Bytes that the sender can hold for this connection.
    pub buf_alloc: u32,
    /// Bytes that the sender has passed on, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// The header in `bytes`.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut fields = Fields(bytes);
        Self {
            src_cid: u64::from_le_bytes(fields.next()),
            dst_cid: u64::from_le_bytes(fields.next()),
            src_port: u32::from_le_bytes(fields.next()),
            dst_port: u32::from_le_bytes(fields.next()),
            len: u32::from_le_bytes(fields.next()),
            socket_type: u16::from_le_bytes(fields.next()),
            op: u16::from_le_bytes(fields.next()),
            flags: u32::from_le_bytes(fields.next()),
            buf_alloc: u32::from_le_bytes(fields.next()),
            fwd_cnt: u32::from_le_bytes(fields.next()),
        }
    }

    /// The header as it lies in a ring's buffer.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut rest = &mut bytes[..];
        for field in [
            &self.src_cid.to_le_bytes()[..],
            &self.dst_cid.to_le_bytes(),
            &self.src_port.to_le_bytes(),
            &self.dst_port.to_le_bytes(),
            &self.len.to_le_bytes(),
            &self.socket_type.to_le_bytes(),
            &self.op.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buf_alloc.to_le_bytes(),
            &self.fwd_cnt.to_le_bytes(),
        ] {
            let (place, behind) = rest.split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = behind;
        }
        bytes
    }

    /// The answer to a packet that belongs to no connection. `None` for a reset, which needs no answer: two sides
    /// that answer each other's would never stop.
    pub fn refusal(&self) -> Option<Self> {
        (self.op != op::RST).then_some(Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            socket_type: self.socket_type,
            op: op::RST,
            ..Self::default()
        })
    }
}

/// Takes one field after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn next<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            None => [0; N],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_lies_where_the_specification_says() {
        let bytes: [u8; HEADER_LEN] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let header = Header::decode(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_cid, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!((header.src_port, header.dst_port), (0x1312_1110, 0x1716_1514));
        assert_eq!(
            (header.len, header.socket_type, header.op),
            (0x1b1a_1918, 0x1d1c, 0x1f1e)
        );
        assert_eq!(header.flags, 0x2322_2120);
        assert_eq!((header.buf_alloc, header.fwd_cnt), (0x2726_2524, 0x2b2a_2928));
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn a_reset_is_not_answered() {
        let reset = Header {
            op: op::RST,
            ..Header::default()
        };
        assert_eq!(reset.refusal(), None);
    }
}
