//! What a program in the place of virtiofsd sees. It tells so in a file `seen` of its first volume.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use koya_proto::SHARES;

use super::*;

/// Looks around, and waits to be ended.
const LOOK: &str = r#"#!/bin/sh
for word; do
    [ "$last" = --shared-dir ] && shared=$word
    case $word in --fd=*) fd=${word#--fd=} ;; esac
    last=$word
done
cd "$shared" || exit 1
try() { if "$@" 2> /dev/null; then echo "may: $*"; else echo "may not: $*"; fi; }
{
    ls
    cat 1/file 2
    [ -S "/proc/self/fd/$fd" ] && echo listening
    try touch 0/new
    try touch 1/new
    try touch 1/below/new
    try rm 1/file
    try sh -c ': >> 2'
    try touch other
    try mkdir 7
    echo done
} > 0/seen
exec sleep 1000
"#;

struct Scene {
    base: PathBuf,
    folder: PathBuf,
    program: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let base = std::env::temp_dir().join(format!("koya-volumes-{name}-{}", std::process::id()));
        let folder = base.join("vm");
        for path in [&folder, &base.join("rw"), &base.join("ro/below")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(base.join("ro/file"), "in a folder\n").unwrap();
        fs::write(base.join("single"), "by itself\n").unwrap();
        Self {
            program: base.join("program"),
            base,
            folder,
        }
        .with_program(LOOK)
    }

    fn with_program(self, script: &str) -> Self {
        fs::write(&self.program, script).unwrap();
        fs::set_permissions(&self.program, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn volume(&self, source: &str, target: &str, read_only: bool) -> Volume {
        Volume {
            source: self.base.join(source),
            target: target.to_owned(),
            read_only,
            named: false,
            follows: false,
            top_only: false,
        }
    }

    fn volumes(&self) -> [Volume; 3] {
        [
            self.volume("rw", "/data", false),
            self.volume("ro", "/precious", true),
            self.volume("single", "/etc/single", true),
        ]
    }

    fn start(&self, volumes: &[Volume]) -> Result<Volumes, VolumeError> {
        Volumes::start(&self.folder, volumes, None, &self.program)
    }

    fn refused(&self, volumes: &[Volume]) -> String {
        let error = self.start(volumes).err().unwrap();
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        assert_eq!(
            fs::read_dir(&self.folder).unwrap().count(),
            0,
            "{error}: something is left"
        );
        format!("{error}{}", source.unwrap_or_default())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

fn await_file(path: &Path, end: &str) -> String {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(path).unwrap_or_default();
        if text.ends_with(end) {
            return text;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{path:?} has {text:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn volumes_lie_side_by_side_and_read_only_ones_stay_as_they_are() {
    let scene = Scene::new("side");
    let mut volumes = scene.start(&scene.volumes()).unwrap();
    let seen = await_file(&scene.base.join("rw/seen"), "done\n");
    let expected = [
        "0\n1\n2\nin a folder\nby itself\nlistening\n",
        "may: touch 0/new\nmay not: touch 1/new\nmay not: touch 1/below/new\nmay not: rm 1/file\n",
        "may not: sh -c : >> 2\nmay not: touch other\nmay not: mkdir 7\ndone\n",
    ];
    assert_eq!(seen, expected.concat());
    assert!(scene.base.join("rw/new").exists());
    volumes.check().unwrap();

    let mount = |number: usize, target: &str, read_only| VolumeMount {
        source: format!("{SHARES}/{TAG}/{number}"),
        target: target.to_owned(),
        read_only,
    };
    let mounts = [
        mount(0, "/data", false),
        mount(1, "/precious", true),
        mount(2, "/etc/single", true),
    ];
    assert_eq!(volumes.mounts(), mounts);

    // Nobody else sees any of it, and nothing is left.
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(scene.folder.to_str().unwrap()), "{table}");
    assert_eq!(fs::read_dir(scene.folder.join("volumes")).unwrap().count(), 0);
    assert!(scene.folder.join(volumes.share().socket).exists());
    let process = PathBuf::from(format!("/proc/{}", volumes.pid()));
    assert!(process.exists());
    drop(volumes);
    assert!(!process.exists());
    assert_eq!(fs::read_dir(&scene.folder).unwrap().count(), 0);
}

#[test]
fn what_a_killed_one_has_left_is_no_obstacle() {
    let scene = Scene::new("again");
    for _ in 0..2 {
        let volumes = scene.start(&scene.volumes()).unwrap();
        await_file(&scene.base.join("rw/seen"), "done\n");
        fs::remove_file(scene.base.join("rw/seen")).unwrap();
        // Its traces stay, as after a power cut.
        std::mem::forget(volumes);
    }
    let [writable, ..] = scene.volumes();
    drop(scene.start(&[writable]).unwrap());
}

#[test]
fn a_named_volume_is_made_at_its_first_use() {
    let scene = Scene::new("named");
    let data = Volume::parse("data:/data", Path::new("/"), &scene.base).unwrap();
    assert!(!data.source.exists());
    drop(scene.start(std::slice::from_ref(&data)).unwrap());
    fs::write(data.source.join("kept"), "").unwrap();
    drop(scene.start(&[data]).unwrap());
    assert!(scene.base.join("volumes/data/_data/kept").exists());
}

#[test]
fn what_cannot_be_served_is_named_and_leaves_nothing() {
    let scene = Scene::new("refused");
    let [writable, ..] = scene.volumes();
    let missing = scene.refused(&[writable.clone(), scene.volume("nowhere", "/x", false)]);
    assert!(
        missing.contains("no such file or folder") && missing.contains("/nowhere\""),
        "{missing}"
    );
    let twice = scene.refused(&[writable.clone(), scene.volume("ro", "/data", true)]);
    assert!(twice.contains("\"/data\""), "{twice}");
    let device = Volume {
        source: "/dev/null".into(),
        ..writable.clone()
    };
    let device = scene.refused(&[device]);
    assert!(device.contains("neither a file nor a folder"), "{device}");
    let many = vec![writable.clone(); MAX_VOLUMES + 1];
    assert!(scene.refused(&many).contains("257 volumes"));

    fs::remove_file(&scene.program).unwrap();
    fs::create_dir(&scene.program).unwrap();
    let no_program = scene.refused(&[writable]);
    assert!(
        no_program.contains("cannot run") && no_program.contains("program"),
        "{no_program}"
    );
}

#[test]
fn the_last_words_of_virtiofsd_are_told() {
    let scene = Scene::new("words").with_program("#!/bin/sh\necho 'ERROR: no proc here' >&2\nexit 1\n");
    let mut volumes = scene.start(&scene.volumes()).unwrap();
    let start = Instant::now();
    let error = loop {
        match volumes.check() {
            Ok(()) => assert!(start.elapsed() < Duration::from_secs(20)),
            Err(error) => break error.to_string(),
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(error, "virtiofsd ended: ERROR: no proc here");
}
