//! Containers of engines that leave cgroups to systemd: `--systemd-cgroup`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use koya_tests::vm::Scratch;

use super::host::Systemd;
use super::{IMAGE, Podman, without_ids};
use crate::support::{Said, install_for_users, install_runtime, run, succeed, until};

/// What runs in the containers.
const SERVER: &str = "trap 'exit 7' TERM; while :; do sleep 1; done";
/// What is to be the same of a scope, whoever has asked for it.
const SEEN: &str = "Slice ControlGroup Delegate LoadState ActiveState SubState Transient DefaultDependencies CPUAccounting \
                    MemoryAccounting TasksAccounting KillMode SendSIGKILL MemoryMax CPUQuotaPerSecUSec";
/// What each process of a cgroup is; a thread of the kernel's has no number in these namespaces.
const NAMES: &str =
    "for pid in $(grep -vx 0 /sys/fs/cgroup$CGROUP/cgroup.procs); do cat /proc/$pid/comm; done";

/// podman on such a host.
struct Engine<'a> {
    host: &'a Systemd,
    user: &'a Podman,
}

impl Engine<'_> {
    fn said(&self, name: &str, words: &[&str]) -> Said {
        let runtime = &self.user.both()[usize::from(name == "koya")];
        let all = [&["--cgroup-manager", "systemd"], words].concat();
        let command = self.user.podman(runtime, &all);
        Said::of(&self.host.within(&command).output().unwrap())
    }

    fn done(&self, name: &str, words: &[&str]) -> String {
        let said = self.said(name, words);
        assert_eq!(said.code, Some(0), "podman {}: {}", words.join(" "), said.errors);
        said.out.trim().to_owned()
    }

    /// What systemd knows of a scope.
    fn seen(&self, scope: &str, what: &str) -> String {
        let names = what.split_whitespace().collect::<Vec<_>>().join(",");
        self.host
            .script(&format!("systemctl show --property {names} {scope}"))
    }
}

#[test]
fn systemd_makes_the_scopes_of_containers() {
    let user = Podman::new();
    let host = Systemd::new();
    let engine = Engine {
        host: &host,
        user: &user,
    };
    let scopes = ["crun", "koya"].map(|name| {
        let words = [
            "run",
            "--detach",
            "--network",
            "none",
            "--memory",
            "100m",
            "--name",
            name,
            IMAGE,
        ];
        let id = engine.done(name, &[&words[..], &["sh", "-c", SERVER]].concat());
        format!("libpod-{id}.scope")
    });
    let [crun, koya] = scopes
        .each_ref()
        .map(|scope| without_ids(&engine.seen(scope, SEEN)));
    assert_eq!(koya, crun);
    for line in [
        "Slice=machine.slice",
        "ControlGroup=/machine.slice/libpod-ID.scope",
        "Delegate=yes",
        "ActiveState=active",
    ] {
        assert!(koya.lines().any(|seen| seen == line), "{line}: {koya}");
    }
    let scope = scopes[1].as_str();
    a_scope_holds_all_that_a_microvm_is(&host, scope);
    engine.done("koya", &["update", "--memory", "200m", "koya"]);
    let limit = engine.done("koya", &["exec", "koya", "cat", "/sys/fs/cgroup/memory.max"]);
    assert_eq!(limit, "209715200");
    let pids = engine.done("koya", &["stats", "--no-stream", "--format", "{{.PIDs}}", "koya"]);
    assert!(pids.parse::<u32>().unwrap() > 4, "{pids}");
    engine.done("koya", &["stop", "koya"]);
    assert_eq!(engine.done("koya", &["wait", "koya"]), "7");
    engine.done("koya", &["rm", "--all", "--force", "--time", "0"]);
    leaves_nothing(&host);
    systemd_is_asked_by_either_way(&host, &user);
    a_user_has_scopes_of_his_own_systemds(&host, &user);
}

/// And keeps it when systemd reads its units again.
fn a_scope_holds_all_that_a_microvm_is(host: &Systemd, scope: &str) {
    let inside = || {
        let names = host.script(&format!("CGROUP=/machine.slice/{scope}; {NAMES}"));
        let mut names: Vec<_> = names.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let before = inside();
    for name in ["koya-container", "koya-monitor", "koya-vmm", "virtiofsd"] {
        assert!(before.iter().any(|found| found == name), "{name}: {before:?}");
    }
    let view = || {
        host.script(&format!(
            "systemctl show --property ControlGroup,ActiveState,MemoryMax {scope}"
        ))
    };
    let seen = view();
    host.script("systemctl daemon-reload");
    assert_eq!((inside(), view()), (before, seen));
}

/// No unit that failed, no scope and no folder of a container or of its conmon.
fn leaves_nothing(host: &Systemd) {
    let script = "systemctl list-units --all --plain --no-legend 'libpod-*'; systemctl list-units --failed --plain --no-legend
                  find /sys/fs/cgroup/machine.slice -name 'libpod-*'";
    until("systemd has something left of the containers", || {
        host.script(script).is_empty()
    });
}

/// At its own socket, and on the bus where that is not to be had; and that the scope is gone before it is removed is no
/// fault.
fn systemd_is_asked_by_either_way(host: &Systemd, user: &Podman) {
    let bundle = bundle("one.slice:bundle:one");
    let runtime = user.runtime();
    for way in ["true", "mount --bind /dev/null /run/systemd/private"] {
        let script = format!(
            "cd $0; {way}; {} --log $0/log --systemd-cgroup run one",
            runtime.display()
        );
        let mut command = host.command("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script]);
        let said = Said::of(&command.arg(bundle.path("")).output().unwrap());
        assert_eq!(
            (said.out.as_str(), said.code),
            ("ran\n", Some(0)),
            "{way}: {said:?}"
        );
        let log = fs::read_to_string(bundle.path("log")).unwrap_or_default();
        assert!(!log.contains("scope"), "{way}: {log}");
        let left = host.script("systemctl list-units --all --plain --no-legend 'bundle-*'");
        assert_eq!(left, "", "{way}");
    }
}

/// A bundle whose container says that it ran.
fn bundle(cgroup: &str) -> Scratch {
    let home = Scratch::new();
    fs::create_dir_all(home.path("rootfs/bin")).unwrap();
    fs::copy("/bin/busybox", home.path("rootfs/bin/echo")).unwrap();
    succeed(Command::new("crun").arg("spec").current_dir(home.path("")));
    let config = fs::read_to_string(home.path("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["/bin/echo", "ran"]);
    config["linux"]["cgroupsPath"] = cgroup.into();
    home.file("config.json", config.to_string());
    home
}

/// A manager of his own, as the service user@UID.service has one, and podman with it. He stops the scope with what systemd
/// says it would send; systemd itself cannot, as it finds a thread of the kernel's without a number in it.
const HIS: &str = "useradd --user-group $GROUPS_ --no-create-home --home-dir $HIS $NAME
uid=$(id -u $NAME); run=/run/user/$uid; mkdir -p $run $HIS/units; chown $NAME: $run $HIS; chmod 700 $run
for unit in basic.target sockets.target shutdown.target timers.target paths.target dbus.socket dbus.service; do
    ln -s /usr/lib/systemd/user/$unit $HIS/units/$unit
done
systemd-run --quiet --unit user@$uid.service --uid $NAME --slice user-$uid.slice --property Type=notify --property Delegate=yes \
    --setenv HOME=$HIS --setenv XDG_RUNTIME_DIR=$run --setenv SYSTEMD_UNIT_PATH=$run/systemd/transient:$HIS/units \
    /lib/systemd/systemd --user --unit=basic.target
cd $HIS
his() { setpriv --reuid $NAME --regid $NAME --init-groups env -i HOME=$HIS XDG_RUNTIME_DIR=$run PATH=$PATH \"$@\"; }
podman() { his timeout 170 podman --log-level error --cgroup-manager systemd --runtime $RUNTIME \"$@\"; }
his systemctl --user start dbus.socket
podman import --quiet $IMAGE_TAR $IMAGE > /dev/null
id=$(podman run --detach --network none --name his $IMAGE sh -c \"$SERVER\")
his systemctl --user show --property ControlGroup,KillSignal libpod-$id.scope
CGROUP=$(his systemctl --user show --property ControlGroup --value libpod-$id.scope)
for pid in $(grep -vx 0 /sys/fs/cgroup$CGROUP/cgroup.procs); do cat /proc/$pid/comm; done | grep -c koya-
his kill -URG $(grep -vx 0 /sys/fs/cgroup$CGROUP/cgroup.procs)
podman wait his
podman rm his
his systemctl --user list-units --failed --plain --no-legend
his systemctl --user list-units --all --plain --no-legend \"libpod-$id.scope\"
test ! -e /sys/fs/cgroup$CGROUP";

fn a_user_has_scopes_of_his_own_systemds(host: &Systemd, user: &Podman) {
    const NAME: &str = "koya-scope";
    let home = Scratch::new();
    fs::set_permissions(home.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(home.path("his")).unwrap();
    install_for_users(&home.path("bin"), ("KOYA_RUNTIME", "koya-runtime"));
    fs::copy(user.home.path("image.tar"), home.path("image.tar")).unwrap();
    let groups = fs::read_to_string("/etc/group").unwrap();
    let mut command = host.command("sh");
    command
        .args(["-ec", HIS])
        .env(
            "GROUPS_",
            if groups.contains("\nkvm:") {
                "--groups kvm"
            } else {
                ""
            },
        )
        .env("HIS", home.path("his"))
        .env("NAME", NAME)
        .env("RUNTIME", home.path("bin/koya-runtime"))
        .env("IMAGE_TAR", home.path("image.tar"))
        .env("IMAGE", IMAGE)
        .env("SERVER", SERVER);
    let said = Said::of(&command.output().unwrap());
    let uid = run(&format!("id -u {NAME}"));
    // His manager still runs.
    let _ = Command::new("userdel").args(["--force", NAME]).output();
    assert_eq!(said.code, Some(0), "{said:?}");
    let uid = uid.trim();
    let wanted = format!(
        "KillSignal=23\nControlGroup=/user.slice/user-{uid}.slice/user@{uid}.service/user.slice/libpod-ID.scope\n3\n7\nID\n"
    );
    let sorted = |text: &str| {
        let mut lines: Vec<_> = without_ids(text).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(
        sorted(&said.out.replace("\nhis\n", "\nID\n")),
        sorted(&wanted),
        "{said:?}"
    );
}

/// On a host without systemd.
#[test]
fn who_asks_for_systemd_where_there_is_none_is_told_so() {
    let home = bundle("machine.slice:libpod:1");
    let ask = |runtime: &str| {
        let script = "mount -t tmpfs tmpfs /run && exec $0 --systemd-cgroup run one";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, runtime]);
        Said::of(&command.current_dir(home.path("")).output().unwrap())
    };
    assert_eq!(ask("crun").code, Some(1));
    fs::create_dir(home.path("bin")).unwrap();
    let koya = ask(install_runtime(&home.path("bin")).to_str().unwrap());
    assert_eq!(koya.code, Some(1), "{koya:?}");
    assert!(
        koya.errors
            .starts_with("cannot make the scope libpod-1.scope: cannot reach systemd at "),
        "{koya:?}"
    );
}
