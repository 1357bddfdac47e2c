//! Volumes in containers of a real guest, served by the real virtiofsd.
//!
//! All but one need a KVM host on which stock kernels run, as root; KOYA_VMM, KOYA_KERNEL, KOYA_AGENT and KOYA_VIRTIOFSD name the
//! parts, KOYA_DISK is an ext4 of Debian. It fails where one of them is missing.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use koya_proto::v1::root_filesystem::Source;
use koya_proto::v1::{self, CreateRequest, Overlay, RootFilesystem};
use koya_sandbox::container::{ContainerSpec, IdMap, ProcessSpec};
use koya_sandbox::parts::Parts;
use koya_sandbox::stdio::{self, Wanted};
use koya_sandbox::volumes::{Volume, Volumes};
use koya_sandbox::{Disk, Sandbox, SandboxSpec};

const LONG: Duration = Duration::from_secs(120);

/// A microVM with volumes.
struct House {
    base: PathBuf,
    volumes: Volumes,
    sandbox: Sandbox,
}

impl House {
    fn start(name: &str, ids: Option<IdMap>) -> Self {
        let base = std::env::temp_dir().join(format!("koya-house-{name}-{}", std::process::id()));
        let folder = base.join("vm");
        for path in [&folder, &base.join("data"), &base.join("precious")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(base.join("data/hello"), "hello from the host\n").unwrap();
        fs::write(base.join("precious/file"), "untouched\n").unwrap();
        fs::write(base.join("one.conf"), "by itself\n").unwrap();
        chown(base.join("data"), Some(7), Some(8)).unwrap();
        fs::set_permissions(base.join("data"), fs::Permissions::from_mode(0o777)).unwrap();
        let volumes = [
            format!("{}/data:/data", base.display()),
            format!("{}/precious:/precious:ro", base.display()),
            format!("{}/one.conf:/etc/one.conf:ro", base.display()),
        ];
        let volumes = volumes.map(|text| Volume::parse(&text, Path::new("/"), &base).unwrap());
        let virtiofsd = Parts::find_virtiofsd().unwrap();
        let mut volumes = Volumes::start(&folder, &volumes, ids, &virtiofsd).unwrap();
        let spec = SandboxSpec {
            vcpus: 1,
            memory_mib: 256,
            disks: vec![Disk {
                serial: "debian".to_owned(),
                path: std::env::var_os("KOYA_DISK").expect("KOYA_DISK").into(),
                read_only: true,
            }],
            network: None,
            share: Some(volumes.share()),
            templates: false,
        };
        let parts = Parts::find().unwrap();
        let sandbox = Sandbox::start(&parts, &spec, &folder, &base, || false, drop);
        let sandbox = sandbox.unwrap_or_else(|error| panic!("{error:?}; {:?}", volumes.check()));
        Self {
            base,
            volumes,
            sandbox,
        }
    }

    /// Runs a script in a container that has the volumes; answers its exit code and output.
    fn run(&self, id: &str, ids: Option<IdMap>, script: &str) -> (u32, String) {
        let spec = ContainerSpec {
            process: ProcessSpec {
                args: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
                ..Default::default()
            },
            id_map: ids,
            mounts: self
                .volumes
                .mounts()
                .iter()
                .map(|mount| mount.to_mount())
                .collect(),
            ..Default::default()
        };
        let disk = v1::Disk {
            serial: "debian".to_owned(),
            filesystem: "ext4".to_owned(),
            ..Default::default()
        };
        let overlay = Overlay {
            lower: vec![disk],
            ..Default::default()
        };
        let wanted = Wanted::Pipes { stdin: false };
        let (named, mut streams) = stdio::open(&self.sandbox.vsock(), wanted).unwrap();
        let request = CreateRequest {
            id: id.to_owned(),
            root: Some(RootFilesystem {
                source: Some(Source::Overlay(overlay)),
                ..Default::default()
            })
            .into(),
            config: spec.to_json().to_string().into_bytes(),
            stdio: Some(named).into(),
            shares: vec![v1::Share {
                tag: self.volumes.share().tag,
                ..Default::default()
            }],
            ..Default::default()
        };
        let agent = self.sandbox.agent();
        agent.create(request).unwrap();
        agent.start(id).unwrap();
        let mut text = String::new();
        streams.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        streams.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        let exit = agent.wait(&id.into(), Some(LONG)).unwrap();
        agent.delete(id, true).unwrap();
        (exit.code, text)
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.sandbox.end();
        let _ = fs::remove_dir_all(&self.base);
    }
}

#[test]
fn virtiofsd_answers_from_its_namespace() {
    let base = std::env::temp_dir().join(format!("koya-answers-{}", std::process::id()));
    fs::create_dir_all(base.join("data")).unwrap();
    let volume = Volume::parse("./data:/data", &base, &base).unwrap();
    let virtiofsd = Parts::find_virtiofsd().unwrap();
    for ids in [None, Some(IdMap::of_room(3))] {
        let mut volumes = Volumes::start(&base, std::slice::from_ref(&volume), ids, &virtiofsd).unwrap();
        let mut socket = UnixStream::connect(base.join(volumes.share().socket)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        // VHOST_USER_GET_FEATURES, version 1, without a body; and its answer, with 64 bits.
        let header = [1_u32, 1, 0].map(u32::to_ne_bytes).concat();
        socket.write_all(&header).unwrap();
        let mut answer = [0; 20];
        let read = socket.read_exact(&mut answer);
        assert!(read.is_ok(), "{read:?}: {:?}", volumes.check());
        assert_eq!(answer[..12], [1_u32, 5, 8].map(u32::to_ne_bytes).concat());
        volumes.check().unwrap();
        // It goes with its VMM, and that is nothing to complain of.
        drop(socket);
        let gone = || {
            fs::read_to_string(format!("/proc/{}/stat", volumes.pid()))
                .is_ok_and(|stat| stat.contains(") Z "))
        };
        assert!((0..600).any(|_| gone() || {
            std::thread::sleep(Duration::from_millis(50));
            false
        }));
        volumes.check().unwrap();
    }
    fs::remove_dir_all(base).unwrap();
}

const TOUR: &str = "
cat /data/hello /precious/file /etc/one.conf
echo made > /data/made; mkdir /data/folder; chown 5:6 /data/folder; stat -c %u:%g /data /data/made /data/folder
touch /precious/new 2>/dev/null || echo refused
(echo x >> /etc/one.conf) 2>/dev/null || echo refused
mount -o remount,rw /precious 2>/dev/null && echo remounted
mknod /data/disk b 8 0 2>/dev/null || echo no device
exit 3
";

#[test]
fn containers_read_and_write_volumes_and_the_host_keeps_what_is_read_only() {
    let house = House::start("plain", None);
    let (code, text) = house.run("one", None, TOUR);
    let said = "hello from the host\nuntouched\nby itself\n7:8\n0:0\n5:6\nrefused\nrefused\nno device\n";
    assert_eq!((code, text.as_str()), (3, said));
    assert_eq!(
        fs::read_to_string(house.base.join("data/made")).unwrap(),
        "made\n"
    );
    let folder = fs::metadata(house.base.join("data/folder")).unwrap();
    assert_eq!((folder.uid(), folder.gid()), (5, 6));
    assert_eq!(fs::read_dir(house.base.join("precious")).unwrap().count(), 1);
    assert_eq!(
        fs::read_to_string(house.base.join("one.conf")).unwrap(),
        "by itself\n"
    );

    // Another container of the same guest finds the same, and what the host does meanwhile appears.
    fs::write(house.base.join("data/later"), "later\n").unwrap();
    let (code, text) = house.run("two", None, "cat /data/made /data/later");
    assert_eq!((code, text.as_str()), (0, "made\nlater\n"));
}

#[test]
fn a_container_whose_ids_are_shifted_sees_the_hosts_owners() {
    let ids = Some(IdMap::of_room(0));
    let house = House::start("shifted", ids);
    let (code, text) = house.run("one", ids, TOUR);
    let said = "hello from the host\nuntouched\nby itself\n7:8\n0:0\n5:6\nrefused\nrefused\nno device\n";
    assert_eq!((code, text.as_str()), (3, said));
    let made = fs::metadata(house.base.join("data/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (0, 0));
    let folder = fs::metadata(house.base.join("data/folder")).unwrap();
    assert_eq!((folder.uid(), folder.gid()), (5, 6));
}
