//! The socket device between guest and host.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::number::{Number, narrow};
use super::{PathError, check_path};

/// CIDs of a guest: below are the hypervisor's (0), a guest's own (1) and the host's (2); 2³² - 1 means "any".
const GUEST_CID: Number = Number {
    max: (u32::MAX - 1) as u64,
    what: "a CID from 3 to 4294967294",
};
const FIRST_GUEST_CID: u32 = 3;

/// A socket device (virtio 1.2 §5.10); its presence in the configuration is what adds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// A name. Deprecated, and never shown again.
    #[serde(default, skip_serializing)]
    pub vsock_id: Option<String>,
    /// The guest's address, from 3 to 2³² - 2.
    #[serde(deserialize_with = "guest_cid")]
    pub guest_cid: u32,
    /// The unix socket through which the host reaches the guest: it must not exist. The guest reaches the host's port
    /// P through the socket at this path with `_P` behind it.
    pub uds_path: PathBuf,
}

impl Vsock {
    /// Checks what needs no file system.
    ///
    /// # Errors
    /// [`PathError`]
    pub fn validate(&self) -> Result<(), PathError> {
        check_path("uds_path", &self.uds_path)
    }
}

fn guest_cid<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let cid: u32 = narrow(GUEST_CID.read(deserializer)?, &GUEST_CID)?;
    if cid < FIRST_GUEST_CID {
        return Err(serde::de::Error::invalid_value(
            serde::de::Unexpected::Unsigned(cid.into()),
            &GUEST_CID.what,
        ));
    }
    Ok(cid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    #[test]
    fn the_id_is_taken_and_not_given() {
        let text = br#"{"vsock_id":"a","guest_cid":3,"uds_path":"v.sock"}"#;
        let vsock: Vsock = json::from_slice(text).unwrap();
        let written = serde_json::to_string(&vsock).unwrap();
        assert_eq!(written, r#"{"guest_cid":3,"uds_path":"v.sock"}"#);
    }

    #[test]
    fn addresses_that_are_not_a_guests_are_refused() {
        for cid in ["0", "2", "4294967295", "-3", "\"3\"", "null"] {
            let text = format!(r#"{{"guest_cid":{cid},"uds_path":"v"}}"#);
            let error = json::from_slice::<Vsock>(text.as_bytes())
                .unwrap_err()
                .to_string();
            assert!(error.contains("from 3 to 4294967294"), "{error}");
        }
    }
}
