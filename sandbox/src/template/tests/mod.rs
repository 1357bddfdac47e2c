//! Starts of microVMs whose VMM is played by a script, and whose agent by this process.

#![allow(clippy::arithmetic_side_effects)]

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use koya_proto::v1;
use serde_json::Value;
use ttrpc::TtrpcContext;

use super::*;
use crate::sandbox::{Disk, Sandbox};

/// An agent that notes what makes its guest somebody else.
#[derive(Default)]
struct Agent {
    entropy: Mutex<Vec<Vec<u8>>>,
    clock: Mutex<Vec<i64>>,
}

impl v1::Agent for Agent {
    fn version(&self, _: &TtrpcContext, request: v1::VersionRequest) -> ttrpc::Result<v1::VersionResponse> {
        Ok(v1::VersionResponse {
            protocol_major: request.protocol_major,
            ..Default::default()
        })
    }

    fn reseed(&self, _: &TtrpcContext, request: v1::ReseedRequest) -> ttrpc::Result<v1::Empty> {
        self.entropy.lock().unwrap().push(request.entropy);
        Ok(v1::Empty::new())
    }

    fn set_clock(&self, _: &TtrpcContext, request: v1::SetClockRequest) -> ttrpc::Result<v1::Empty> {
        self.clock.lock().unwrap().push(request.seconds);
        Ok(v1::Empty::new())
    }
}

/// Somebody's sandboxes.
struct Place {
    base: PathBuf,
    parts: Parts,
    spec: SandboxSpec,
    agent: Arc<Agent>,
    _server: ttrpc::Server,
}

impl Place {
    fn new(name: &str) -> Self {
        let base = std::env::temp_dir().join(format!("koya-template-{}-{name}", std::process::id()));
        for folder in ["vm", "shared"] {
            fs::create_dir_all(base.join(folder)).unwrap();
        }
        for part in ["vmm", "kernel", "agent"] {
            fs::write(base.join(part), include_str!("vmm.py")).unwrap();
        }
        fs::set_permissions(base.join("vmm"), fs::Permissions::from_mode(0o755)).unwrap();
        let agent = Arc::new(Agent::default());
        let address = format!("unix://{}", base.join("rpc.sock").display());
        let server = ttrpc::Server::new().bind(&address).unwrap();
        let mut server = server.register_service(v1::create_agent(Arc::clone(&agent) as _));
        server.start().unwrap();
        let disk = Disk {
            serial: "image".to_owned(),
            path: "/image".into(),
            read_only: true,
        };
        Self {
            parts: Parts {
                vmm: base.join("vmm"),
                kernel: base.join("kernel"),
                agent: base.join("agent"),
            },
            spec: SandboxSpec {
                vcpus: 2,
                memory_mib: 256,
                disks: vec![disk],
                share: None,
                network: None,
                templates: true,
            },
            base,
            agent,
            _server: server,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    fn templates(&self) -> PathBuf {
        self.path("shared/templates")
    }

    /// The only template.
    fn template(&self) -> PathBuf {
        let shared = self.path("shared");
        Templates::of(&self.parts, &self.spec, &shared)
            .unwrap()
            .template
            .path
    }

    /// What is in the folder of templates; names begin with the template's, if they can.
    fn kept(&self) -> Vec<String> {
        let template = self.template();
        let key = template.file_name().unwrap().to_str().unwrap();
        let entries = fs::read_dir(self.templates()).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().unwrap().replace(key, "KEY"));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    fn attempt(&self, abandoned: impl Fn() -> bool) -> (Result<Sandbox, StartError>, Vec<Progress>) {
        let (vm, shared) = (self.path("vm"), self.path("shared"));
        let mut told = Vec::new();
        let tell = |progress| told.push(progress);
        let started = Sandbox::start(&self.parts, &self.spec, &vm, &shared, abandoned, tell);
        // Which process it is, nobody knows before.
        told.retain(|progress| !matches!(progress, Progress::Spawned(_) | Progress::TemplateBegun(_)));
        (started, told)
    }

    /// A good start; what it told.
    fn start(&self) -> Vec<Progress> {
        let (started, told) = self.attempt(|| false);
        let sandbox = started.unwrap();
        assert!(!sandbox.has_ended(Duration::ZERO));
        told
    }

    /// With what VMMs were started since.
    fn configs(&self) -> Vec<Value> {
        let told = fs::read_to_string(self.path("told")).unwrap_or_default();
        let _ = fs::remove_file(self.path("told"));
        told.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Which of these were boots, boots of a template, and forks.
    fn kinds(&self) -> Vec<&'static str> {
        let configs = self.configs();
        let kind = |config: &Value| match config["boot-source"]["boot_args"].as_str() {
            Some(line) if line.contains("koya.template") => "template",
            Some(_) => "boot",
            None => "fork",
        };
        configs.iter().map(kind).collect()
    }

    fn ask(&self, name: &str) {
        fs::write(self.path(name), "").unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

#[test]
fn the_first_start_boots_the_second_makes_a_template_and_all_others_fork_it() {
    let place = Place::new("policy");
    assert_eq!(place.start(), []);
    assert_eq!(place.kept(), ["KEY.wanted"]);
    let first = place.configs();
    assert_eq!(first.len(), 1);
    assert_eq!(first[0]["boot-source"]["boot_args"], config::BOOT_ARGS);
    // One disk is there; as many devices may join it as may join a fork with that.
    assert_eq!(first[0]["machine-config"]["spare_devices"], 16);
    assert!(place.agent.entropy.lock().unwrap().is_empty());

    assert_eq!(place.start(), [Progress::TemplateMade, Progress::Forked]);
    assert_eq!(place.kept(), ["KEY", "lock"]);
    let template = place.template();
    assert_eq!(
        fs::metadata(&template).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let mut files: Vec<_> = fs::read_dir(&template)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    files.sort();
    assert_eq!(files, ["memory", "snapshot"]);
    let asked = fs::read_to_string(place.path("asked")).unwrap();
    assert_eq!(asked, "PATCH /vm HTTP/1.1\nPUT /snapshot/create HTTP/1.1\n");

    assert_eq!(place.start(), [Progress::Forked]);
    let configs = place.configs();
    let [made, forked, again] = configs.as_slice() else {
        panic!("{configs:?}")
    };
    let line = made["boot-source"]["boot_args"].as_str().unwrap();
    assert_eq!(line, format!("{} koya.template", config::BOOT_ARGS));
    let machine = serde_json::json!({ "vcpu_count": 2, "mem_size_mib": 256, "spare_devices": 17 });
    assert_eq!(made["machine-config"], machine);
    assert_eq!(made.get("drives"), None);
    assert_eq!(made["vsock"], forked["vsock"]);
    assert_eq!(forked, again);
    let snapshot = serde_json::json!({
        "snapshot_path": template.join("snapshot"),
        "mem_backend": { "backend_type": "File", "backend_path": template.join("memory") },
    });
    assert_eq!(forked["snapshot"], snapshot);
    assert_eq!(forked["drives"][0]["drive_id"], "image");
    for key in ["boot-source", "machine-config"] {
        assert_eq!(forked.get(key), None, "{key}");
    }

    // Each of the two is somebody of its own, now.
    let entropy = place.agent.entropy.lock().unwrap();
    assert_eq!(entropy.len(), 2);
    assert!(
        entropy[0] != entropy[1] && entropy.iter().all(|bytes| bytes.len() == 64),
        "{entropy:?}"
    );
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let clock = place.agent.clock.lock().unwrap();
    assert!(
        clock.len() == 2 && clock.iter().all(|set| now.abs_diff(*set as u64) < 60),
        "{clock:?}"
    );
}

/// Something of one container's is missing: the others go on from the template.
#[test]
fn a_fork_that_lacks_something_leaves_the_template() {
    let place = Place::new("lacks");
    place.start();
    place.start();
    let before = place.kept();
    place.ask("lacks");
    let (started, _) = place.attempt(|| false);
    let error = started.err().unwrap();
    assert!(
        error.is_by_chance() && one_line(&error).contains("no such file"),
        "{error}"
    );
    assert_eq!(place.kept(), before);
}

#[test]
fn a_fork_that_fails_takes_the_template_along_and_the_next_start_boots() {
    let place = Place::new("broken");
    place.start();
    place.start();
    place.ask("broken");
    let (started, told) = place.attempt(|| false);
    let error = started.err().unwrap();
    assert!(error.is_by_chance() && told.is_empty(), "{error}: {told:?}");
    let words = one_line(&error);
    assert!(
        words.contains("cannot go on from the template") && words.contains("not of this host"),
        "{words}"
    );
    assert_eq!(place.kept(), ["KEY.failed", "lock"]);
    let kept = fs::read_to_string(place.templates().join(place.template()).with_extension("failed")).unwrap();
    assert_eq!(kept.trim(), words);
    place.configs();
    // Not once more, nor does it make another one.
    assert_eq!((place.start(), place.start()), (vec![], vec![]));
    assert_eq!(place.kinds(), ["boot", "boot"]);
    // Until what was wrong may have been mended.
    fs::remove_file(place.path("broken")).unwrap();
    let mark = File::options()
        .write(true)
        .open(place.template().with_extension("failed"))
        .unwrap();
    mark.set_modified(SystemTime::now() - RESPITE).unwrap();
    assert_eq!(place.start(), [Progress::TemplateMade, Progress::Forked]);
    assert_eq!(place.kept(), ["KEY", "lock"]);
}

#[test]
fn a_template_that_cannot_be_made_is_told_once_and_costs_no_start() {
    let place = Place::new("full");
    place.ask("full");
    place.start();
    let told = place.start();
    let [Progress::NoTemplate(words)] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert!(
        words.contains("refuses /snapshot/create: no space left"),
        "{words}"
    );
    assert_eq!(place.kept(), ["KEY.failed", "KEY.wanted", "lock"]);
    assert_eq!(place.start(), []);
    assert_eq!(place.kinds(), ["boot", "template", "boot", "boot"]);
    // A VMM that does not know what it is asked for.
    let place = Place::new("old");
    place.start();
    fs::write(
        place.path("vmm"),
        "#!/bin/sh\ngrep -qF koya.template vm.json && echo 'unknown field' >&2 && exit 1\nexec sleep 1000",
    )
    .unwrap();
    place.start_and_leave();
}

impl Place {
    /// Two starts of a VMM whose agent never calls, and which is given up when it does not make a template.
    fn start_and_leave(&self) {
        let mut told = Vec::new();
        for _ in 0..2 {
            let begun = std::time::Instant::now();
            let (started, more) = self.attempt(|| begun.elapsed() > Duration::from_millis(500));
            assert!(matches!(started, Err(StartError::Abandoned)));
            told.extend(more);
        }
        let [Progress::NoTemplate(words)] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert!(words.contains("unknown field"), "{words}");
    }
}

#[test]
fn whoever_leaves_while_one_is_made_leaves_nothing_and_the_next_one_makes_it() {
    let place = Place::new("leaves");
    place.start();
    place.ask("silent");
    // And somebody who was killed in the middle of it left this.
    fs::create_dir(place.templates().join(NEW)).unwrap();
    fs::write(place.templates().join(NEW).join(MEMORY), "half").unwrap();
    let (started, told) = place.attempt(|| true);
    assert!(matches!(started, Err(StartError::Abandoned)) && told.is_empty());
    assert_eq!(place.kept(), ["KEY.wanted", "lock"]);
    fs::remove_file(place.path("silent")).unwrap();
    assert_eq!(place.start(), [Progress::TemplateMade, Progress::Forked]);
    // Whoever leaves a fork does not take the template along.
    place.ask("silent");
    let (started, _) = place.attempt(|| true);
    assert!(matches!(started, Err(StartError::Abandoned)));
    assert_eq!(place.kept(), ["KEY", "lock"]);
}

#[test]
fn nobody_waits_for_somebody_else_who_makes_one() {
    let place = Place::new("lock");
    place.start();
    let shared = place.path("shared");
    let templates = Templates::of(&place.parts, &place.spec, &shared).unwrap();
    let lock = templates.lock().unwrap();
    assert_eq!(place.start(), []);
    drop(lock);
    assert_eq!(place.start(), [Progress::TemplateMade, Progress::Forked]);
}

#[test]
fn who_is_not_to_be_forked_or_is_too_large_boots_and_leaves_no_mark() {
    let mut place = Place::new("off");
    place.spec.templates = false;
    assert_eq!((place.start(), place.start()), (vec![], vec![]));
    place.spec.templates = true;
    let disk = place.spec.disks[0].clone();
    place.spec.disks = vec![disk; 18];
    assert_eq!(place.start(), []);
    assert_eq!(place.kinds(), ["boot"; 3]);
    assert!(!place.templates().exists());
    place.spec.disks.truncate(17);
    assert_eq!(place.start(), []);
    assert_eq!(place.kept(), ["KEY.wanted"]);
}

#[test]
fn the_eight_used_last_are_kept_and_nothing_of_another_boot() {
    let place = Place::new("tidy");
    let folder = place.templates();
    let used = |name: &str, ago: u64| {
        let path = folder.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(SNAPSHOT), "").unwrap();
        let time = SystemTime::now() - Duration::from_secs(ago);
        File::open(path).unwrap().set_modified(time).unwrap();
    };
    for number in 0..10 {
        used(&format!("0123abcd-{number}"), 100 + number);
    }
    used("0123abcd-own", 1000);
    used("99999999-other", 0);
    fs::create_dir(folder.join(NEW)).unwrap();
    for mark in ["0123abcd-1.failed", "99999999-other.wanted", LOCK] {
        fs::write(folder.join(mark), "").unwrap();
    }
    tidy::remove_stale(&folder, "0123abcd-");
    assert!(folder.join("0123abcd-9").exists() && folder.join(LOCK).exists());
    for gone in ["99999999-other", "99999999-other.wanted", NEW] {
        assert!(!folder.join(gone).exists(), "{gone}");
    }
    tidy::keep_newest(&folder, &folder.join("0123abcd-own"));
    let left: Vec<_> = (0..10)
        .filter(|number| folder.join(format!("0123abcd-{number}")).exists())
        .collect();
    assert_eq!(left, [0, 1, 2, 3, 4, 5, 6]);
    assert!(folder.join("0123abcd-own").exists() && folder.join("0123abcd-1.failed").exists());
}
