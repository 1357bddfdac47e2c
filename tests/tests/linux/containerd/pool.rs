//! A pool of thin disks for containerd's devmapper, on files: each container's root is a block device then.

use std::process::Command;

use koya_tests::vm::Scratch;

use crate::support::{LoopDevice, run, succeed};

/// Bytes of the pool, which are taken as they are needed, and of what it notes about them.
const DATA: u64 = 300 << 20;
const NOTES: u64 = 8 << 20;

/// The pool. It goes with this, after all that use it.
pub(super) struct Pool {
    home: Scratch,
    name: String,
    loops: Vec<LoopDevice>,
}

impl Pool {
    pub(super) fn new() -> Self {
        run("modprobe --all dm_thin_pool loop ext4");
        let mut pool = Self {
            home: Scratch::new(),
            name: format!("koya-tests-{}", std::process::id()),
            loops: Vec::new(),
        };
        for (name, bytes) in [("notes", NOTES), ("data", DATA)] {
            let file = pool.home.disk(name, bytes);
            pool.loops.push(LoopDevice::of(&file));
        }
        let loops: Vec<_> = pool.loops.iter().map(LoopDevice::path).collect();
        let table = format!(
            "0 {} thin-pool {} 128 1000 1 skip_block_zeroing",
            DATA / 512,
            loops.join(" ")
        );
        succeed(&mut dmsetup(&["create", &pool.name, "--table", &table]));
        pool
    }

    /// For containerd's configuration.
    pub(super) fn settings(&self) -> String {
        format!(
            "[plugins.\"io.containerd.snapshotter.v1.devmapper\"]\npool_name = {:?}\nroot_path = {:?}\n\
             base_image_size = \"32MB\"\nfs_type = \"ext4\"\n",
            self.name,
            self.home.path("root").display().to_string()
        )
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let listed = Command::new("dmsetup").arg("ls").output();
        let listed = listed.map(|output| output.stdout).unwrap_or_default();
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let disks = format!("{}-", self.name);
        let names = listed.lines().filter_map(|line| line.split_whitespace().next());
        for name in names
            .filter(|name| name.starts_with(&disks))
            .chain([self.name.as_str()])
        {
            // containerd may just have removed it.
            let _ = dmsetup(&["remove", name]).output();
        }
    }
}

/// It does not wait for udev, which an emulated host does not have.
fn dmsetup(words: &[&str]) -> Command {
    let mut command = Command::new("dmsetup");
    command.args(words).env("DM_DISABLE_UDEV", "1");
    command
}
