//! What a file that is no kernel looks like, so that the message can say it.

/// Says what kind of file begins with `head`.
pub(crate) fn looks_like(head: &[u8]) -> &'static str {
    const MAGICS: &[(usize, &[u8], &str)] = &[
        (
            0,
            b"\x1f\x8b",
            "a gzip archive (a compressed kernel? unpack it with gunzip first)",
        ),
        (
            0,
            b"\xfd7zXZ\0",
            "an xz archive (a compressed kernel? unpack it with unxz first)",
        ),
        (
            0,
            b"\x28\xb5\x2f\xfd",
            "a zstd archive (a compressed kernel? unpack it with unzstd first)",
        ),
        (
            0,
            b"BZh",
            "a bzip2 archive (a compressed kernel? unpack it with bunzip2 first)",
        ),
        (
            0,
            b"\x04\x22\x4d\x18",
            "an lz4 archive (a compressed kernel? unpack it with unlz4 first)",
        ),
        (
            0,
            b"\x02\x21\x4c\x18",
            "an lz4 archive (a compressed kernel? unpack it with unlz4 first)",
        ),
        (0, b"070701", "an initramfs (a cpio archive); is it the initrd?"),
        (0, b"#!", "a script"),
        (0, b"PK\x03\x04", "a zip archive"),
        (0, b"QFI\xfb", "a qcow2 disk image"),
        (0, b"hsqs", "a squashfs file system"),
        (0, b"\x27\x05\x19\x56", "a U-Boot image"),
        (0, b"!<arch>\n", "a Debian package or a static library"),
        (0x38, b"ARM\x64", "a kernel for aarch64"),
        (0x38, b"RSC\x05", "a kernel for RISC-V"),
        (0x400, b"\xe2\xe1\xf5\xe0", "an EROFS file system"),
        (0x438, b"\x53\xef", "an ext4 file system; is it the root disk?"),
        (257, b"ustar", "a tar archive"),
        (0, b"MZ", "an EFI program with no Linux setup header"),
        (510, b"\x55\xaa", "a disk image with a boot sector"),
    ];
    for &(offset, magic, name) in MAGICS {
        if head.get(offset..).is_some_and(|bytes| bytes.starts_with(magic)) {
            return name;
        }
    }
    let first = head.trim_ascii_start();
    if head.iter().all(|&byte| byte == 0) {
        "nothing but zeros"
    } else if first.starts_with(b"<") {
        "a web page (a download that failed?)"
    } else if head
        .iter()
        .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
    {
        "a text file"
    } else {
        "unknown data"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_mistakes_are_named() {
        let mut disk = vec![0; 4096];
        disk[0x438..0x43a].copy_from_slice(b"\x53\xef");
        let mut arm = vec![1; 64];
        arm[..2].copy_from_slice(b"MZ");
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let cases: [(&[u8], &str); 9] = [
            (b"\x1f\x8b\x08\0\0", "gzip"),
            (b"#!/bin/sh\nexit 0\n", "script"),
            (b"hello\nworld\n", "text file"),
            (b"  <!DOCTYPE html><html>", "web page"),
            (b"070701000", "initramfs"),
            (&[0; 300], "zeros"),
            (&disk, "ext4"),
            (&arm, "aarch64"),
            (b"\x90\x91\x92\x93", "unknown data"),
        ];
        for (head, expected) in cases {
            assert!(
                looks_like(head).contains(expected),
                "{expected}: {}",
                looks_like(head)
            );
        }
    }
}
