//! What a process keeps in memory that has started and now waits.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{Advice, madvise};

/// Lets go of the pages of the program itself, most of which only its start needs. Whatever runs next is mapped again from
/// the page cache, 64 KiB around each place, without reading a file.
pub fn forget_start() {
    // SAFETY: the function and its argument fit what the C library expects, and it keeps neither.
    unsafe { libc::dl_iterate_phdr(Some(forget_object), ptr::null_mut()) };
}

/// Lets go of the segments of one object that cannot be written, and so are as in their file.
unsafe extern "C" fn forget_object(object: *mut libc::dl_phdr_info, _size: usize, _: *mut c_void) -> c_int {
    // SAFETY: the C library passes a description that is valid during the call, with this many headers.
    let (base, headers) = unsafe {
        let object = &*object;
        let headers = match object.dlpi_phdr.is_null() {
            true => &[],
            false => std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()),
        };
        (object.dlpi_addr, headers)
    };
    // Not rustix's, which asks /proc: a process may have left that behind.
    // SAFETY: the call takes a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    for header in headers {
        let read_only = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        let start = base.wrapping_add(header.p_vaddr) as usize;
        let end = start.saturating_add(header.p_memsz as usize);
        // Whole pages: the first may begin in the segment before, the last end in the one behind.
        let first = start.checked_next_multiple_of(page);
        let length = first
            .and_then(|first| end.checked_sub(first))
            .map(|bytes| bytes & !(page.wrapping_sub(1)));
        if let (true, Some(first), Some(length)) = (read_only, first, length) {
            // SAFETY: the pages are mapped from the program's file and never written, so that they read the same after.
            let _ = unsafe { madvise(first as *mut c_void, length, Advice::LinuxDontNeed) };
        }
    }
    0
}

/// The call takes long words.
const NO: libc::c_ulong = 0;
const YES: libc::c_ulong = 1;

/// Whether huge pages are off for this process because of [`small_pages`].
static SMALL: AtomicBool = AtomicBool::new(false);

/// Has the host back this process by small pages only: where it makes huge ones by itself, a thread's stack that happens to be
/// aligned takes 2 MiB from its first byte on. Programs that it starts inherit that, see [`any_pages`].
pub fn small_pages() {
    // SAFETY: neither call passes memory.
    let changed = unsafe {
        libc::prctl(libc::PR_GET_THP_DISABLE, NO, NO, NO, NO) == 0
            && libc::prctl(libc::PR_SET_THP_DISABLE, YES, NO, NO, NO) == 0
    };
    SMALL.fetch_or(changed, Ordering::Relaxed);
}

/// Takes [`small_pages`] back; for a child, between fork and exec.
pub fn any_pages() {
    if SMALL.swap(false, Ordering::Relaxed) {
        // SAFETY: the call passes no memory.
        unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, NO, NO, NO, NO) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Resident KiB of the mapping that holds this program's code.
    fn code() -> u64 {
        let place = forget_start as *const () as usize;
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let holds = |line: &&str| {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            range.is_some_and(|(from, to)| number(from) <= Some(place) && Some(place) < number(to))
        };
        let rest = maps.lines().skip_while(|line| !holds(line));
        let resident = rest.filter_map(|line| line.strip_prefix("Rss:")).next().unwrap();
        resident.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    #[test]
    fn programs_that_are_started_may_have_huge_pages_again() {
        use std::os::unix::process::CommandExt;
        use std::process::Command;
        let disabled = |back: bool| {
            let mut command = Command::new("grep");
            command.args(["THP_enabled", "/proc/self/status"]);
            // SAFETY: the closure makes one system call.
            unsafe {
                command.pre_exec(move || {
                    if back {
                        any_pages();
                    }
                    Ok(())
                });
            }
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        small_pages();
        assert_eq!(disabled(false), "THP_enabled:\t0\n");
        assert_eq!(disabled(true), "THP_enabled:\t1\n");
        any_pages();
        assert_eq!(disabled(false), "THP_enabled:\t1\n");
    }

    #[test]
    fn a_program_goes_on_without_its_start() {
        let words: Vec<String> = (0..1000).map(|number| format!("{number:?}")).collect();
        let before = code();
        forget_start();
        let after = code();
        assert!(after < before, "{before} KiB before, {after} after");
        assert_eq!(words.concat().len(), 2890);
    }
}
