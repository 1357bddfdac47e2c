//! MicroVMs that go on from a template, and are somebody of their own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use koya_tests::vm::from_env;
use serde_json::Value;

use super::{User, ended, text, told, until};
use crate::support::succeed;

/// What tells two guests apart: random bytes, the boot id, and what time it is.
const SELF: &str = "busybox head -c 16 /dev/urandom | busybox od -An -tx1; cat /proc/sys/kernel/random/boot_id; \
                    busybox date +%s";

impl User {
    /// Runs a script in a container that is to succeed; what it says, and what `--timings` tell.
    fn timed(&self, options: &[&str], script: &str) -> (String, String) {
        let mut all = vec!["--timings"];
        all.extend(options);
        let (out, errors, code) = told(&self.run(&all, &["sh", "-c", script]));
        assert_eq!(code, Some(0), "{out}{errors}");
        (out, errors)
    }

    /// The same, in a fork.
    fn forked(&self, options: &[&str], script: &str) -> String {
        let (out, timings) = self.timed(options, script);
        assert!(timings.contains("guest is forked"), "{out}{timings}");
        out
    }

    /// Has a template made for microVMs of one size.
    fn prepare(&self, options: &[&str]) {
        let (_, first) = self.timed(options, "true");
        assert!(!first.contains("guest is forked"), "{first}");
        let (_, second) = self.timed(options, "true");
        let made = second.find("template is made");
        assert!(
            made.is_some() && made < second.find("guest is forked"),
            "{second}"
        );
    }

    /// The names in the folder of templates.
    fn templates(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.path("home/shared/templates"));
        let entries = entries.into_iter().flatten().flatten();
        entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }
}

/// Every fork writes much the same before its container runs: the first one is asked what.
#[test]
fn forks_have_what_others_have_written_before_they_run() {
    let user = User::new();
    let small = ["--network", "none", "--vm-memory", "128m"];
    user.timed(&small, "true");
    // The memory of one with a volume is a copy, which tells nothing.
    let volume = format!("{}:/data", user.home.path("home").display());
    let with_volume = [&small[..], &["-v", &volume]].concat();
    let (_, timings) = user.timed(&with_volume, "true");
    assert!(timings.contains("guest is forked"), "{timings}");
    let template = fs::read_dir(user.home.path("home/shared/templates")).unwrap();
    let template = template
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.is_dir());
    let set = template.unwrap().join("working-set");
    assert!(!set.exists(), "{:?} is of no use", fs::read_to_string(&set));
    let sleep = ["busybox", "sleep", "1000"];
    user.detach("first", &small, &sleep);
    let noted = fs::read_to_string(&set).unwrap();
    assert!(noted.contains("[["), "{noted}");
    let config = || {
        let vms = fs::read_dir(user.home.path("home/vms")).unwrap().flatten();
        let configs = vms.map(|vm| fs::read_to_string(vm.path().join("vm.json")).unwrap());
        configs.collect::<Vec<_>>().concat()
    };
    user.says(&["rm", "-f", "first"]);
    user.detach("second", &small, &sleep);
    assert!(config().contains(set.to_str().unwrap()), "{}", config());
    assert_eq!(
        user.says(&["exec", "second", "busybox", "echo", "here"]),
        "here\n"
    );
    user.says(&["rm", "-f", "second"]);
    // One that is damaged costs nobody anything.
    fs::write(&set, "nonsense").unwrap();
    assert_eq!(user.forked(&small, "echo started"), "started\n");
}

#[test]
fn forks_are_individuals_with_the_right_time_and_all_that_a_container_has() {
    let user = User::new();
    let data = user.home.path("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("hello"), "hello from the host\n").unwrap();
    let small = ["--network", "none", "--vm-memory", "128m"];
    user.prepare(&small);
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let said = user.forked(&small, SELF);
        let [random, boot, time] = said.lines().collect::<Vec<_>>()[..] else {
            panic!("{said}")
        };
        assert!(random.len() > 40 && boot.len() == 36, "{said}");
        assert!(
            seen.insert(random.to_owned()) && seen.insert(boot.to_owned()),
            "{said} {seen:?}"
        );
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(
            now.abs_diff(time.parse().unwrap()) < 60,
            "{said} instead of {now}"
        );
    }
    // Another size is another template.
    let (_, timings) = user.timed(&["--network", "none", "--vm-memory", "192m"], "true");
    assert!(!timings.contains("forked"), "{timings}");

    // A volume, whose server has the guest's memory, and the disk that takes what is written.
    let volume = format!("{}:/data", data.display());
    let script = "cat /data/hello; echo written > /data/back; busybox dd if=/dev/zero of=/big bs=1M count=20 2>&1 | \
                  busybox tail -n 1; sha256sum /big";
    let mut options = small.to_vec();
    options.extend(["-v", &volume]);
    let said = user.forked(&options, script);
    assert!(said.starts_with("hello from the host\n"), "{said}");
    let zeroes = "cd52d81e25f372e6fa4db2c0dfceb59862c1969cab17096da352b34950c973cc";
    assert!(said.contains(zeroes), "{said}");
    assert_eq!(fs::read_to_string(data.join("back")).unwrap(), "written\n");

    // A network: the other one answers by its name.
    user.says(&["network", "create", "inner"]);
    let serve = "busybox nc -ll -p 80 -e busybox echo web-answers";
    let options = ["--vm-memory", "128m", "--network", "inner"];
    user.detach("web", &options, &["sh", "-c", serve]);
    let ask = "until busybox nc web 80 < /dev/null; do sleep 1; done; busybox ip -4 addr show eth0";
    let said = user.forked(&options, ask);
    assert!(
        said.starts_with("web-answers\n") && said.contains("inet "),
        "{said}"
    );
    user.says(&["rm", "-f", "web"]);
    user.says(&["network", "rm", "inner"]);
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn two_processors_go_on_together() {
    let user = User::new();
    let options = ["--network", "none", "--vm-memory", "256m", "--vcpus", "2"];
    user.prepare(&options);
    let script = "busybox nproc; for n in 1 2; do (i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo $i) & done; wait";
    assert_eq!(user.forked(&options, script), "2\n2000\n2000\n");
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn one_that_was_killed_while_it_made_a_template_is_in_nobodys_way() {
    let user = User::new();
    // A VMM that takes its time for a template, as long as it is asked to.
    let (vmm, asked) = (user.home.path("vmm"), user.home.path("slow"));
    let script = format!(
        "#!/bin/sh\n[ -e {} ] && grep -q koya.template vm.json && exec sleep 1000\nexec {} \"$@\"\n",
        asked.display(),
        from_env("KOYA_VMM").display()
    );
    fs::write(&vmm, script).unwrap();
    fs::set_permissions(&vmm, fs::Permissions::from_mode(0o755)).unwrap();
    let image = user.image();
    let run = |options: &[&str], words: &[&str]| {
        let mut all = vec!["run", "--timings", "--network", "none", "--vm-memory", "128m"];
        all.extend(options);
        all.push(image.to_str().unwrap());
        all.extend(words);
        let mut command = user.koya(&all);
        command
            .env("KOYA_VMM", &vmm)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let timings = || {
        let (out, timings, code) = told(&ended(run(&["--rm"], &["true"])));
        assert_eq!(code, Some(0), "{out}{timings}");
        timings
    };
    timings();
    fs::write(&asked, "").unwrap();
    let making = run(&["--name", "web"], &["sleep", "1000"]);
    until("no template is being made", || {
        user.templates().contains(&"new".to_owned())
    });
    let vm = || {
        let vms = fs::read_dir(user.home.path("home/vms")).unwrap();
        let states = vms.flatten().map(|vm| vm.path().join("state.json"));
        let states = states.filter_map(|path| serde_json::from_slice::<Value>(&fs::read(path).ok()?).ok());
        states.last().unwrap_or_default()
    };
    until("the monitor is not known", || vm()["monitorPid"].is_u64());
    let monitor = vm()["monitorPid"].to_string();
    succeed(Command::new("kill").args(["-KILL", &monitor]));
    assert_ne!(ended(making).status.code(), Some(0));
    user.says(&["rm", "-f", "web"]);
    assert!(user.templates().contains(&"new".to_owned()));
    fs::remove_file(&asked).unwrap();
    let told = timings();
    assert!(
        told.contains("template is made") && told.contains("guest is forked"),
        "{told}"
    );
    let left = user.templates();
    assert!(left.len() == 2 && !left.contains(&"new".to_owned()), "{left:?}");
    assert!(user.has_nothing_left(), "something is left behind");
}

#[test]
fn a_template_that_is_broken_or_not_wanted_costs_nobody_a_start() {
    let user = User::new();
    let size = ["--network", "none", "--vm-memory", "128m"];
    user.prepare(&size);
    let settings = user.home.path("config.toml");
    fs::write(&settings, "templates = false\n").unwrap();
    let image = user.image();
    let mut words = vec!["run", "--rm", "--timings"];
    words.extend(size);
    words.extend([image.to_str().unwrap(), "true"]);
    let output = user
        .koya(&words)
        .env("KOYA_CONFIG", &settings)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let timings = text(&output.stderr);
    assert!(
        output.status.success() && !timings.contains("forked"),
        "{timings}"
    );

    // Somebody has cut the memory short.
    let folder = user.home.path("home/shared/templates");
    let name = user.templates().into_iter().find(|name| name != "lock").unwrap();
    fs::write(folder.join(&name).join("memory"), "short").unwrap();
    let (_, timings) = user.timed(&size, "true");
    assert!(!timings.contains("forked"), "{timings}");
    assert!(!folder.join(&name).exists() && folder.join(format!("{name}.failed")).exists());
    assert!(user.has_nothing_left(), "something is left behind");
}
