//! `docker build` and `docker run`: containers from their beginning to their end.

use std::fs;

use crate::foreign::Disk;
use crate::support::fed;

use super::{BOTH, Docker, IMAGE, until};

/// Makes an image of one program: the command runs in a microVM, and what it did is the next layer.
const RECIPE: &str = r#"FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "set -e; bb=/bin/busybox; $bb --install -s /bin; mkdir -p /etc /tmp /root; chmod 1777 /tmp; echo 'root:x:0:0::/root:/bin/sh' > /etc/passwd; echo 'web:x:1000:1000::/:/bin/sh' >> /etc/passwd; echo 'root:x:0:' > /etc/group; echo 'web:x:1000:' >> /etc/group; echo 'no program' > /bin/text; uname -r > /etc/made-by"]
ENV A=1
CMD ["sh"]
"#;

pub(super) fn images_are_built_by_commands_in_microvms(engine: &Docker) {
    let folder = engine.home.path("image");
    fs::create_dir(&folder).unwrap();
    fs::copy("/bin/busybox", folder.join("busybox")).unwrap();
    fs::write(folder.join("Dockerfile"), RECIPE).unwrap();
    engine.done(&["build", "--quiet", "--tag", IMAGE, folder.to_str().unwrap()]);
}

pub(super) fn a_container_says_and_ends_what_it_does_with_runc(engine: &Docker) {
    let typed: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let script = "cat /etc/made-by; id; pwd; echo $A$B; hostname; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; touch /x /scratch/x; \
                  ulimit -n; stat -f -c %b /dev/shm; cat /proc/sys/kernel/shmmni; sha256sum; seq 1000 >&2; exit 7";
    let said = BOTH.map(|runtime| {
        let line = format!(
            "run --rm --interactive --runtime {runtime} --network none --read-only --tmpfs /scratch --user web --workdir /tmp \
             --env B=2 --hostname box --cap-drop all --cap-add kill --security-opt no-new-privileges --ulimit nofile=99:100 \
             --shm-size 4m --sysctl kernel.shmmni=77 {IMAGE} sh -c"
        );
        let mut words: Vec<_> = line.split_whitespace().collect();
        words.push(script);
        fed(&mut engine.docker(&words), &typed)
    });
    let [runc, koya] = said;
    assert_eq!(koya.code, Some(7), "{koya:?}");
    assert_eq!(koya, runc);
    // The guest's kernel made the image, and not the host's.
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(koya.out.lines().next(), Some(host.trim()));
    until("something is left of the containers", || engine.is_nothing_left());
}

pub(super) fn what_a_microvm_cannot_have_is_told(engine: &Docker) {
    for (options, words) in [
        (&["--network", "host"][..], "it is the host's"),
        (&["--network", "none", "--device", "/dev/kvm"], "\"/dev/kvm\""),
    ] {
        let mut all = vec!["run", "--rm"];
        all.extend(options);
        all.extend([IMAGE, "true"]);
        let said = engine.said(&all);
        assert_eq!(said.code, Some(125), "{options:?}: {said:?}");
        assert!(said.errors.contains(words), "{options:?}: {said:?}");
    }
    assert_eq!(engine.done(&["ps", "--all", "--quiet"]), "");
    until("something is left of what was refused", || {
        engine.is_nothing_left()
    });
}

pub(super) fn a_privileged_container_has_none_of_the_hosts_devices(engine: &Docker) {
    let disk = Disk::new();
    let [runc, koya] = BOTH.map(|runtime| {
        let search = disk.search();
        let mut words = vec!["run", "--rm", "--privileged", "--runtime", runtime];
        words.extend(["--network", "none", IMAGE]);
        words.extend(search.iter().map(String::as_str));
        engine.said(&words)
    });
    // The program finds what is there.
    assert_eq!((runc.out.as_str(), runc.code), (Disk::FOUND, Some(0)), "{runc:?}");
    assert_eq!(
        (koya.out.as_str(), koya.code),
        (Disk::NOT_FOUND, Some(0)),
        "{koya:?}"
    );
}
