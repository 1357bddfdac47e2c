//! Extended headers: `LENGTH KEY=VALUE\n` records (POSIX.1-2017 pax §extended header), read by their lengths:
//! values are binary.

use super::{SPARSE_MAX, TarError, XATTRS_MAX, shown};

/// How GNU tar, Go and libarchive name attributes; libarchive writes a second, encoded copy, which is ignored.
const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

/// What the extended headers before an entry say about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: SparseKeys,
}

/// GNU's sparse files in pax archives, formats 0.0, 0.1 and 1.0.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SparseKeys {
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    /// The map stands before the data (1.0).
    pub map_in_data: bool,
    /// Offsets and lengths in turn (0.0 and 0.1).
    pub numbers: Vec<u64>,
}

impl Extended {
    /// Adds the records of one extended header; later ones win.
    pub fn read(&mut self, mut bytes: &[u8], at: u64) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or(TarError::Pax(at))?;
            self.set(key, value).ok_or(TarError::Pax(at))??;
            bytes = rest;
        }
        Ok(())
    }

    /// `None` if the value makes no sense for the key.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<Result<(), TarError>> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?.try_into().ok()?),
            b"gid" => self.gid = Some(decimal(value)?.try_into().ok()?),
            b"mtime" => self.mtime = Some(time(value)?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    return Some(self.add_xattr(name, value));
                }
                if let Some(name) = key.strip_prefix(SPARSE) {
                    return self.sparse.set(name, value);
                }
            }
        }
        Some(Ok(()))
    }

    fn add_xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), TarError> {
        self.xattrs.retain(|(known, _)| known != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
        let total: usize = self
            .xattrs
            .iter()
            .map(|(n, v)| n.len().saturating_add(v.len()))
            .sum();
        if total > XATTRS_MAX {
            let path = shown(self.path.as_deref().unwrap_or(name));
            return Err(TarError::Long {
                path,
                what: "extended attributes",
                limit: XATTRS_MAX as u64,
            });
        }
        Ok(())
    }
}

impl SparseKeys {
    pub fn is_used(&self) -> bool {
        self.map_in_data || self.size.is_some()
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Option<Result<(), TarError>> {
        match name {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"major" => self.map_in_data = value == b"1",
            b"offset" | b"numbytes" => self.numbers.push(decimal(value)?),
            b"map" => {
                for number in value.split(|&byte| byte == b',') {
                    self.numbers.push(decimal(number)?);
                    if self.numbers.len() > SPARSE_MAX {
                        break;
                    }
                }
            }
            _ => {}
        }
        if self.numbers.len() <= SPARSE_MAX {
            return Some(Ok(()));
        }
        let path = shown(self.name.as_deref().unwrap_or_default());
        Some(Err(TarError::Long {
            path,
            what: "a sparse map",
            limit: SPARSE_MAX as u64,
        }))
    }
}

/// Splits the first record off: key, value, rest.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(bytes.get(..space)?)?).ok()?;
    let line = bytes.get(space.checked_add(1)?..length)?.strip_suffix(b"\n")?;
    let equals = line.iter().position(|&byte| byte == b'=')?;
    Some((
        line.get(..equals)?,
        line.get(equals.checked_add(1)?..)?,
        bytes.get(length..)?,
    ))
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `seconds[.fraction]`, possibly negative, as seconds rounded down and nanoseconds.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    if !text.starts_with('-') || nanos == 0 {
        return Some((seconds, nanos));
    }
    Some((seconds.checked_sub(1)?, 1_000_000_000_u32.checked_sub(nanos)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_line_feeds_and_zeros() {
        let mut extended = Extended::default();
        let value = b"\x01\0\0\x02\n=\n\0";
        let line = [b"40 SCHILY.xattr.security.capability=".as_slice(), value].concat();
        let length = line.len() + 1;
        let line = [format!("{length} ").as_bytes(), &line[3..], b"\n"].concat();
        let bytes = [line.as_slice(), b"12 path=a/b\n"].concat();
        extended.read(&bytes, 0).unwrap();
        assert_eq!(
            extended.xattrs,
            [(b"security.capability".to_vec(), value.to_vec())]
        );
        assert_eq!(extended.path.as_deref(), Some(b"a/b".as_slice()));
    }

    #[test]
    fn times_before_1970_are_rounded_down() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-0.25"), Some((-1, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"1.0000000019"), Some((1, 1)));
        assert_eq!(time(b"x"), None);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bytes in [
            b"x path=a\n".as_slice(),
            b"99 path=a\n",
            b"11 path=a\nx",
            b"3 a",
            b"8 patha\n",
            b"12 size=-10\n",
        ] {
            let fault = Extended::default().read(bytes, 7);
            assert!(matches!(fault, Err(TarError::Pax(7))), "{}", shown(bytes));
        }
    }
}
