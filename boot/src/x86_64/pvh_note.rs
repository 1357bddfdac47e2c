//! The ELF note that says where a kernel's PVH entry point is (`XEN_ELFNOTE_PHYS32_ENTRY`).

use linux_loader::elf::Elf64_Phdr;

use crate::image::{Image, ImageError};

use super::elf::ElfError;
use super::kernel::KernelError;

const PHYS32_ENTRY: u32 = 18;
const XEN: &[u8] = b"Xen\0";

/// Most bytes of notes: Linux has about 500.
const NOTES_MAX: u64 = 64 << 10;

/// Notes that cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PvhNoteError {
    /// Absurdly many.
    #[error("they take {0} bytes; at most {NOTES_MAX} are read")]
    TooLarge(u64),
    /// A note that reaches beyond its segment.
    #[error("the note at byte {0} of its segment is longer than the segment")]
    Malformed(usize),
    /// A PVH note without an address.
    #[error("the PVH entry note holds {0} bytes; an address has 4 or 8")]
    Descriptor(usize),
}

/// Finds the PVH entry point in the notes that `header` points to, if they name one.
pub(super) fn entry(image: &Image<'_>, header: &Elf64_Phdr, head: &[u8]) -> Result<Option<u32>, KernelError> {
    let size = header.p_filesz;
    let length = usize::try_from(size).ok().filter(|_| size <= NOTES_MAX);
    let length = length.ok_or(ElfError::Note(PvhNoteError::TooLarge(size)))?;
    let start = usize::try_from(header.p_offset).unwrap_or(usize::MAX);
    let mut buffer = Vec::new();
    let notes = match head.get(start..start.saturating_add(length)) {
        Some(notes) => notes,
        None => {
            buffer.resize(length, 0);
            let notes = image.read_at(&mut buffer, header.p_offset)?;
            if notes.len() < length {
                let needed = header.p_offset.saturating_add(size);
                let actual = header.p_offset.saturating_add(notes.len() as u64);
                return Err(ImageError::Truncated { needed, actual }.into());
            }
            notes
        }
    };
    // Notes are padded to 4 bytes, unless their segment asks for 8.
    let align = if header.p_align == 8 { 8 } else { 4 };
    Ok(find(notes, align).map_err(ElfError::Note)?)
}

/// Walks the notes.
fn find(notes: &[u8], align: usize) -> Result<Option<u32>, PvhNoteError> {
    let mut rest = notes;
    while let Some((header, body)) = rest.split_first_chunk::<12>() {
        let malformed = || PvhNoteError::Malformed(notes.len().saturating_sub(rest.len()));
        let (words, _) = header.as_chunks::<4>();
        let [name_size, desc_size, kind] = words else {
            break;
        };
        let name_size = u32::from_le_bytes(*name_size) as usize;
        let desc_size = u32::from_le_bytes(*desc_size) as usize;
        let name = body.get(..name_size).ok_or_else(malformed)?;
        // The padding counts from the start of the note, whose header has 12 bytes.
        let desc_start = name_size
            .saturating_add(12)
            .next_multiple_of(align)
            .saturating_sub(12);
        let desc_end = desc_start.saturating_add(desc_size);
        let desc = body.get(desc_start..desc_end).ok_or_else(malformed)?;
        if name == XEN && u32::from_le_bytes(*kind) == PHYS32_ENTRY {
            let address = desc.first_chunk().filter(|_| matches!(desc.len(), 4 | 8));
            return match address {
                Some(address) => Ok(Some(u32::from_le_bytes(*address))),
                None => Err(PvhNoteError::Descriptor(desc.len())),
            };
        }
        // The last note may go without its padding.
        let next = desc_end
            .saturating_add(12)
            .next_multiple_of(align)
            .saturating_sub(12);
        rest = body.get(next..).unwrap_or_default();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::note;

    #[test]
    fn the_entry_is_found_behind_other_notes() {
        let other = note(b"GNU\0", 3, &[7; 20]);
        let odd = note(b"Linux", 0, &[1, 2, 3]);
        let xen_other = note(b"Xen\0", 6, b"linux\0");
        let pvh = note(b"Xen\0", PHYS32_ENTRY, &0x0123_4560_u32.to_le_bytes());
        let notes = [other.as_slice(), &odd, &xen_other, &pvh].concat();
        assert_eq!(find(&notes, 4), Ok(Some(0x0123_4560)));
        let wide = note(b"Xen\0", PHYS32_ENTRY, &0x0100_0000_u64.to_le_bytes());
        assert_eq!(find(&wide, 4), Ok(Some(0x0100_0000)));
        assert_eq!(find(&[other.as_slice(), &xen_other].concat(), 4), Ok(None));
        assert_eq!(find(&[], 4), Ok(None));
        assert_eq!(find(&[0; 100], 4), Ok(None), "empty notes are walked over");
    }

    #[test]
    fn notes_of_eight_byte_segments_are_padded_to_eight() {
        // "GNU\0" ends at 16; a descriptor of 12 bytes ends at 28 and is padded to 32.
        let mut notes = note(b"GNU\0", 5, &[9; 12]);
        notes.extend_from_slice(&[0; 4]);
        notes.extend_from_slice(&note(b"Xen\0", PHYS32_ENTRY, &[0, 0, 0x10, 0]));
        assert_eq!(find(&notes, 8), Ok(Some(0x10_0000)));
    }

    #[test]
    fn notes_that_lie_about_their_length_are_refused() {
        let good = note(b"GNU\0", 3, &[7; 20]);
        let mut long_name = note(b"Xen\0", PHYS32_ENTRY, &[0; 4]);
        long_name[0..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let notes = [good.as_slice(), &long_name].concat();
        assert_eq!(find(&notes, 4), Err(PvhNoteError::Malformed(good.len())));
        let mut long_desc = note(b"Xen\0", PHYS32_ENTRY, &[0; 4]);
        long_desc[4..8].copy_from_slice(&5_u32.to_le_bytes());
        assert_eq!(find(&long_desc, 4), Err(PvhNoteError::Malformed(0)));
        let short = note(b"Xen\0", PHYS32_ENTRY, &[0; 2]);
        assert_eq!(find(&short, 4), Err(PvhNoteError::Descriptor(2)));
    }
}
