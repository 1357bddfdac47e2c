//! Kernels, initrds and command lines.

use std::fs;

use koya_tests::vm::{self, Scratch};
use serde_json::{Value, json};

use super::refused;
use crate::support::elf::{self, AARCH64, Segment, X86_64};

/// A file in place of the kernel is refused; the line names it.
fn refused_kernel(contents: impl AsRef<[u8]>, names: &[&str]) {
    let scratch = Scratch::new();
    let kernel = scratch.file("kernel", contents);
    let path = kernel.display().to_string();
    let names = [&[path.as_str()], names].concat();
    refused(&boots(&kernel), &names);
}

fn boots(kernel: &std::path::Path) -> Value {
    json!({ "boot-source": { "kernel_image_path": kernel, "boot_args": "" } })
}

#[test]
fn a_missing_kernel() {
    let scratch = Scratch::new();
    let kernel = scratch.path("vmlinux");
    let path = kernel.display().to_string();
    refused(
        &boots(&kernel),
        &["kernel_image_path", &path, "No such file or directory"],
    );
}

#[test]
fn a_kernel_that_is_a_folder() {
    let scratch = Scratch::new();
    let folder = scratch.path("folder");
    fs::create_dir(&folder).unwrap();
    let path = folder.display().to_string();
    refused(
        &boots(&folder),
        &["kernel_image_path", &path, "must be a regular file"],
    );
}

#[test]
fn an_empty_kernel() {
    refused_kernel("", &["the file is empty"]);
}

#[test]
fn a_truncated_kernel() {
    let whole = fs::read(vm::tiny("virtio")).unwrap();
    // In the ELF header, in the program headers, in a segment.
    for length in [30, 100, whole.len() - 1000] {
        let has = format!("has {length}");
        refused_kernel(&whole[..length], &["cut short", "it needs", &has]);
    }
}

#[test]
fn something_else_than_a_kernel() {
    let right = "x86-64 vmlinux (uncompressed ELF) or bzImage";
    for (contents, looks_like) in [
        (&b"#!/bin/sh\necho I am no kernel\n"[..], "a script"),
        (b"\x1f\x8b\x08\0 and so on", "unpack it with gunzip"),
        (b"\x07\x99\x12\xe3 and so on", "unknown data"),
    ] {
        refused_kernel(contents, &["not a kernel", looks_like, right]);
    }
}

#[test]
fn a_kernel_for_another_architecture() {
    let segment = Segment {
        address: 0x10_0000,
        in_file: 4096,
        in_memory: 4096,
    };
    let arm = elf::file(AARCH64, &[segment]);
    refused_kernel(arm, &["aarch64", "this host runs x86-64 kernels"]);
    // The uncompressed kernel of aarch64 is no ELF file.
    let mut image = vec![0; 4096];
    image[..2].copy_from_slice(b"MZ");
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    refused_kernel(image, &["aarch64", "x86-64 vmlinux"]);
}

#[test]
fn an_elf_file_with_overlapping_segments() {
    let segment = |address| Segment {
        address,
        in_file: 4096,
        in_memory: 4096,
    };
    let file = elf::file(X86_64, &[segment(0x10_0000), segment(0x10_0800)]);
    refused_kernel(file, &["segments overlap", "0x101000", "0x100800"]);
}

#[test]
fn an_elf_file_with_segments_outside_memory() {
    let segment = |address, in_memory| Segment {
        address,
        in_file: 4096,
        in_memory,
    };
    for (wrong, named) in [
        // Behind the end of 128 MiB, across it, in the gap for devices, across the end of all addresses.
        (segment(0x4000_0000, 4096), "0x40000000"),
        (segment(0x7ff_f000, 8192), "0x7fff000"),
        (segment(0xd000_0000, 4096), "0xd0000000"),
        (segment(0xffff_ffff_ffff_f000, 8192), "0xfffffffffffff000"),
        (segment(0x20_0000, u64::MAX - 4096), "0x200000"),
    ] {
        let file = elf::file(X86_64, &[segment(0x10_0000, 4096), wrong]);
        refused_kernel(file, &["segment 1", named, "GiB"]);
    }
}

#[test]
fn an_initrd_larger_than_memory() {
    let scratch = Scratch::new();
    let initrd = scratch.disk("initrd", 200 << 20);
    let path = initrd.display().to_string();
    let boot = json!({ "kernel_image_path": vm::tiny("hello"), "initrd_path": initrd });
    refused(
        &json!({ "boot-source": boot }),
        &[&path, "has 209715200 bytes", "guest memory has room for"],
    );
}

#[test]
fn a_missing_initrd() {
    let boot = json!({ "kernel_image_path": vm::tiny("hello"), "initrd_path": "/nowhere/initrd" });
    refused(
        &json!({ "boot-source": boot }),
        &["initrd_path", "/nowhere/initrd", "No such file or directory"],
    );
}

#[test]
fn a_command_line_that_is_too_long() {
    let boot = json!({ "kernel_image_path": vm::tiny("hello"), "boot_args": "x".repeat(5000) });
    refused(
        &json!({ "boot-source": boot }),
        &["boot_args", "5001 bytes", "the kernel takes 2048"],
    );
}

/// The user's part fits; with what the monitor adds for the devices it does not.
#[test]
fn a_command_line_that_becomes_too_long() {
    let scratch = Scratch::new();
    let disk = scratch.disk("disk", 4096);
    let sections = json!({
        "boot-source": { "kernel_image_path": vm::tiny("hello"), "boot_args": "x".repeat(2040) },
        "drives": [crate::support::drive("a", &disk, false)],
    });
    refused(&sections, &["command line", "the kernel takes 2048"]);
}
