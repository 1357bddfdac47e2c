//! Whose rights this process has.

use std::fs;

/// Root of the host, and not somebody who is root in a user namespace only, as ordinary users' engines have it.
pub fn is_root_of_host() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    rustix::process::geteuid().is_root() && begins_at_root(&map)
}

/// Whether a user namespace's root is that of the one above it.
fn begins_at_root(map: &str) -> bool {
    let mut fields = map.split_whitespace();
    (fields.next(), fields.next()) == (Some("0"), Some("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_user_namespace_is_somebody_else() {
        assert!(begins_at_root("         0          0 4294967295\n"));
        assert!(!begins_at_root(
            "         0       1000          1\n         1     100000      65536\n"
        ));
        assert!(!begins_at_root(""));
    }
}
