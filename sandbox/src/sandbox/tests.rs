//! A VMM that is played by a script, and what comes of it.

use std::fs;

use super::*;

/// Boots a VMM that is this script, in a folder of its own.
fn start(name: &str, script: &str, abandoned: impl Fn() -> bool) -> (PathBuf, StartError) {
    let folder = std::env::temp_dir().join(format!("koya-sandbox-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let vmm = folder.join("vmm");
    fs::write(&vmm, format!("#!/bin/sh\n{script}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&vmm, mode).unwrap();
    let agent = folder.join("agent");
    fs::write(&agent, "").unwrap();
    let parts = Parts {
        vmm,
        kernel: "/nowhere".into(),
        agent,
    };
    let spec = SandboxSpec {
        vcpus: 1,
        memory_mib: 128,
        disks: Vec::new(),
        share: None,
        network: None,
        templates: false,
    };
    let started = Sandbox::start(&parts, &spec, &folder, &folder, abandoned, drop);
    let error = started.err().unwrap();
    // Nobody can call any more.
    assert!(!folder.join("v.sock_902").exists());
    (folder, error)
}

#[test]
fn a_vmm_that_ends_is_an_error_with_its_words() {
    let (folder, error) = start("ends", "echo 'koya-vmm: no KVM here' >&2; exit 1", || false);
    assert!(
        matches!(&error, StartError::Ended(words) if words == "koya-vmm: no KVM here"),
        "{error}"
    );
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_guest_that_gives_up_by_itself_may_have_another_chance() {
    let (folder, error) = start("panics", "echo 'Kernel panic - not syncing'", || false);
    assert!(
        error.is_by_chance() && error.to_string().contains("not syncing"),
        "{error}"
    );
    fs::remove_dir_all(folder).unwrap();
    for script in ["echo hm; exit 1", "kill -9 $$", "echo 'koya-vmm: no' >&2"] {
        let (folder, error) = start("fails", script, || false);
        assert!(
            matches!(error, StartError::Ended(_)) && !error.is_by_chance(),
            "{error}"
        );
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn whoever_calls_and_is_no_agent_is_an_error_and_so_is_nobody() {
    // Plays a VMM whose guest connects, says something and ends.
    let call = "exec python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); s.connect(\"v.sock_902\"); \
                s.sendall(b\"x\" * 4096)'";
    let (folder, error) = start("calls", call, || false);
    assert!(matches!(error, StartError::Agent(_)), "{error}");
    fs::remove_dir_all(folder).unwrap();
    let (folder, error) = start("silent", "exec sleep 1000", || true);
    assert!(matches!(error, StartError::Abandoned), "{error}");
    fs::remove_dir_all(folder).unwrap();
}
