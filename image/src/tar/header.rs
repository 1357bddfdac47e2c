//! The 512-byte header (POSIX.1-2017 pax §ustar; GNU tar manual §Standard).

use super::TarError;

pub(crate) const BLOCK: usize = 512;
pub(super) type Block = [u8; BLOCK];

/// A header whose checksum is right, at a known place of the stream.
pub(super) struct Header<'a> {
    block: &'a Block,
    at: u64,
}

impl<'a> Header<'a> {
    /// Checks the sum of all bytes, which old programs made of signed ones.
    pub fn new(block: &'a Block, at: u64) -> Result<Self, TarError> {
        let header = Self { block, at };
        let expected = header.octal(148, 8).ok_or(TarError::Checksum(at))?;
        let seen = block
            .iter()
            .enumerate()
            .map(|(i, &byte)| if (148..156).contains(&i) { b' ' } else { byte });
        let unsigned: u64 = seen.clone().map(u64::from).sum();
        let signed: i64 = seen.map(|byte| i64::from(byte.cast_signed())).sum();
        if expected != unsigned && i64::try_from(expected) != Ok(signed) {
            return Err(TarError::Checksum(at));
        }
        Ok(header)
    }

    pub fn field(&self, from: usize, length: usize) -> &'a [u8] {
        self.block
            .get(from..from.saturating_add(length))
            .unwrap_or_default()
    }

    /// A field up to its first zero byte.
    pub fn text(&self, from: usize, length: usize) -> &'a [u8] {
        self.field(from, length)
            .split(|&byte| byte == 0)
            .next()
            .unwrap_or_default()
    }

    fn octal(&self, from: usize, length: usize) -> Option<u64> {
        octal(self.field(from, length))
    }

    /// A number: octal digits, or GNU's big-endian form with the top bit set.
    pub fn number(&self, name: &'static str, from: usize, length: usize) -> Result<i64, TarError> {
        number(self.field(from, length)).ok_or(TarError::Number {
            field: name,
            at: self.at,
        })
    }

    pub fn unsigned(&self, name: &'static str, from: usize, length: usize) -> Result<u64, TarError> {
        let value = self.number(name, from, length)?;
        value.try_into().map_err(|_| TarError::Number {
            field: name,
            at: self.at,
        })
    }

    pub fn narrow(&self, name: &'static str, from: usize, length: usize) -> Result<u32, TarError> {
        let value = self.number(name, from, length)?;
        value.try_into().map_err(|_| TarError::Number {
            field: name,
            at: self.at,
        })
    }

    pub fn type_flag(&self) -> u8 {
        self.block.get(156).copied().unwrap_or(0)
    }

    /// The name, with the prefix that only POSIX headers have (GNU's put other things there).
    pub fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = if self.field(257, 6) == b"ustar\0" {
            self.text(345, 155)
        } else {
            b""
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let field = field.trim_ascii_start();
    let end = field
        .iter()
        .position(|byte| matches!(byte, 0 | b' '))
        .unwrap_or(field.len());
    let mut value = 0_u64;
    for &byte in field.get(..end)? {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 8)?;
        value = value.checked_mul(8)?.checked_add(u64::from(digit))?;
    }
    Some(value)
}

pub(super) fn number(field: &[u8]) -> Option<i64> {
    let Some((&first, rest)) = field.split_first() else {
        return Some(0);
    };
    if first & 0x80 == 0 {
        return i64::try_from(octal(field)?).ok();
    }
    // Two's complement over the whole field without its top bit; bit 6 is the sign.
    let sign: i128 = if first & 0x40 == 0 { 0 } else { 0x40 };
    let mut value = i128::from(first & 0x3f).checked_sub(sign)?;
    for &byte in rest {
        value = value.checked_mul(256)?.checked_add(i128::from(byte))?;
    }
    i64::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_form() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"  644 \0\0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"12x\0"), None);
        assert_eq!(number(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(
            number(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]),
            Some(0x2_0000_0000)
        );
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(
            number(&[
                0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
            ]),
            None
        );
    }
}
