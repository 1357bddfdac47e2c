//! User namespaces, in which volumes are served for others than root.

use super::finding::Finding;
use super::host::Host;

const CHECK: &str = "user namespaces";

/// What keeps users from making them: a sysctl, the value that does, and one that does not.
const SWITCHES: [(&str, &str, &str); 3] = [
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "10000"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
];

/// Whether this user may make them. Only its own id is mapped, so that subordinate ids do not matter.
pub fn namespaces(host: &Host) -> Finding {
    if host.is_root() {
        return Finding::ok(CHECK, "root needs none");
    }
    if !host.has("/proc/self/ns/user") {
        let found = "the kernel has none: no volumes but for root";
        return Finding::warning(
            CHECK,
            found,
            "boot a kernel with CONFIG_USER_NS, or run koya as root",
        );
    }
    let set = SWITCHES.iter().find(|(name, off, _)| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        host.word(&path).as_deref() == Some(*off)
    });
    match set {
        Some((name, off, on)) => Finding::warning(
            CHECK,
            format!("{name} is {off}: no volumes but for root"),
            format!("sudo sysctl -w {name}={on}; to keep it, write that to /etc/sysctl.d"),
        ),
        None => Finding::ok(CHECK, "users may make them"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::finding::Status;
    use super::*;

    fn host() -> Fake {
        Fake::new()
            .with("/proc/self/ns/user", "")
            .with("/proc/sys/user/max_user_namespaces", "96365\n")
    }

    #[test]
    fn each_switch_that_forbids_them_is_named() {
        assert_eq!(namespaces(&host().host_of_user()).status, Status::Ok);
        for (path, value, fix) in [
            (
                "/proc/sys/kernel/unprivileged_userns_clone",
                "0\n",
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                "/proc/sys/user/max_user_namespaces",
                "0\n",
                "user.max_user_namespaces=10000",
            ),
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1\n",
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ] {
            let fake = host().with(path, value);
            let finding = namespaces(&fake.host_of_user());
            assert_eq!(finding.status, Status::Warning, "{path}");
            assert!(finding.fix.unwrap().contains(fix), "{path}");
            assert_eq!(namespaces(&fake.host()).status, Status::Ok, "root needs none");
        }
    }

    #[test]
    fn a_kernel_without_them() {
        let finding = namespaces(&Fake::new().host_of_user());
        assert_eq!(finding.status, Status::Warning);
        assert!(finding.fix.unwrap().contains("CONFIG_USER_NS"));
    }
}
