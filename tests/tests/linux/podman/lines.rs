//! Command lines about a container that stays, one after the other: the same words, the same answers.

use super::{IMAGE, Podman, is_nothing_left, until};

/// Says what it is told by signals, and ends with 3.
const LISTENER: &str = "trap 'echo usr2' USR2; trap 'echo bye; exit 3' TERM; echo begun too >&2; sleep 1; echo begun; \
                        while :; do sleep 1; done";

/// What the containers are made with.
const OPTIONS: &str = "--detach --network none --hostname box --env A=1 --label colour=red --workdir /root --group-add 2000 \
                       --cap-drop chown --cap-add sys_time --security-opt no-new-privileges --ulimit nofile=200:300 \
                       --shm-size 8m --memory 128m --memory-reservation 64m --pids-limit 100 --cpus 1.5 --cpu-shares 512 \
                       --tmpfs /scratch:size=1m,mode=1770 --sysctl net.core.somaxconn=77 --sysctl kernel.shmmni=99 \
                       --oom-score-adj 100 --umask 0027 --add-host other:10.1.2.3 --stop-timeout 20 \
                       --health-cmd /bin/well --health-interval disable --annotation org.example=kept";

/// What runs in them, each in a shell of its own; output, errors and exit code are compared.
const SCRIPTS: [&str; 60] = [
    // What it is.
    "id",
    "pwd; echo $A $HOME $PATH $container $HOSTNAME",
    "hostname; cat /etc/hostname; cat /proc/sys/kernel/hostname",
    "cat /etc/hosts | grep other",
    "umask; touch /tmp/masked; stat -c %a /tmp/masked",
    "cat /proc/1/cmdline | tr '\\0' ' '; cat /proc/1/comm",
    "readlink /proc/1/exe; readlink /proc/1/cwd; readlink /proc/1/root",
    "cat /proc/self/cgroup",
    "cat /proc/1/oom_score_adj",
    // What it may use.
    "ulimit -n; ulimit -Hn",
    // A descriptor too many would be somebody else's.
    "ls /proc/self/fd | wc -l",
    "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.low",
    "cat /sys/fs/cgroup/pids.max",
    "cat /sys/fs/cgroup/cpu.max",
    "stat -f -c %b /dev/shm; stat -c %a /dev/shm",
    "stat -f -c %b /scratch; stat -c '%a %u %g' /scratch",
    "dd if=/dev/zero of=/scratch/x bs=64k count=32; rm /scratch/x",
    "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni",
    // What it may do.
    "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status",
    "touch /tmp/own; chown 5 /tmp/own",
    "chmod 700 /tmp/own; stat -c %a /tmp/own",
    "mount -t tmpfs tmpfs /tmp",
    "mount -o bind /etc /tmp",
    "echo 1 > /proc/sys/kernel/panic",
    "echo 1 > /proc/sysrq-trigger",
    "touch /sys/x",
    "mkdir /sys/fs/cgroup/x",
    "echo 0 > /sys/fs/cgroup/memory.max",
    "cat /proc/timer_list /proc/keys | wc -c; ls /sys/firmware /proc/scsi",
    "hostname other",
    "kill -0 1 && echo there",
    "chroot / /bin/echo moved",
    // What it sees.
    "ls /",
    "ls /dev | grep -v core",
    "ls -l /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx | grep -o '/dev.*'",
    "for node in null zero full random urandom tty; do stat -c '%n %F %a %t %T' /dev/$node; done",
    "head -c 5 /dev/zero | wc -c; echo x > /dev/full",
    "ls /proc/self/ns",
    "grep -c : /proc/net/dev; ip -o addr show lo",
    "grep -E ' /(scratch|dev/shm|dev/pts|dev/mqueue|proc|sys) ' /proc/mounts | grep -o ' /.* [a-z]* r[ow],[a-z]*'",
    "for path in hosts hostname resolv.conf; do grep -c \" /etc/$path \" /proc/mounts; done",
    "test -w /proc/sys && echo w; cat /run/.containerenv | grep -c '='",
    // What it does with files.
    "mkdir -p /made/deep; echo 1 > /made/deep/file; ln -s deep /made/link; cat /made/link/file",
    "ln /made/deep/file /made/hard; stat -c %h /made/hard",
    "mv /made/deep /made/moved; ls -R /made",
    "cp -a /made /copy; readlink /copy/link; rm -r /copy; ls /copy",
    "echo more >> /made/hard; cat /made/moved/file; wc -c < /made/hard",
    "dd if=/dev/zero of=/made/big bs=1M count=8 2>/dev/null; sha256sum /made/big; rm /made/big",
    "for i in $(seq 200); do echo $i > /made/f$i; done; ls /made | wc -l; rm /made/f*",
    "touch -d '2001-02-03 04:05:06' /made/hard; stat -c %y /made/hard",
    "cat /nowhere",
    "rmdir /proc; rm -r /dev/shm",
    "mkdir /dev/shm/x && rmdir /dev/shm/x && echo fine",
    // How it ends.
    "exit 0",
    "exit 77",
    "exit 255",
    "kill -9 $$",
    "kill -TERM $$",
    "seq 20000 | sha256sum; seq 2000 >&2",
    "test -t 0 || test -t 1 || echo no terminal",
];

/// What is asked of podman about them.
const QUESTIONS: [&str; 16] = [
    "container exists {}",
    "inspect --format {{.State.Status}}-{{.State.Running}}-{{.State.OOMKilled}}-{{.Config.Hostname}}-{{.Config.WorkingDir}}-\
     {{.Config.Cmd}}-{{.Config.Labels}}-{{.HostConfig.Memory}}-{{.HostConfig.PidsLimit}}-{{.EffectiveCaps}} {}",
    "ps --filter name={} --filter status=running --format {{.Names}}-{{.Image}}",
    "logs {}",
    "logs --tail 1 {}",
    "healthcheck run {}",
    "exec {} touch /tmp/well",
    "healthcheck run {}",
    "inspect --format {{.State.Health.Status}} {}",
    "exec --user web:2000 {} id",
    "exec --env A=2 --env B=3 {} sh -c echo,$A$B",
    "exec --tty {} tty",
    "exec --privileged {} grep CapEff /proc/self/status",
    "pause {}",
    "inspect --format {{.State.Status}} {}",
    "unpause {}",
];

/// They say something then, as soon as their shells do not sleep.
const USR2: &str = "kill --signal USR2 {}";

/// What is done with them in the end.
const ENDS: [&str; 21] = [
    USR2,
    "logs {}",
    "cp {}:/made/hard -",
    "cp {}:/nowhere -",
    "diff {}",
    "commit --quiet --pause=false {} made-{}",
    "image inspect --format {{.Config.Cmd}}-{{.Config.WorkingDir}} made-{}",
    "rmi made-{}",
    "rm {}",
    "stop {}",
    "inspect --format {{.State.Status}}-{{.State.ExitCode}}-{{.State.OOMKilled}} {}",
    "logs --tail 1 {}",
    "wait {}",
    "exec {} true",
    "start {}",
    "exec {} cat /made/hard /tmp/masked",
    "kill {}",
    "wait {}",
    "inspect --format {{.State.Status}}-{{.State.ExitCode}} {}",
    "rm {}",
    "container exists {}",
];

/// Runs each of its arguments, and says how it ended.
const RUN_ALL: &str =
    "for script; do sh -c \"$script\" </dev/null 2>&1; echo \"ends with $?\"; echo ----; done";

#[test]
fn command_line_after_command_line_says_what_it_does_with_crun() {
    let user = Podman::new();
    for (runtime, name) in user.both().iter().zip(["crun", "koya"]) {
        let mut words = vec!["run", "--name", name];
        words.extend(OPTIONS.split_whitespace());
        words.extend([IMAGE, "sh", "-c", LISTENER]);
        let said = user.said(runtime, &words);
        assert_eq!(said.code, Some(0), "{said:?}");
        until("it does not begin", || {
            user.koya(&["logs", name]).contains("begun")
        });
    }
    let mut differences = scripts(&user);
    for line in QUESTIONS.iter().chain(&ENDS) {
        let words: Vec<_> = line.split(' ').map(|word| word.replace(',', " ")).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        let [crun, koya] = user.answers_of(&words);
        if crun != koya {
            differences.push(format!("podman {line}\n  crun: {crun:?}\n  koya: {koya:?}"));
        }
        if *line == USR2 {
            until("the signal does not arrive", || {
                let logs = user.answers_of(&["logs", "{}"]);
                logs.iter().all(|said| said.out.contains("usr2"))
            });
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    until("something is left of the containers", is_nothing_left);
}

/// What the scripts say otherwise than with crun.
fn scripts(user: &Podman) -> Vec<String> {
    let mut words = vec!["exec", "{}", "sh", "-c", RUN_ALL, "sh"];
    words.extend(SCRIPTS);
    let [crun, koya] = user.answers_of(&words);
    let parts = |out: &str| out.split("----\n").map(str::to_owned).collect::<Vec<_>>();
    let (crun, koya) = (parts(&crun.out), parts(&koya.out));
    // What is after the last one is nothing.
    assert_eq!((crun.len(), koya.len()), (SCRIPTS.len() + 1, SCRIPTS.len() + 1));
    let answers = SCRIPTS.iter().zip(crun.iter().zip(&koya));
    answers
        .filter(|(_, (crun, koya))| crun != koya)
        .map(|(script, (crun, koya))| format!("{script}\n  crun: {crun:?}\n  koya: {koya:?}"))
        .collect()
}
