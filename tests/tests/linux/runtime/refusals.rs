//! What bad input gets: one line that names what is wrong, where, and what would be right, in the log as well; and nothing is
//! left of it.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::Bench;
use crate::support::{hide_kvm, isolate, run, until};

/// What is wrong with the bundle, and what is said of it and as what.
type Case = (fn(&mut Value, &Bench), &'static str, &'static str);

/// Texts may name the bench's `HOME`.
const CONFIGURATIONS: [Case; 15] = [
    (
        |spec, _| spec["ociVersion"] = "1.9.0".into(),
        "config.json: ociVersion is \"1.9.0\"; versions 1.0 to 1.2 are understood",
        "invalid",
    ),
    (
        |spec, bench| spec["root"]["path"] = json!(bench.path("no-root")),
        "config.json: root.path \"HOME/no-root\" cannot be used: No such file or directory (os error 2)",
        "not-found",
    ),
    (
        |spec, _| spec["process"]["args"] = json!([]),
        "config.json: process.args is a list; want a list that begins with the program to run",
        "invalid",
    ),
    (
        |spec, _| {
            device(
                spec,
                json!({ "path": "/dev/odd", "type": "c", "major": 250, "minor": 77 }),
            )
        },
        "config.json: the device \"/dev/odd\": a character device of the host cannot be used from a microVM; leave it out",
        "invalid",
    ),
    (
        |spec, _| {
            device(
                spec,
                json!({ "path": "/dev/odd", "type": "b", "major": 250, "minor": 77 }),
            )
        },
        "config.json: the block device 250:77 for \"/dev/odd\": this host has no such device, or no name for it in /dev",
        "invalid",
    ),
    (
        |spec, _| {
            device(
                spec,
                json!({ "path": "/dev/odd", "type": "q", "major": 1, "minor": 3 }),
            )
        },
        "config.json: the device \"/dev/odd\" is of the type \"q\": want \"c\", \"u\", \"b\" or \"p\"",
        "invalid",
    ),
    (
        |spec, _| namespace(spec, "nonsense", None),
        "config.json: linux.namespaces[].type is \"nonsense\": want pid, network, ipc, uts, mount, cgroup, user or time",
        "invalid",
    ),
    (
        |spec, bench| namespace(spec, "network", Some(bench.path("no-netns").to_str().unwrap())),
        "cannot open the network namespace \"HOME/no-netns\": No such file or directory (os error 2)",
        "not-found",
    ),
    (
        |spec, bench| namespace(spec, "network", Some(bench.path("log.txt").to_str().unwrap())),
        "cannot open the network namespace \"HOME/log.txt\": it is no namespace but RegularFile of a file system; want one of a \
         network, as ip netns add NAME makes at /run/netns/NAME",
        "invalid",
    ),
    (
        |spec, bench| namespace(spec, "network", Some(bench.path("uts").to_str().unwrap())),
        "cannot open the network namespace \"HOME/uts\": it is a namespace of another kind; want one of a network, as ip netns \
         add NAME makes at /run/netns/NAME",
        "invalid",
    ),
    (
        |spec, _| namespace(spec, "ipc", Some("/no/such/ipc")),
        "config.json: the ipc namespace \"/no/such/ipc\": a namespace of the host, or of a container that is not Koya's, cannot \
         be joined from another kernel; give the container one of its own",
        "invalid",
    ),
    (
        |spec, _| spec["process"]["terminal"] = true.into(),
        "process.terminal is true, but there is no --console-socket to send the terminal to",
        "invalid",
    ),
    (
        |spec, _| {
            spec["mounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({ "destination": "/x", "type": "bind", "source": "/no/such" }))
        },
        "config.json: the mount at \"/x\" wants \"/no/such\", which cannot be used: No such file or directory (os error 2)",
        "not-found",
    ),
    // These two are found out in the guest.
    (
        |spec, _| spec["linux"]["sysctl"] = json!({ "net.ipv4.no_such": "1" }),
        "config.json: linux.sysctl names \"net.ipv4.no_such\", which the guest's kernel does not have; leave it out",
        "invalid",
    ),
    (
        |spec, _| spec["linux"]["sysctl"] = json!({ "kernel.panic": "1" }),
        "cannot create the container: sysctl kernel.panic is not in a separate kernel namespace",
        "invalid",
    ),
];

fn device(spec: &mut Value, device: Value) {
    spec["linux"]["devices"] = json!([device]);
}

fn namespace(spec: &mut Value, kind: &str, path: Option<&str>) {
    let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != kind);
    namespaces.push(json!({ "type": kind, "path": path }));
}

#[test]
fn what_is_wrong_in_a_bundle_is_named_and_nothing_is_left() {
    // A namespace of another kind is mounted, for this test alone.
    isolate();
    let bench = Bench::new();
    let home = bench.path("").display().to_string();
    let home = home.trim_end_matches('/');
    fs::write(bench.path("log.txt"), "").unwrap();
    fs::write(bench.path("uts"), "").unwrap();
    run(&format!("unshare --uts={home}/uts true"));
    let good = bench.spec("true");
    let before: Vec<_> = bench.left();
    for (spoil, wanted, kind) in CONFIGURATIONS {
        let mut spec = good.clone();
        spoil(&mut spec, &bench);
        bench.write(&spec);
        let (message, found) = bench.refusal(&["create", "web"]);
        assert_eq!(
            (message.replace(home, "HOME").as_str(), found.as_str()),
            (wanted, kind)
        );
        // What is ending may be seen a moment longer.
        until(&format!("{wanted}: something is left"), || bench.left() == before);
    }
    run(&format!("umount {home}/uts"));

    let config = bench.config().display().to_string();
    fs::write(&config, "{\n  \"ociVersion\": ,\n}").unwrap();
    let wanted = format!("{config:?} is not JSON: expected value at line 2 column 17");
    assert_eq!(bench.refusal(&["create", "web"]), (wanted, "invalid".to_owned()));
    fs::remove_file(&config).unwrap();
    let wanted = format!("cannot read {config:?}: No such file or directory (os error 2)");
    assert_eq!(
        bench.refusal(&["create", "web"]),
        (wanted, "not-found".to_owned())
    );
    assert_eq!(bench.left(), Vec::<String>::new());
    // The bundle is as it was.
    assert_eq!(fs::read_dir(bench.path("bundle")).unwrap().count(), 0);
}

#[test]
fn words_that_make_no_sense_are_refused_and_odd_paths_are_paths() {
    let bench = Bench::new();
    let mut spec = bench.spec("exit 5");
    let ids = "is no container id; want 1 to 128 of A-Z a-z 0-9 _ . - beginning with a letter or digit";
    let long = "x".repeat(129);
    for id in ["a/b", "..", "../web", "-", "", "a b", "wéb", &long] {
        let (message, kind) = bench.refusal(&["create", "--", id]);
        assert!(message.ends_with(ids) && kind == "invalid", "{id}: {message}");
    }
    let missing = bench.path("no.sock").display().to_string();
    for (terminal, wanted) in [
        (
            true,
            format!(
                "cannot send the terminal to the console socket {missing:?}: No such file or directory (os error 2)"
            ),
        ),
        (
            false,
            "there is a --console-socket, but process.terminal is not true".to_owned(),
        ),
    ] {
        spec["process"]["terminal"] = terminal.into();
        bench.write(&spec);
        let refusal = bench.refusal(&["create", "--console-socket", &missing, "web"]);
        assert_eq!(refusal, (wanted, "invalid".to_owned()));
    }
    let wanted = "cannot use the bundle \"/no/such/bundle\": No such file or directory (os error 2)";
    let refusal = bench.refusal(&["create", "--bundle", "/no/such/bundle", "web"]);
    assert_eq!(refusal, (wanted.to_owned(), "not-found".to_owned()));
    assert_eq!(bench.left(), Vec::<String>::new());

    // A name is a name, whatever a shell or JSON would make of it.
    let odd = bench.path("a b\"c\\d\n$(e) ü%20:,=");
    fs::rename(bench.path("bundle"), &odd).unwrap();
    fs::create_dir(bench.path("bundle")).unwrap();
    let words = ["run", "--keep", "--bundle", odd.to_str().unwrap(), "web"];
    let said = bench.does(&words);
    assert_eq!((said.errors.as_str(), said.code), ("", Some(5)));
    assert_eq!(bench.state()["bundle"], json!(odd));
    assert!(bench.done(&["list", "--quiet"]) == "web\n");
    bench.done(&["delete", "web"]);
    bench.is_clean("something is left of an odd bundle");
}

#[test]
fn without_kvm_it_is_said_what_to_do() {
    isolate();
    let bench = Bench::new();
    bench.spec("true");
    hide_kvm();
    let (message, kind) = bench.refusal(&["run", "web"]);
    assert!(message.ends_with(KVM) && kind == "host", "{message}");
    bench.is_clean("without KVM");
    // `koya run` says the same.
    let user = bench.path("user");
    let tar = bench.path("image.tar");
    crate::support::succeed(
        Command::new("tar")
            .arg("-C")
            .arg(bench.root())
            .arg("-cf")
            .arg(&tar)
            .arg("."),
    );
    let mut koya = Command::new(koya_tests::vm::from_env("KOYA_CLI"));
    koya.env("KOYA_HOME", &user);
    let said = bench.ends(
        koya.args(["run", "--rm", "--network", "none"])
            .arg(&tar)
            .arg("true"),
    );
    assert_eq!(said.code, Some(125), "{said:?}");
    assert!(
        said.errors.starts_with("koya: ") && said.errors.trim_end().ends_with(KVM),
        "{said:?}"
    );
    bench.is_clean("without KVM");
    for folder in ["containers", "vms"] {
        let kept = fs::read_dir(user.join(folder)).into_iter().flatten().count();
        assert_eq!(kept, 0, "{folder}");
    }
}

/// How the VMM ends where there is no KVM.
pub const KVM: &str = "/dev/kvm does not exist: this host offers no KVM. Load kvm_amd or kvm_intel, or enable (nested) \
                       virtualisation";
