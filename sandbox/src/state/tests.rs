use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::container::{ContainerSpec, ProcessSpec};

struct Home(PathBuf);

impl Home {
    fn new(name: &str) -> (Self, Records) {
        let path = std::env::temp_dir().join(format!("koya-state-{}-{name}", std::process::id()));
        let records = Records::at(&path).unwrap();
        (Self(path), records)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn settings() -> Settings {
    let process = ProcessSpec {
        args: vec!["sh".into()],
        ..ProcessSpec::default()
    };
    Settings {
        image: "debian".into(),
        image_id: String::new(),
        spec: ContainerSpec {
            process,
            ..ContainerSpec::default()
        },
        user: String::new(),
        init: false,
        network: Default::default(),
        volumes: Vec::new(),
        stop_signal: 15,
        stop_timeout: 10,
        open_stdin: false,
        stdin_once: false,
        auto_remove: false,
        restart: RestartPolicy::No,
        health: None,
        labels: BTreeMap::new(),
        log: LogSettings::default(),
    }
}

fn alone(name: Option<&str>) -> NewContainer {
    let vm = VmSettings {
        vcpus: 1,
        memory_mib: 128,
        storage: 1 << 30,
        rooms: 2,
        cards: 0,
    };
    NewContainer {
        name: name.map(str::to_owned),
        place: Place::New(vm),
        settings: settings(),
    }
}

fn within(vm: &str) -> NewContainer {
    NewContainer {
        place: Place::Vm(vm.to_owned()),
        ..alone(None)
    }
}

#[test]
fn nobody_else_looks_into_a_container() {
    use std::os::unix::fs::PermissionsExt;
    let (home, records) = Home::new("modes");
    let container = records.create(alone(None)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = records.folder(&container.id);
    assert_eq!((mode(&home.0.join("containers")), mode(&folder)), (0o700, 0o700));
    assert_eq!(mode(&folder.join("state.json")), 0o600);
    assert_eq!(mode(&records.vm_folder(&container.vm)), 0o700);
}

#[test]
fn what_a_dead_process_left_half_made_is_removed_by_the_next() {
    let (home, records) = Home::new("sweep");
    let folder = |name: &str| home.0.join("containers").join(name);
    fs::create_dir_all(folder(".gone-0123456789ab/x")).unwrap();
    fs::create_dir_all(folder("0123456789ab")).unwrap();
    fs::create_dir_all(home.0.join("vms/0123456789ab")).unwrap();
    // Neither is a half-made container of ours.
    fs::create_dir_all(folder("photographs")).unwrap();
    fs::create_dir_all(folder("ba9876543210")).unwrap();
    fs::write(folder("ba9876543210/state.json"), r#"{"version": 9}"#).unwrap();
    let container = records.create(alone(None)).unwrap();
    let names = |folder: &str| {
        let mut names: Vec<_> = fs::read_dir(home.0.join(folder))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let mut kept = vec![container.id.clone(), "ba9876543210".into(), "photographs".into()];
    kept.sort();
    assert_eq!(names("containers"), kept);
    // The one that cannot be read might live in any microVM: none is removed.
    assert_eq!(names("vms").len(), 2);
    fs::remove_dir_all(folder("ba9876543210")).unwrap();
    records.create(within(&container.vm)).unwrap();
    assert_eq!(names("vms"), [container.vm]);
}

#[test]
fn names_are_unique_and_free_again_after_removal() {
    let (_home, records) = Home::new("names");
    let first = records.create(alone(Some("web"))).unwrap();
    let error = records.create(alone(Some("web"))).unwrap_err();
    assert!(
        matches!(&error, StateError::NameTaken { id, .. } if *id == first.id),
        "{error}"
    );
    records.forget(&first).unwrap();
    records.create(alone(Some("web"))).unwrap();
    for name in ["", "-a", "a/b", "a b", "ä", &"x".repeat(64)] {
        let error = records.create(alone(Some(name))).unwrap_err();
        assert!(matches!(error, StateError::BadName(_)), "{name:?}");
    }
}

#[test]
fn a_container_whose_monitor_died_is_dead() {
    let (_home, records) = Home::new("died");
    let mut container = records.create(alone(Some("web"))).unwrap();
    container.status = Status::Running;
    container.pid = Some(2);
    records.save(&container).unwrap();
    let lock = records.lock_vm(&container.vm).unwrap().unwrap();
    assert!(records.lock_vm(&container.vm).unwrap().is_none());
    let found = records.find("web").unwrap();
    assert_eq!((found.status, found.pid), (Status::Running, Some(2)));

    drop(lock);
    let found = records.find("web").unwrap();
    assert_eq!((found.status, found.pid), (Status::Dead, None));
}

#[test]
fn a_microvm_goes_with_its_last_container() {
    let (_home, records) = Home::new("vms");
    let first = records.create(alone(Some("web"))).unwrap();
    let second = records.create(within(&first.vm)).unwrap();
    assert_eq!(
        (first.vm.as_str(), second.vm.as_str()),
        (first.id.as_str(), first.id.as_str())
    );
    records.forget(&first).unwrap();
    assert!(records.vm(&second.vm).is_some());
    records.forget(&second).unwrap();
    assert!(records.vm(&second.vm).is_none());
    let error = records.create(within(&second.vm)).unwrap_err();
    assert!(matches!(error, StateError::NoVm(_)), "{error}");
}

#[test]
fn ids_can_be_shortened_as_long_as_they_are_clear() {
    let (_home, records) = Home::new("ids");
    let first = records.create(alone(None)).unwrap();
    let second = records.create(alone(None)).unwrap();
    assert_eq!(records.find(&first.id[..11]).unwrap(), first);
    assert!(matches!(records.find(""), Err(StateError::Unknown(_))));
    assert_eq!(records.list().unwrap().len(), 2);
    assert_ne!(first.id, second.id);
}

#[test]
fn rubbish_among_the_folders_is_nobodys_container() {
    let (home, records) = Home::new("rubbish");
    let folder = home.0.join("containers");
    fs::create_dir_all(folder.join("half-made")).unwrap();
    fs::create_dir_all(folder.join("abcdefabcdef")).unwrap();
    fs::write(folder.join("abcdefabcdef/state.json"), "{").unwrap();
    fs::write(folder.join("file"), "").unwrap();
    assert_eq!(records.list().unwrap(), []);
}

#[test]
fn only_who_would_be_started_again_is_asked_to_stay() {
    let (_home, records) = Home::new("stay");
    let mut container = records.create(alone(None)).unwrap();
    records.ask_to_stay(&container).unwrap();
    assert!(!records.stays(&container.id), "it has no restart policy");
    container.settings.restart = RestartPolicy::Always;
    records.ask_to_stay(&container).unwrap();
    assert!(records.stays(&container.id));
    records.forget_stay(&container.id);
    assert!(!records.stays(&container.id));
    records.forget(&container).unwrap();
    assert!(records.stays(&container.id), "one that is gone");
    records.ask_to_stay(&container).unwrap();
}
