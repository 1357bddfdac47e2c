//! Pods: several containers in one microVM.

use std::fs;

use super::{IMAGE, Podman, is_nothing_left, pids_of, until};

/// Can be heard, and stays until it is asked to end.
const STAYS: &str = "trap 'exit 0' TERM; httpd -p 9000 -h /tmp; while :; do sleep 1; done";
/// Serves a page, and stays.
const SERVES: &str =
    "trap 'exit 0' TERM; echo from one > /tmp/page; httpd -p 8000 -h /tmp; while :; do sleep 1; done";

#[test]
fn the_containers_of_a_pod_share_a_microvm() {
    let user = Podman::new();
    fs::create_dir(user.home.path("data")).unwrap();
    fs::write(user.home.path("data/note"), "from the host\n").unwrap();
    for (runtime, name, port) in [(0, "crun", "18190:8000"), (1, "koya", "18191:8000")] {
        let said = |words: &[&str]| {
            let said = user.said(&user.both()[runtime], words);
            assert_eq!(said.code, Some(0), "podman {}: {said:?}", words.join(" "));
        };
        // podman 4.3 without systemd forbids all devices in a pod's own cgroup, and crun makes some.
        said(&[
            "pod",
            "create",
            "--name",
            name,
            "--publish",
            port,
            "--share-parent=false",
        ]);
        let one = format!("{name}-one");
        said(&[
            "run", "--detach", "--pod", name, "--name", &one, IMAGE, "sh", "-c", SERVES,
        ]);
    }
    in_a_pod(&user);
    beside_a_container(&user);
    ends(&user);
}

/// What is the same in all containers of a pod, and what is each one's own.
fn in_a_pod(user: &Podman) {
    let volume = format!("{}:/data", user.home.path("data").display());
    let run = |options: &[&str], script: &str| {
        let mut words = vec!["run", "--rm", "--pod", "{}"];
        words.extend(options);
        words.extend([IMAGE, "sh", "-c", script]);
        user.same_of(&words)
    };
    let said = run(
        &[],
        "wget -q -O - http://127.0.0.1:8000/page; hostname; ip -o link | wc -l",
    );
    assert_eq!(
        (said.code, said.out.lines().next()),
        (Some(0), Some("from one")),
        "{said:?}"
    );
    // Files that come and go with a container, beside those of others.
    let said = run(
        &["--volume", &volume],
        "cat /data/note; echo written > /data/back; ls /data; exit 3",
    );
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(
        fs::read_to_string(user.home.path("data/back")).unwrap(),
        "written\n"
    );
    let read_only = format!("{volume}:ro");
    run(&["--volume", &read_only], "touch /data/x; ls /data");
    assert!(!user.home.path("data/x").exists());
    run(
        &["--read-only", "--user", "web", "--memory", "64m"],
        "id; touch /x; cat /sys/fs/cgroup/memory.max",
    );
    // Memory is shared, as is the kernel: there is one microVM.
    let boot = "cat /proc/sys/kernel/random/boot_id";
    user.same_of(&["exec", "{}-one", "sh", "-c", "echo shared > /dev/shm/note"]);
    assert_eq!(run(&[], "cat /dev/shm/note; rm /dev/shm/note").out, "shared\n");
    let inside = user.koya(&["run", "--rm", "--pod", "koya", IMAGE, "sh", "-c", boot]);
    assert_eq!(inside, user.koya(&["exec", "koya-one", "sh", "-c", boot]));
    assert_ne!(
        inside,
        fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap()
    );
    assert_eq!(pids_of("koya-vmm").len(), 1);
    assert_eq!(run(&[], "nosuch").code, Some(127));
}

/// Namespaces of a single container.
fn beside_a_container(user: &Podman) {
    for (runtime, name) in user.both().iter().zip(["crun", "koya"]) {
        let name = format!("{name}-alone");
        let words = [
            "run",
            "--detach",
            "--name",
            &name,
            "--network",
            "none",
            IMAGE,
            "sh",
            "-c",
            SERVES,
        ];
        let said = user.said(runtime, &words);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let run = |options: &[&str], script: &str| {
        let mut words = vec!["run", "--rm"];
        words.extend(options);
        words.extend([IMAGE, "sh", "-c", script]);
        user.same_of(&words)
    };
    let said = run(
        &["--network", "container:{}-alone"],
        "wget -q -O - http://127.0.0.1:8000/page",
    );
    assert_eq!(said.out, "from one\n", "{said:?}");
    let said = run(
        &["--network", "container:{}-alone", "--pid", "container:{}-alone"],
        "ps | grep -c ' httpd -p'; kill -0 1 && echo sees",
    );
    assert!(said.out.ends_with("sees\n"), "{said:?}");
    // Its microVM was given its network before it began.
    let said = user.said(
        &user.both()[1],
        &["run", "--rm", "--ipc", "container:koya-alone", IMAGE, "true"],
    );
    assert!(
        said.errors.contains("share the other container's network"),
        "{said:?}"
    );
    user.same_of(&["rm", "--force", "--time", "0", "{}-alone"]);
}

/// One ends, or is killed, and the others go on; with the first one's microVM all end.
fn ends(user: &Podman) {
    let run = [
        "run", "--detach", "--pod", "koya", "--name", "two", IMAGE, "sh", "-c", STAYS,
    ];
    user.koya(&run);
    user.koya(&["stop", "two"]);
    let state = |name: &str| {
        user.koya(&[
            "inspect",
            "--format",
            "{{.State.Status}} {{.State.ExitCode}}",
            name,
        ])
    };
    assert_eq!(state("two"), "exited 0\n");
    user.koya(&["start", "two"]);
    assert_eq!(user.koya(&["exec", "two", "echo", "again"]), "again\n");
    user.koya(&["pause", "two"]);
    assert_eq!(user.koya(&["exec", "koya-one", "echo", "goes on"]), "goes on\n");
    user.koya(&["unpause", "two"]);
    // Whoever stands for it on the host is killed: nothing of it goes on in the guest.
    let pid = user.koya(&["inspect", "--format", "{{.State.Pid}}", "two"]);
    // SAFETY: kill takes two numbers and touches no memory.
    unsafe { libc::kill(pid.trim().parse().unwrap(), libc::SIGKILL) };
    until("podman does not see that it was killed", || {
        state("two") == "exited 137\n"
    });
    user.koya(&["rm", "two"]);
    let run = [
        "run", "--detach", "--pod", "koya", "--name", "two", IMAGE, "sleep", "1000",
    ];
    user.koya(&run);
    let heard = user.said(
        &user.both()[1],
        &["exec", "two", "wget", "-q", "-O", "-", "http://127.0.0.1:9000/"],
    );
    assert!(
        heard.errors.contains("refused"),
        "what was killed goes on: {heard:?}"
    );
    user.same_of(&["pod", "inspect", "--format", "{{.State}}", "{}"]);
    for pid in pids_of("koya-vmm") {
        // SAFETY: as above.
        unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
    }
    until("a container outlives its microVM", || {
        state("two") == "exited 137\n" && state("koya-one") == "exited 137\n"
    });
    user.koya(&["pod", "rm", "--force", "koya"]);
    until("something is left of a pod", is_nothing_left);
}

/// A pod as Kubernetes describes it. crun cannot be compared with: podman 4.3 without systemd forbids all devices in a
/// pod's own cgroup, and crun makes some there.
#[test]
fn a_pod_is_made_from_a_description() {
    let user = Podman::new();
    let config = user.home.path("config");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("note"), "of the host\n").unwrap();
    let container = |name: &str, script: &str, mounts: &str| {
        format!(
            "  - name: {name}\n    image: localhost/{IMAGE}:latest\n    imagePullPolicy: Never\n    \
             command: [sh, -c, {script:?}]\n    volumeMounts: [{mounts}]\n"
        )
    };
    let data = "{ name: data, mountPath: /data }";
    let both = format!("{data}, {{ name: config, mountPath: /config, readOnly: true }}");
    let description = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  restartPolicy: Never\n  initContainers:\n{}  containers:\n{}{}  volumes:\n  \
         - {{ name: data, emptyDir: {{}} }}\n  - {{ name: config, hostPath: {{ path: {config:?}, type: Directory }} }}\n",
        container("init", "sleep 2; echo made before > /data/page", data),
        container("one", "httpd -p 8000 -h /data; exec sleep 1000", data),
        container("two", "exec sleep 1000", &both),
    );
    let file = user.home.path("pod.yaml");
    fs::write(&file, description).unwrap();
    let file = file.to_str().unwrap();
    user.koya(&["play", "kube", file]);
    let said = |script: &str| user.koya(&["exec", "web-two", "sh", "-c", script]);
    assert_eq!(said("wget -q -O - http://127.0.0.1:8000/page"), "made before\n");
    assert_eq!(
        said("cat /config/note; touch /config/x 2> /dev/null || echo refused"),
        "of the host\nrefused\n"
    );
    // What the host changes is seen: as a file that is replaced, so that nobody reads half of it.
    fs::write(config.join(".note"), "another one\n").unwrap();
    fs::rename(config.join(".note"), config.join("note")).unwrap();
    until("a changed file is not seen", || {
        said("cat /config/note") == "another one\n"
    });
    assert_eq!(pids_of("koya-vmm").len(), 1);
    user.koya(&["play", "kube", "--down", file]);
    until("something is left of a pod", is_nothing_left);
}
