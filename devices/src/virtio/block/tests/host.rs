//! What the host does to a drive while its guest runs.

use std::fs::OpenOptions;

use super::*;
use crate::virtio::block::BlockError;

#[test]
fn a_file_that_became_shorter_gives_errors_and_never_stale_bytes() {
    for engine in ENGINES {
        let mut machine = Machine::with_engine(engine);
        machine.truncate(10 * 512);
        let whole = machine.read(10, 1024);
        assert_eq!((whole.status(), whole.len), (IOERR, 1025));
        assert_eq!(whole.data(), [0; 1024]);
        // The file may end in the middle of a request, and of a sector.
        machine.truncate(9 * 512 + 100);
        let part = machine.read(8, 1024);
        assert_eq!((part.status(), part.len), (IOERR, 1025));
        assert_eq!(part.data()[..612], pattern_at(8 * 512, 612));
        assert_eq!(part.data()[612..], [0; 412]);
        assert_eq!(machine.block.metrics().execute_fails, 2);
        assert_eq!(machine.read(0, 512).status(), OK, "the disk works on");
        assert_eq!(machine.write(20, &[3; 512]).status(), OK);
        assert_eq!(machine.read(20, 512).data(), [3; 512]);
    }
}

#[test]
fn a_full_host_disk_gives_errors_and_the_device_works_on() {
    let file = disk_file(SECTORS);
    // Reads zeroes, and every write says that there is no space left.
    let full = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/full")
        .unwrap();
    let backend = Box::new(FileBackend::new(full, SECTORS, false, false));
    let mut machine = Machine::with_backend(Options::default(), backend, file);
    for _ in 0..1000 {
        assert_eq!(machine.write(0, &[1; 512]).status(), IOERR);
    }
    assert_eq!(machine.block.metrics().execute_fails, 1000);
    assert_eq!(machine.read(0, 512).status(), OK);
}

#[test]
fn zeroes_are_written_where_the_host_cannot_zero_a_range() {
    let mut machine = Machine::with_engine(Engine::Sync);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(machine.path())
        .unwrap();
    let mut backend = FileBackend::new(file, 1 << 13, false, false);
    backend.forget_abilities();
    machine.truncate(1 << 22);
    machine.file.as_file().write_all_at(&[9; 1 << 22], 0).unwrap();
    machine.block.replace_backend(Box::new(backend)).unwrap();
    for (sector, sectors, flags) in [
        (1, 1, 0),
        (9, 7, 1),
        (100, 2048, 0),
        (3000, 2051, 1),
        (8191, 1, 0),
    ] {
        assert_eq!(
            machine
                .request(WRITE_ZEROES, 0, &range(sector, sectors, flags), 0)
                .status(),
            OK
        );
        let (start, len) = (sector * 512, sectors as usize * 512);
        assert_eq!(machine.disk(start, len), vec![0; len]);
        assert_eq!(machine.disk(start - 512, 512), [9; 512]);
        let after = machine.disk(0, 1 << 22);
        let next = start as usize + len;
        assert!(after[next..].iter().take(512).all(|byte| *byte == 9));
    }
    // A discard that cannot be done has no effect, which is what the driver must expect.
    assert_eq!(machine.request(DISCARD, 0, &range(0, 8, 0), 0).status(), OK);
    assert_eq!(machine.disk(0, 512), [9; 512]);
}

#[test]
fn another_file_takes_the_place_of_the_first_with_its_own_size() {
    for (before, after) in [
        (Engine::Sync, Engine::Sync),
        (Engine::Async, Engine::Async),
        (Engine::Sync, Engine::Async),
    ] {
        let mut machine = Machine::with_engine(before);
        let other = TempFile::new().unwrap();
        other.as_file().write_all_at(&[0x77; 128 * 512], 0).unwrap();
        machine
            .block
            .replace_backend(after.open(other.as_path(), false))
            .unwrap();
        let mut capacity = [0; 8];
        machine.block.read_config(0, &mut capacity);
        assert_eq!(u64::from_le_bytes(capacity), 128);
        assert_eq!(machine.read(127, 512).data(), [0x77; 512]);
        machine.write(0, &[0x11; 512]);
        assert!(machine.disk_is_untouched(), "the first file is let go");
        assert_eq!(machine.block.metrics().update_count, 1);
    }
}

#[test]
fn a_file_of_the_other_access_is_not_taken() {
    let mut machine = Machine::with_engine(Engine::Sync);
    let other = disk_file(1);
    let result = machine
        .block
        .replace_backend(Engine::Sync.open(other.as_path(), true));
    assert!(matches!(result, Err(BlockError::AccessChanged)));
    assert_eq!(machine.block.metrics().update_fails, 1);
    assert_eq!(machine.block.sectors(), SECTORS);
    assert_eq!(machine.read(63, 512).status(), OK);
}

#[test]
fn a_host_error_is_the_guests_error_in_every_type_of_request() {
    struct Broken;
    impl BlockBackend for Broken {
        fn sectors(&self) -> u64 {
            SECTORS
        }
        fn read_only(&self) -> bool {
            false
        }
        fn submit(&mut self, job: crate::virtio::block::Job) -> Option<crate::virtio::block::Done> {
            let result = Err(std::io::Error::from_raw_os_error(libc::EIO));
            Some(crate::virtio::block::Done {
                tag: job.tag,
                result,
                buffers: job.buffers,
            })
        }
        fn discard(&mut self, _: u64, _: u64) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(libc::EIO))
        }
        fn write_zeroes(&mut self, _: u64, _: u64, _: bool, _: bool) -> std::io::Result<()> {
            Err(std::io::Error::from_raw_os_error(libc::EIO))
        }
    }
    let mut machine = Machine::with_backend(Options::default(), Box::new(Broken), disk_file(SECTORS));
    assert_eq!(machine.read(0, 512).data(), [0; 512]);
    assert_eq!(machine.read(0, 512).status(), IOERR);
    assert_eq!(machine.write(0, &[0; 512]).status(), IOERR);
    assert_eq!(machine.request(FLUSH, 0, &[], 0).status(), IOERR);
    assert_eq!(machine.request(DISCARD, 0, &range(0, 8, 0), 0).status(), IOERR);
    assert_eq!(
        machine.request(WRITE_ZEROES, 0, &range(0, 8, 0), 0).status(),
        IOERR
    );
    let metrics = machine.block.take_metrics();
    assert_eq!(
        (metrics.execute_fails, metrics.flush_count, metrics.write_count),
        (6, 0, 0)
    );
}
