//! Whole boots, from files to guest memory: what works, and what each bad file is told.

#![allow(clippy::arithmetic_side_effects)]

use std::error::Error;
use std::fs::File;
use std::path::Path;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::test_support::{BzImage, Elf, PT_INTERP, Segment as ElfSegment, TestFile, memory_with};

const MIB: u64 = 1 << 20;
const CODE: &[u8] = b"\xb0\xfe\xe6\x64\xf4";

fn machine() -> Machine<'static> {
    Machine {
        vcpus: 1,
        virtio_mmio: &[],
        serial: Some(SerialPort::COM1),
        i8042: true,
        ioapic_id: 1,
    }
}

struct Boot {
    memory: GuestMemoryMmap<()>,
    result: Result<CpuStart, BootError>,
}

impl Boot {
    fn with(kernel: &[u8], initrd: Option<&[u8]>, args: &str, memory: u64) -> Self {
        let (kernel, initrd) = (TestFile::new(kernel), initrd.map(TestFile::new));
        let cmdline = Cmdline::new(args).unwrap();
        let source = BootSource {
            kernel: kernel.image(),
            initrd: initrd.as_ref().map(TestFile::image),
            cmdline: &cmdline,
        };
        let memory = memory_with(memory);
        let result = load(&memory, &machine(), &source);
        if let Err(error) = &result {
            let file = [Some(&kernel), initrd.as_ref()];
            let names = file
                .into_iter()
                .flatten()
                .map(|file| file.path().display().to_string());
            assert!(
                names.into_iter().any(|name| error.to_string().contains(&name)),
                "{error} names the file"
            );
        }
        Self { memory, result }
    }

    fn of(kernel: &[u8]) -> Self {
        Self::with(kernel, None, "quiet", 64 * MIB)
    }

    fn start(&self) -> &CpuStart {
        self.result.as_ref().unwrap()
    }

    /// The reason of a failure, without the act that failed.
    fn reason(&self) -> String {
        let mut error: &dyn Error = self.result.as_ref().unwrap_err();
        let mut lines = Vec::new();
        while let Some(source) = error.source() {
            lines.push(source.to_string());
            error = source;
        }
        lines.join(": ")
    }

    fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    fn u32_at(&self, address: u64) -> u32 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }
}

/// Asserts that the kernel is refused for a reason that says all of `words`.
#[track_caller]
fn refused(kernel: &[u8], words: &[&str]) {
    let boot = Boot::of(kernel);
    let reason = boot.reason();
    for word in words {
        assert!(reason.contains(word), "'{reason}' should say '{word}'");
    }
    let tables = boot.bytes(0, layout::FIRMWARE_END as usize);
    assert!(
        tables.iter().all(|&byte| byte == 0),
        "a refused kernel writes nothing"
    );
}

#[test]
fn an_elf_without_note_starts_by_the_linux_protocol() {
    let kernel = Elf::at(MIB, CODE).with(ElfSegment {
        memory: 0x5000,
        ..ElfSegment::load(2 * MIB, b"data")
    });
    let boot = Boot::of(&kernel.build());
    let start = boot.start();
    assert_eq!((start.protocol, start.registers.rip), (Protocol::Linux64, MIB));
    assert_eq!(start.registers.rsi, layout::ZERO_PAGE);
    assert_eq!(boot.bytes(MIB, 6), [CODE, &[0]].concat());
    assert_eq!(boot.bytes(2 * MIB, 5), b"data\0");
    assert_eq!(boot.bytes(layout::CMDLINE, 6), b"quiet\0");
    assert_eq!(boot.u32_at(layout::ZERO_PAGE + 0x228), layout::CMDLINE as u32);
    assert_eq!(boot.bytes(layout::RSDP, 8), b"RSD PTR ");
    assert_eq!(boot.bytes(layout::PVH_START_INFO, 4), [0; 4]);
}

#[test]
fn an_elf_with_a_pvh_note_starts_by_pvh() {
    let kernel = Elf::at(MIB, CODE).with_pvh(MIB as u32 + 2);
    let boot = Boot::with(&kernel.build(), Some(b"070701"), "quiet", 64 * MIB);
    let start = boot.start();
    assert_eq!((start.protocol, start.registers.rip), (Protocol::Pvh, MIB + 2));
    assert_eq!(start.registers.rbx, layout::PVH_START_INFO);
    assert_eq!(boot.u32_at(layout::PVH_START_INFO), 0x336e_c578);
    let initrd = boot.u32_at(layout::PVH_MODULES);
    assert_eq!(boot.bytes(u64::from(initrd), 6), b"070701");
    assert_eq!(boot.bytes(layout::ZERO_PAGE, 4096), [0; 4096]);
}

#[test]
fn large_segments_come_straight_from_the_file() {
    let data: Vec<u8> = (0..100_000_u32).map(|index| (index % 251) as u8).collect();
    let boot = Boot::of(&Elf::at(MIB, CODE).with(ElfSegment::load(16 * MIB, &data)).build());
    boot.start();
    assert_eq!(boot.bytes(16 * MIB, data.len()), data);
}

#[test]
fn program_headers_may_lie_anywhere_in_the_file() {
    let mut kernel = Elf::at(MIB, CODE).build();
    let header: Vec<u8> = kernel[64..120].to_vec();
    kernel[64..120].fill(0xff);
    kernel.resize(10_000, 0);
    kernel.extend_from_slice(&header);
    kernel[32..40].copy_from_slice(&10_000_u64.to_le_bytes());
    assert_eq!(Boot::of(&kernel).start().registers.rip, MIB);
}

#[test]
fn a_bzimage_starts_at_its_64_bit_entry_with_its_own_header() {
    let body: Vec<u8> = (0..50_000_u32).map(|index| (index % 249) as u8).collect();
    for setup_sectors in [1, 39, 0] {
        let image = BzImage {
            setup_sectors,
            ..BzImage::new(&body)
        };
        let boot = Boot::of(&image.build());
        let start = boot.start();
        assert_eq!(
            (start.protocol, start.registers.rip),
            (Protocol::Linux64, MIB + 0x200)
        );
        assert_eq!(boot.bytes(MIB, body.len() + 1), [body.as_slice(), &[0]].concat());
        assert_eq!(boot.u32_at(layout::ZERO_PAGE + 0x260), image.init_size);
        assert_eq!(boot.bytes(layout::ZERO_PAGE + 0x210, 1), [0xff]);
        assert_eq!(boot.bytes(layout::ZERO_PAGE + 0x1f1, 1), [setup_sectors]);
    }
}

#[test]
fn what_lies_behind_a_short_setup_header_is_not_taken_from_the_file() {
    let mut image = BzImage::new(&[0; 4096]).build();
    // The jump over the header shrinks, and with it the header: init_size is no longer part of it.
    image[0x201] = 0x5e;
    let boot = Boot::of(&image);
    boot.start();
    assert_eq!(boot.u32_at(layout::ZERO_PAGE + 0x260), 0);
}

#[test]
fn files_that_are_no_kernels_are_told_what_they_look_like() {
    refused(b"", &["empty"]);
    refused(b"\x1f\x8b\x08\0\0\0\0\0", &["not a kernel", "gzip", "vmlinux"]);
    refused(b"#!/bin/sh\necho hello\n", &["not a kernel", "script"]);
    refused(b"just some notes\n", &["not a kernel", "text file"]);
    refused(&[0; 100], &["not a kernel", "zeros"]);
    refused(b"\x80\x81\x82", &["not a kernel", "unknown"]);
}

#[test]
fn a_directory_or_device_is_no_kernel() {
    for (path, expected) in [("/", "a directory"), ("/dev/null", "a device")] {
        let path = Path::new(path);
        let file = &File::open(path).unwrap();
        let cmdline = Cmdline::default();
        let source = BootSource {
            kernel: Image { file, path },
            initrd: None,
            cmdline: &cmdline,
        };
        let boot = Boot {
            result: load(&memory_with(4 * MIB), &machine(), &source),
            memory: memory_with(4 * MIB),
        };
        assert!(boot.reason().contains(expected), "{}", boot.reason());
        assert!(boot.reason().contains("regular file"));
    }
}

#[test]
fn elf_files_for_other_machines_are_named() {
    let good = Elf::at(MIB, CODE);
    refused(
        &Elf {
            machine: 183,
            ..good.clone()
        }
        .build(),
        &["aarch64", "x86-64"],
    );
    refused(
        &Elf {
            machine: 243,
            ..good.clone()
        }
        .build(),
        &["RISC-V"],
    );
    refused(
        &Elf {
            machine: 999,
            ..good.clone()
        }
        .build(),
        &["999"],
    );
    refused(
        &Elf {
            class: 1,
            machine: 3,
            ..good.clone()
        }
        .build(),
        &["32-bit ELF"],
    );
    refused(
        &Elf {
            order: 2,
            ..good.clone()
        }
        .build(),
        &["big-endian"],
    );
    refused(
        &Elf {
            kind: 1,
            ..good.clone()
        }
        .build(),
        &["type 1", "object file"],
    );
    let program = good.with(ElfSegment::of_kind(PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0"));
    refused(&program.build(), &["not a kernel", "dynamic loader"]);
}

#[test]
fn truncated_files_tell_both_lengths() {
    let elf = Elf::at(MIB, CODE).build();
    refused(&elf[..20], &["cut short", "64 bytes", "20"]);
    refused(&elf[..100], &["cut short", "120 bytes", "has 100"]);
    refused(&elf[..elf.len() - 1], &["cut short", "125 bytes", "has 124"]);
    let image = BzImage::new(&[0; 4096]).build();
    refused(
        &image[..image.len() - 1],
        &["cut short", "5120 bytes", "has 5119"],
    );
    refused(&image[..0x300], &["cut short", "has 768"]);
}

#[test]
fn segments_must_fit_memory_and_each_other() {
    let with = |segment| Elf::at(MIB, CODE).with(segment).build();
    refused(
        &with(ElfSegment::load(MIB + 4, b"data")),
        &["overlap", "0x100005", "0x100004"],
    );
    refused(
        &with(ElfSegment::load(64 * MIB - 1, b"xy")),
        &["segment 1", "outside guest memory", "0x4000000"],
    );
    refused(
        &with(ElfSegment::load(u64::MAX - 1, b"xyz")),
        &["segment 1", "outside guest memory"],
    );
    refused(
        &with(ElfSegment::load(1 << 32, b"xy")),
        &["segment 1", "outside guest memory"],
    );
    refused(
        &with(ElfSegment::load(0xc000_0000, b"xy")),
        &["segment 1", "MMIO gap"],
    );
    refused(
        &with(ElfSegment::load(0x6000, b"xy")),
        &["segment 1", "boot tables", "0x10000"],
    );
    refused(
        &with(ElfSegment::load(0xf_ffff, b"x")),
        &["segment 1", "boot tables"],
    );
    let bss = |memory| ElfSegment {
        memory,
        ..ElfSegment::load(2 * MIB, b"data")
    };
    refused(&with(bss(0)), &["segment 1", "4 bytes in the file", "only 0"]);
    refused(&with(bss(3)), &["segment 1", "4 bytes in the file", "only 3"]);
    refused(&with(bss(u64::MAX)), &["MMIO gap"]);
    assert!(
        Boot::of(&with(bss(62 * MIB))).result.is_ok(),
        "a segment may end where memory ends"
    );
    assert!(
        Boot::of(&with(ElfSegment::load(0x1_0000, b"x"))).result.is_ok(),
        "free memory below 1 MiB"
    );
}

#[test]
fn an_elf_must_have_segments_and_its_entry_in_one() {
    let good = Elf::at(MIB, CODE);
    refused(
        &Elf {
            segments: vec![],
            ..good.clone()
        }
        .build(),
        &["0 program headers"],
    );
    let notes = vec![ElfSegment::of_kind(4, b"")];
    refused(
        &Elf {
            segments: notes,
            ..good.clone()
        }
        .build(),
        &["nothing to load"],
    );
    refused(
        &Elf {
            entry: MIB + 5,
            ..good.clone()
        }
        .build(),
        &["entry point 0x100005"],
    );
    refused(
        &Elf {
            entry: 0,
            ..good.clone()
        }
        .build(),
        &["entry point 0x0"],
    );
    refused(
        &good.clone().with_pvh(0x7f_0000).build(),
        &["entry point 0x7f0000"],
    );
    let many = vec![ElfSegment::of_kind(0, b""); 129];
    refused(
        &Elf {
            segments: many,
            ..good.clone()
        }
        .build(),
        &["129 program headers", "128"],
    );
    refused(
        &good.with(ElfSegment::of_kind(4, &[0xff; 12])).build(),
        &["ELF notes", "longer than the segment"],
    );
}

#[test]
fn bzimages_that_cannot_boot_are_told_why() {
    let good = BzImage::new(&[0; 4096]);
    refused(
        &BzImage {
            version: 0x020b,
            ..good.clone()
        }
        .build(),
        &["2.11", "2.12"],
    );
    refused(
        &BzImage {
            loadflags: 0,
            ..good.clone()
        }
        .build(),
        &["zImage"],
    );
    refused(
        &BzImage {
            xloadflags: 0,
            ..good.clone()
        }
        .build(),
        &["32-bit kernel"],
    );
    refused(
        &BzImage {
            alignment: 3,
            ..good.clone()
        }
        .build(),
        &["0x3", "power of two"],
    );
    refused(
        &BzImage {
            init_size: 49 << 20,
            ..good.clone()
        }
        .build(),
        &["65 MiB", "0x4000000"],
    );
    refused(
        &BzImage {
            preferred: u64::MAX,
            ..good.clone()
        }
        .build(),
        &["unpacks itself"],
    );
    let fixed = BzImage {
        relocatable: false,
        alignment: 0,
        ..good
    };
    assert!(
        Boot::of(&fixed.build()).result.is_ok(),
        "a fixed kernel needs no alignment"
    );
}

#[test]
fn the_initrd_is_placed_as_high_as_allowed() {
    let initrd = [7; 5000];
    let elf = Elf::at(MIB, CODE).build();
    let place = |boot: &Boot| {
        boot.start();
        let (address, size) = (
            boot.u32_at(layout::ZERO_PAGE + 0x218),
            boot.u32_at(layout::ZERO_PAGE + 0x21c),
        );
        assert_eq!(size, 5000);
        assert_eq!(boot.bytes(u64::from(address), 5000), initrd);
        u64::from(address)
    };
    assert_eq!(
        place(&Boot::with(&elf, Some(&initrd), "", 64 * MIB)),
        64 * MIB - 8192
    );
    assert_eq!(
        place(&Boot::with(&elf, Some(&initrd), "", 8 << 30)),
        (3 << 30) - 8192,
        "below the gap"
    );
    let image = BzImage {
        initrd_max: 0x2ff_ffff,
        ..BzImage::new(&[0; 4096])
    };
    assert_eq!(
        place(&Boot::with(&image.build(), Some(&initrd), "", 64 * MIB)),
        48 * MIB - 8192
    );
}

#[test]
fn an_initrd_without_room_tells_both_sizes() {
    let too_large = vec![0; 49 * 1024 * 1024];
    // The kernel unpacks itself up to 24 MiB; 40 MiB are left.
    let image = BzImage::new(&[0; 4096]).build();
    let boot = Boot::with(&image, Some(&too_large), "", 64 * MIB);
    assert!(matches!(
        boot.result,
        Err(BootError::Initrd {
            source: InitrdError::TooLarge {
                size: 51_380_224,
                room: 41_943_040,
                end: 0x400_0000
            },
            ..
        })
    ));
    assert!(boot.reason().contains("51380224") && boot.reason().contains("41943040"));
    assert!(Boot::with(&image, Some(&too_large), "", 128 * MIB).result.is_ok());
    assert_eq!(
        Boot::with(&image, Some(b""), "", 64 * MIB).reason(),
        "the file is empty"
    );
}

#[test]
fn a_command_line_too_long_for_this_kernel_is_refused() {
    let image = BzImage {
        cmdline_size: 255,
        ..BzImage::new(&[0; 4096])
    };
    let boot = |length| Boot::with(&image.build(), None, &"x".repeat(length), 64 * MIB);
    assert!(boot(255).result.is_ok());
    let reason = boot(256).reason();
    assert!(
        reason.contains("257 bytes") && reason.contains("takes 256"),
        "{reason}"
    );
}

#[test]
fn a_machine_that_contradicts_itself_is_refused_before_the_files_are_read() {
    let kernel = TestFile::new(b"not a kernel");
    let cmdline = Cmdline::default();
    let source = BootSource {
        kernel: kernel.image(),
        initrd: None,
        cmdline: &cmdline,
    };
    let none = Machine {
        vcpus: 0,
        ..machine()
    };
    let result = load(&memory_with(4 * MIB), &none, &source);
    assert!(matches!(result, Err(BootError::Machine(MachineError::Vcpus(0)))));
    let result = load(&memory_with(MIB), &machine(), &source);
    assert!(matches!(
        result,
        Err(BootError::Memory(MemoryMapError::TooSmall(MIB)))
    ));
}
