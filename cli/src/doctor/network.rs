//! What networks need: root, a tap, netavark with its firewall, and a kernel with all that they use.
//!
//! A container with `--network none` needs nothing of it, so that nothing here is more than a warning.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use koya_sandbox::network::{FIREWALLD, NETAVARK_FOLDERS};
use rustix::fs::{Access, access};
use serde::Deserialize;

use super::finding::Finding;
use super::host::Host;
use super::kernel::{Kernel, Part};
use super::programs;

/// Where netavark finds the programs of the firewall.
const SYSTEM: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// What a network is made of.
const LINKS: [Part; 2] = [("bridge", "BRIDGE"), ("veth", "VETH")];
/// What joins a microVM's tap to its veth.
const REDIRECTION: [Part; 3] = [
    ("sch_ingress", "NET_SCH_INGRESS"),
    ("cls_u32", "NET_CLS_U32"),
    ("act_mirred", "NET_ACT_MIRRED"),
];
/// What leads 127.0.0.1 of a namespace to a container.
const LOOPBACK: [Part; 2] = [("nf_tables", "NF_TABLES"), ("nft_nat", "NFT_NAT")];
/// Rules of netavark's nftables driver.
const NFTABLES: [Part; 6] = [
    ("nf_tables", "NF_TABLES"),
    ("nf_conntrack", "NF_CONNTRACK"),
    ("nft_ct", "NFT_CT"),
    ("nft_nat", "NFT_NAT"),
    ("nft_masq", "NFT_MASQ"),
    ("nft_fib_inet", "NFT_FIB_INET"),
];
/// Rules of Koya's own, by iptables.
const OWN: [Part; 4] = [
    ("xt_conntrack", "NETFILTER_XT_MATCH_CONNTRACK"),
    ("xt_addrtype", "NETFILTER_XT_MATCH_ADDRTYPE"),
    ("xt_nat", "NETFILTER_XT_NAT"),
    ("xt_MASQUERADE", "NETFILTER_XT_TARGET_MASQUERADE"),
];
/// Matches and targets of netavark's iptables driver.
const XTABLES: [Part; 6] = [
    ("xt_conntrack", "NETFILTER_XT_MATCH_CONNTRACK"),
    ("xt_comment", "NETFILTER_XT_MATCH_COMMENT"),
    ("xt_addrtype", "NETFILTER_XT_MATCH_ADDRTYPE"),
    ("xt_mark", "NETFILTER_XT_MARK"),
    ("xt_nat", "NETFILTER_XT_NAT"),
    ("xt_MASQUERADE", "NETFILTER_XT_TARGET_MASQUERADE"),
];
/// What is below those, for each kind of `iptables`.
const NFT_BASE: [Part; 2] = [("nf_tables", "NF_TABLES"), ("nft_compat", "NFT_COMPAT")];
const LEGACY_BASE: [Part; 3] = [
    ("ip_tables", "IP_NF_IPTABLES"),
    ("iptable_filter", "IP_NF_FILTER"),
    ("iptable_nat", "IP_NF_NAT"),
];

/// What netavark says of itself; older ones have only iptables.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Version {
    version: String,
    default_fw_driver: String,
}

/// netavark, if it is there and runs.
struct Netavark {
    path: PathBuf,
    version: Option<Version>,
}

/// All checks of networks.
pub fn all(host: &Host, kernel: &Kernel) -> Vec<Finding> {
    let found = find(host);
    let driver = found
        .as_ref()
        .and_then(|netavark| Some(netavark.version.as_ref()?.default_fw_driver.as_str()));
    let mut findings = vec![
        rights(host),
        tun(host, host.open("/dev/net/tun")),
        netavark(found.as_ref()),
        dns(host, found.as_ref()),
    ];
    findings.extend(firewall(host, kernel, driver.unwrap_or_default()));
    findings.extend([
        kernel.check("network links", "networks", &LINKS),
        kernel.check("network redirection", "networks", &REDIRECTION),
        kernel.check("loopback redirection", "port forwards of Kubernetes", &LOOPBACK),
        forwarding(host),
    ]);
    findings
}

fn rights(host: &Host) -> Finding {
    const CHECK: &str = "network rights";
    if host.is_root() {
        Finding::ok(CHECK, "root may make networks")
    } else {
        let found = "only root may make networks and publish ports; containers of this user have none";
        Finding::warning(CHECK, found, "run koya as root")
    }
}

/// The other end of a microVM's card.
fn tun(host: &Host, opened: io::Result<()>) -> Finding {
    const CHECK: &str = "/dev/net/tun";
    match opened {
        Ok(()) => Finding::ok(CHECK, "can be opened"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let fix = "modprobe tun; in a container, hand the device in (--device /dev/net/tun)";
            Finding::warning(CHECK, "is not there, and networks need it", fix)
        }
        Err(error) => {
            let fix = if host.is_root() {
                "look at the device rules of this container or service"
            } else {
                "run koya as root"
            };
            Finding::warning(CHECK, format!("cannot be opened: {error}"), fix)
        }
    }
}

fn find(host: &Host) -> Option<Netavark> {
    let path = match &host.netavark {
        Some(path) => path.is_file().then(|| path.clone()),
        None => host.program(&NETAVARK_FOLDERS, "netavark"),
    }?;
    let said = programs::ask(&path, "version");
    Some(Netavark {
        version: said.and_then(|said| serde_json::from_str(&said).ok()),
        path,
    })
}

fn netavark(found: Option<&Netavark>) -> Finding {
    const CHECK: &str = "netavark";
    match found {
        None => Finding::warning(
            CHECK,
            "is not there: containers have no network",
            "apt-get install netavark aardvark-dns, or set KOYA_NETAVARK to its path",
        ),
        Some(Netavark { path, version: None }) => Finding::warning(
            CHECK,
            format!("{path:?} does not tell its version"),
            "apt-get install --reinstall netavark",
        ),
        Some(Netavark {
            path,
            version: Some(version),
        }) => Finding::ok(CHECK, format!("{}, {}", version.version, path.display())),
    }
}

/// It is looked for where netavark is, then where distributions put it.
fn dns(host: &Host, netavark: Option<&Netavark>) -> Finding {
    const CHECK: &str = "aardvark-dns";
    let beside = netavark.map(|netavark| netavark.path.with_file_name(CHECK));
    let place = beside.filter(|place| place.is_file());
    let fix = "apt-get install aardvark-dns";
    match place.or_else(|| host.program(&NETAVARK_FOLDERS, CHECK)) {
        None => {
            let found = "is not there: containers do not find each other by name";
            Finding::warning(CHECK, found, fix)
        }
        Some(path) => match programs::ask(&path, "--version") {
            None => Finding::warning(CHECK, format!("{path:?} does not tell its version"), fix),
            Some(said) => {
                let version = said.split_whitespace().last().unwrap_or_default();
                Finding::ok(CHECK, format!("{version}, {}", path.display()))
            }
        },
    }
}

/// The program by which rules are made, Koya's or netavark's, and what that needs of the kernel.
fn firewall(host: &Host, kernel: &Kernel, driver: &str) -> [Finding; 2] {
    const CHECK: &str = "firewall";
    const RULES: &str = "firewall rules";
    let restore = host.program(&SYSTEM, "iptables-restore");
    if let Some(program) = restore.filter(|_| !driver.is_empty() && !is_firewalld_there(host)) {
        let base = if is_legacy(&program) {
            &LEGACY_BASE[..]
        } else {
            &NFT_BASE
        };
        let found = format!("{}; Koya makes the rules", program.display());
        return [
            Finding::ok(CHECK, found),
            kernel.check(RULES, "networks", &[base, &OWN].concat()),
        ];
    }
    let (name, package) = match driver {
        "nftables" => ("nft", "nftables"),
        "none" => {
            let none = "netavark makes no rules: nothing is translated, no port is published";
            let fix = "use a netavark that is built for nftables or iptables";
            return [
                Finding::warning(CHECK, none, fix),
                Finding::ok(RULES, "none are made"),
            ];
        }
        _ => ("iptables", "iptables"),
    };
    let Some(program) = host.program(&SYSTEM, name) else {
        let found = format!("{name} is not there, and netavark needs it");
        let rules = kernel.check(RULES, "networks", &NFTABLES);
        return [
            Finding::warning(CHECK, found, format!("apt-get install {package}")),
            rules,
        ];
    };
    let (kind, parts) = if name == "nft" {
        ("nft", NFTABLES.to_vec())
    } else if is_legacy(&program) {
        (
            "iptables, of the legacy kind",
            [&LEGACY_BASE[..], &XTABLES].concat(),
        )
    } else {
        ("iptables", [&NFT_BASE[..], &XTABLES].concat())
    };
    [
        Finding::ok(
            CHECK,
            format!("{kind}, {}; netavark makes the rules", program.display()),
        ),
        kernel.check(RULES, "networks", &parts),
    ]
}

fn is_firewalld_there(host: &Host) -> bool {
    FIREWALLD.iter().any(|path| host.has(path))
}

/// Whether it makes rules by the kernel's older interface: a link leads to the program of that kind.
fn is_legacy(iptables: &Path) -> bool {
    let program = fs::canonicalize(iptables);
    let name = program.ok().and_then(|path| Some(path.file_name()?.to_owned()));
    name.is_some_and(|name| name.to_string_lossy().contains("legacy"))
}

/// netavark turns it on, if it may.
fn forwarding(host: &Host) -> Finding {
    const CHECK: &str = "ip forwarding";
    const FILE: &str = "/proc/sys/net/ipv4/ip_forward";
    match host.word(FILE).as_deref() {
        Some("1") => Finding::ok(CHECK, "on"),
        Some(_) if !host.is_root() || access(host.path(FILE), Access::WRITE_OK).is_ok() => {
            Finding::ok(CHECK, "off; the first network turns it on")
        }
        Some(_) => Finding::warning(
            CHECK,
            "off, and cannot be turned on from here",
            "sysctl -w net.ipv4.ip_forward=1, on the host of this container",
        ),
        None => Finding::warning(
            CHECK,
            "unknown: net.ipv4.ip_forward cannot be read",
            "mount /proc, and boot a kernel with CONFIG_INET",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Fake;
    use super::super::finding::Status;
    use super::*;

    const PROGRAM: &str = "/usr/lib/podman/netavark";

    fn statuses(findings: &[Finding]) -> Vec<Status> {
        findings.iter().map(|finding| finding.status).collect()
    }

    /// A host with everything, but for `without`.
    fn host(version: &str, without: &str) -> Fake {
        let parts = [&LINKS[..], &REDIRECTION, &NFTABLES, &NFT_BASE, &XTABLES].concat();
        let modules: Vec<_> = parts
            .iter()
            .map(|(module, _)| *module)
            .filter(|module| *module != without)
            .collect();
        let mut fake = Fake::new()
            .with_modules(&[], &modules)
            .with("/dev/net/tun", "")
            .with("/proc/sys/net/ipv4/ip_forward", "0\n");
        for (path, said) in [
            (PROGRAM, version),
            ("/usr/lib/podman/aardvark-dns", "aardvark-dns 1.4.0"),
            ("/usr/sbin/nft", ""),
            ("/usr/sbin/iptables", ""),
        ] {
            if path != without {
                fake = fake.with_program(path, said);
            }
        }
        fake
    }

    fn warnings(fake: &Fake) -> Vec<Finding> {
        let host = fake.host();
        let mut findings = all(&host, &Kernel::of(&host));
        findings.retain(|finding| finding.status != Status::Ok);
        findings
    }

    #[test]
    fn a_whole_host_has_nothing_to_complain_of() {
        for version in [
            r#"{"version": "1.4.0", "commit": ""}"#,
            r#"{"version": "1.14.0", "default_fw_driver": "nftables"}"#,
        ] {
            assert!(
                warnings(&host(version, "")).is_empty(),
                "{:?}",
                warnings(&host(version, ""))
            );
        }
    }

    #[test]
    fn each_missing_thing_is_the_only_one_named() {
        let old = r#"{"version": "1.4.0"}"#;
        let new = r#"{"version": "1.14.0", "default_fw_driver": "nftables"}"#;
        for (version, without, check, fix) in [
            (
                old,
                "/usr/lib/podman/aardvark-dns",
                "aardvark-dns",
                "apt-get install aardvark-dns",
            ),
            (old, "/usr/sbin/iptables", "firewall", "apt-get install iptables"),
            (new, "/usr/sbin/nft", "firewall", "apt-get install nftables"),
            (old, "cls_u32", "network redirection", "CONFIG_NET_CLS_U32"),
            (old, "veth", "network links", "CONFIG_VETH"),
            (old, "nft_nat", "loopback redirection", "CONFIG_NFT_NAT"),
            (
                old,
                "xt_comment",
                "firewall rules",
                "CONFIG_NETFILTER_XT_MATCH_COMMENT",
            ),
            (new, "nft_masq", "firewall rules", "CONFIG_NFT_MASQ"),
        ] {
            let found = warnings(&host(version, without));
            assert_eq!(found.len(), 1, "{without}: {found:?}");
            let (status, name) = (found[0].status, found[0].check);
            assert_eq!((status, name), (Status::Warning, check), "{without}");
            assert!(found[0].fix.as_ref().unwrap().contains(fix), "{found:?}");
        }
        // The other driver's programs and modules do not matter.
        assert!(warnings(&host(new, "/usr/sbin/iptables")).is_empty());
        assert!(warnings(&host(new, "xt_comment")).is_empty());
    }

    #[test]
    fn koya_makes_the_rules_where_netavark_can_do_without() {
        const RESTORE: &str = "/usr/sbin/iptables-restore";
        let maker = |version: &str, firewalld: bool, without: &str| {
            let mut fake = host(version, without).with_program(RESTORE, "");
            if firewalld {
                fake = fake.with("/run/firewalld.pid", "1\n");
            }
            let host = fake.host();
            let mut findings = all(&host, &Kernel::of(&host)).into_iter();
            let found = findings.find(|finding| finding.check == "firewall").unwrap();
            (
                found.found.ends_with("Koya makes the rules"),
                warnings(&fake).len(),
            )
        };
        let (old, new) = (
            r#"{"version": "1.4.0"}"#,
            r#"{"version": "2.1.0", "default_fw_driver": "nftables"}"#,
        );
        assert_eq!(maker(new, false, ""), (true, 0));
        assert_eq!(maker(new, false, "nft_masq"), (true, 0));
        assert_eq!(maker(new, false, "xt_addrtype"), (true, 1));
        assert_eq!(maker(new, true, ""), (false, 0));
        assert_eq!(maker(old, false, ""), (false, 0));
    }

    #[test]
    fn the_older_iptables_needs_other_modules() {
        let fake = host(r#"{"version": "1.4.0"}"#, "/usr/sbin/iptables")
            .with_program("/usr/sbin/xtables-legacy-multi", "");
        let path = fake.host().path("/usr/sbin/iptables");
        std::os::unix::fs::symlink("xtables-legacy-multi", path).unwrap();
        let found = warnings(&fake);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0]
                .found
                .contains("lacks ip_tables, iptable_filter, iptable_nat"),
            "{found:?}"
        );
    }

    #[test]
    fn a_netavark_that_is_named_is_the_only_one() {
        let fake = host(r#"{"version": "1.4.0"}"#, "");
        let host = Host {
            netavark: Some("/no/such/netavark".into()),
            ..fake.host()
        };
        assert!(find(&host).is_none());
        assert!(find(&fake.host()).is_some());
    }

    #[test]
    fn a_netavark_that_is_not_there_or_broken_is_named() {
        let found = warnings(&host("", PROGRAM));
        let names: Vec<_> = found.iter().map(|finding| finding.check).collect();
        assert_eq!(names, ["netavark"]);
        assert!(found[0].fix.as_ref().unwrap().contains("netavark aardvark-dns"));
        let broken = warnings(&host("Segmentation fault", ""));
        assert!(
            broken[0].found.ends_with("does not tell its version"),
            "{broken:?}"
        );
    }

    #[test]
    fn others_than_root_have_no_networks() {
        let fake = host(r#"{"version": "1.4.0"}"#, "");
        let host = fake.host_of_user();
        let findings = all(&host, &Kernel::of(&host));
        assert_eq!(findings[0].status, Status::Warning);
        assert!(findings[0].fix.as_ref().unwrap().contains("as root"));
        assert!(
            statuses(&findings[1..])
                .iter()
                .all(|status| *status == Status::Ok)
        );
    }

    #[test]
    fn a_host_without_tun_and_proc() {
        let host = Fake::new();
        let found = tun(&host.host(), host.host().open("/dev/net/tun"));
        assert_eq!(found.status, Status::Warning);
        assert!(found.fix.unwrap().starts_with("modprobe tun"));
        assert!(forwarding(&host.host()).found.starts_with("unknown"));
    }
}
