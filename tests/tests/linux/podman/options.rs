//! Options of `podman run` and `podman create`, each with a container that shows what it does.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::{IMAGE, Podman, is_nothing_left, until};
use crate::support::Said;

/// Options, and a script that tells what they do; `HOME` is a folder of the test with files in it. A container takes a
/// while to begin, so each shows several.
const RUNS: [(&str, &str); 13] = [
    // What it is.
    (
        "--env-file HOME/vars --env A=2 --env NOWHERE --env-host --unsetenv container --tz UTC --umask 0077 --user web:root \
         --pid private --ipc private --uts private --cgroupns private --label x=y --annotation a=b",
        "echo $A-$FROM_FILE-$EMPTY-${NOWHERE-unset}-${container-unset}; test -n \"$CONTAINERS_CONF\" && umask; \
         busybox date +%Z; id; echo $$; cat /proc/self/cgroup",
    ),
    (
        "--hostname a.example.org --add-host other:10.1.2.3 --add-host six:fd00::1 --user 1000:2000 --group-add web \
         --group-add 5000",
        "hostname; grep -oE '.*(other|six|org)' /etc/hosts; id; grep Groups /proc/self/status",
    ),
    (
        "--no-hosts --passwd=false --user 77 --workdir /tmp",
        "id; pwd; test -s /etc/hosts || echo none",
    ),
    (
        "--user 4444 --passwd-entry other:x:4444:0::/tmp:/bin/sh --init --init-path HOME/init --systemd false",
        "id; echo $HOME; tail -n 1 /etc/passwd; cat /proc/1/cmdline | tr '\\0' ' '",
    ),
    // What it may do.
    (
        "--memory 64m --memory-swap 160m --cpus 0.5 --pids-limit 40 --cap-drop all --cap-add net_bind_service,kill \
         --ulimit core=0 --ulimit stack=4194304 --sysctl kernel.msgmax=9000 --sysctl net.ipv4.ip_forward=1",
        "cd /sys/fs/cgroup; cat memory.max memory.swap.max cpu.max pids.max; grep Cap /proc/self/status; ulimit -c; \
         ulimit -s; cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward",
    ),
    (
        "--cap-add all --security-opt seccomp=unconfined --security-opt mask=/etc/passwd --memory 64m --memory-swap 64m",
        "cat /sys/fs/cgroup/memory.swap.max; grep -E 'CapEff|Seccomp:' /proc/self/status; busybox unshare -m echo apart; wc -c < /etc/passwd",
    ),
    (
        "--privileged --user web",
        "id; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; test -w /proc/sys && echo writable",
    ),
    // Its files.
    (
        "--read-only --tmpfs /t:size=2m,noexec,nosuid,mode=700 --tmpfs /u:ro --device /dev/null:/dev/nothing",
        "touch /x; touch /run/x /tmp/x /var/tmp/x /dev/shm/x && echo there; touch /u/x; stat -c '%F %t %T' /dev/nothing; \
         grep -oE ' /[tu] tmpfs r[ow],.*' /proc/mounts | grep -oE 'r[ow]|noexec|nosuid|size=[0-9]*k|mode=[0-9]*' | busybox sort",
    ),
    (
        "--read-only --read-only-tmpfs=false --volume HOME/share:/share:ro,z --volume HOME/share:/no:noexec,nodev,nosuid",
        "touch /run/x; touch /tmp/x; touch /dev/shm/x; cat /share/page; touch /share/x; /no/program; sh /no/program",
    ),
    (
        "--volume HOME/owned:/owned:U --user 1234:1235 --volume kept-{}:/root/kept --volume kept-{}-too:/etc",
        "stat -c '%u %g' /owned /owned/file; touch /owned/new; ls -d /root/kept; head -n 1 /etc/passwd",
    ),
    (
        "--volume HOME/share:/over:O --volume HOME/share:/plain --mount type=image,source=busybox,destination=/image",
        "echo more >> /over/page; echo new > /over/new; rm /over/program; busybox cat /over/page /plain/page; ls /over /plain; \
         cat /image/etc/group; touch /image/x",
    ),
    (
        "--volume kept-{}:/data --mount type=volume,source=kept-{}-too,destination=/too,ro --volume /anonymous \
         --mount type=tmpfs,destination=/m,tmpfs-size=1m,tmpfs-mode=1770",
        "touch /data/x /anonymous/x && echo x; cat /too/passwd; touch /too/x; stat -c %a /m; stat -f -c %b /m; \
         dd if=/dev/zero of=/m/x bs=64k count=32",
    ),
    (
        "--mount type=bind,source=HOME/share/page,destination=/page,ro=true --secret hush --secret hush,type=env,target=HUSH \
         --secret hush,target=/root/told,mode=0400,uid=3",
        "cat /page; echo x > /page; cat /run/secrets/hush; echo $HUSH; stat -c '%a %u' /root/told",
    ),
];

/// Lines as they are, whose containers say more than a script does.
const LINES: [&[&str]; 12] = [
    &[
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "",
        IMAGE,
        "echo",
        "by itself",
    ],
    &[
        "run",
        "--rm",
        "--network",
        "none",
        "--entrypoint",
        "[\"echo\",\"two words\"]",
        "--attach",
        "stdout",
        IMAGE,
        "more",
    ],
    &[
        "run",
        "--rm",
        "--network",
        "none",
        "--user",
        "nobody-here",
        IMAGE,
        "id",
    ],
    &[
        "run",
        "--rm",
        "--network",
        "none",
        "--timeout",
        "3",
        IMAGE,
        "sleep",
        "1000",
    ],
    &[
        "create",
        "--name",
        "{}",
        "--network",
        "none",
        IMAGE,
        "echo",
        "unheard",
    ],
    &["logs", "{}"],
    &[
        "run",
        "--name",
        "{}",
        "--replace",
        "--network",
        "none",
        "--volume",
        "/inner",
        IMAGE,
        "sh",
        "-c",
        "echo 1 >> /inner/x; cat /inner/x; exit 5",
    ],
    &[
        "run",
        "--rm",
        "--network",
        "none",
        "--volumes-from",
        "{}",
        IMAGE,
        "cat",
        "/inner/x",
    ],
    &["start", "--attach", "{}"],
    &["logs", "{}"],
    &[
        "inspect",
        "--format",
        "{{.State.Status}}-{{.State.ExitCode}}-{{range .Mounts}}{{.Destination}}-{{.RW}}{{end}}",
        "{}",
    ],
    &["rm", "--volumes", "{}"],
];

/// One that fails again and again.
const RESTARTED: [&[&str]; 5] = [
    &[
        "run",
        "--detach",
        "--name",
        "{}",
        "--network",
        "none",
        "--restart",
        "on-failure:1",
        IMAGE,
        "sh",
        "-c",
        "echo begun; exit 3",
    ],
    &["wait", "--condition", "exited", "{}"],
    &[
        "inspect",
        "--format",
        "{{.RestartCount}}-{{.State.Status}}-{{.State.ExitCode}}",
        "{}",
    ],
    &["logs", "{}"],
    &["rm", "{}"],
];

#[test]
fn each_option_does_what_it_does_with_crun() {
    let user = Podman::new();
    files(&user);
    let secret = user.home.path("secret");
    user.koya(&["secret", "create", "hush", secret.to_str().unwrap()]);
    let mut differences = Vec::new();
    for (options, script) in RUNS {
        let options = options.replace("HOME", user.home.path("").to_str().unwrap().trim_end_matches('/'));
        let mut words = vec!["run", "--rm", "--network", "none"];
        words.extend(options.split_whitespace());
        words.extend([IMAGE, "sh", "-c", script]);
        compare(&user, &words, &mut differences);
    }
    for words in LINES {
        compare(&user, words, &mut differences);
    }
    for words in RESTARTED {
        compare(&user, words, &mut differences);
        if words[0] == "run" {
            until("it is not given up", || {
                let count = ["inspect", "--format", "{{.RestartCount}}-{{.State.Status}}", "{}"];
                user.answers_of(&count)
                    .iter()
                    .all(|said| said.out == "1-exited\n")
            });
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    numbers_are_written(&user);
    assert_eq!(user.koya(&["ps", "--all", "--quiet"]), "");
    let volumes = user.koya(&["volume", "ls", "--quiet"]);
    assert!(volumes.lines().all(|name| name.starts_with("kept-")), "{volumes}");
    until("something is left of the containers", is_nothing_left);
}

/// What the options name.
fn files(user: &Podman) {
    let write = |name: &str, text: &str| fs::write(user.home.path(name), text).unwrap();
    for folder in ["share", "owned"] {
        fs::create_dir(user.home.path(folder)).unwrap();
    }
    write("vars", "# a comment\nA=1\nFROM_FILE=two words\nEMPTY=\n");
    write("secret", "nobody knows\n");
    write("share/page", "from the host\n");
    write("owned/file", "");
    write("share/program", "#!/bin/sh\necho ran\n");
    write("init", "#!/bin/sh\nshift\nexec \"$@\"\n");
    for program in ["share/program", "init"] {
        fs::set_permissions(user.home.path(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn compare(user: &Podman, words: &[&str], differences: &mut Vec<String>) {
    let [crun, koya] = user.answers_of(words);
    if crun != koya {
        let line = words.join(" ");
        differences.push(format!("podman {line}\n  crun: {crun:?}\n  koya: {koya:?}"));
    }
}

/// Files with a pid and an id, for whoever manages containers by them.
fn numbers_are_written(user: &Podman) {
    let (pid, id) = (user.home.path("a.pid"), user.home.path("an.id"));
    let words = ["run", "--detach", "--name", "koya", "--network", "none"];
    let files = [
        "--pidfile",
        pid.to_str().unwrap(),
        "--cidfile",
        id.to_str().unwrap(),
    ];
    let told = user.koya(&[&words[..], &files[..], &[IMAGE, "sleep", "1000"]].concat());
    assert_eq!(fs::read_to_string(&id).unwrap(), told.trim());
    let pid = fs::read_to_string(&pid).unwrap();
    assert!(fs::exists(format!("/proc/{}", pid.trim())).unwrap(), "{pid}");
    let Said { out, code, .. } = user.said(
        &user.both()[1],
        &["rm", "--force", "--time", "0", "--cidfile", id.to_str().unwrap()],
    );
    assert_eq!((out.as_str(), code), (told.as_str(), Some(0)));
}
