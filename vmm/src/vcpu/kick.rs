//! Getting a vCPU out of the guest from another thread.
//!
//! A signal alone is lost when it arrives just before KVM_RUN. Its handler therefore sets the vCPU's
//! `immediate_exit` flag, which KVM looks at after it has begun to take signals.

use std::cell::Cell;
use std::io;
use std::ptr;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

thread_local! {
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal that kicks a vCPU thread.
pub(super) fn signal() -> libc::c_int {
    SIGRTMIN()
}

/// Installs the handler. Doing it again changes nothing.
pub(super) fn install_handler() -> io::Result<()> {
    register_signal_handler(signal(), on_kick).map_err(|error| io::Error::from_raw_os_error(error.errno()))
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    IMMEDIATE_EXIT.with(|flag| {
        let flag = flag.get();
        if !flag.is_null() {
            // SAFETY: the pointer is set by `Kickable::new` on this very thread and cleared before the mapping it
            // points into goes away; the handler runs on the same thread, so nothing writes at the same time.
            unsafe { flag.write_volatile(1) };
        }
    });
}

/// While it lives, a kick makes the next (or current) KVM_RUN of this thread return with EINTR.
pub(super) struct Kickable;

impl Kickable {
    /// Binds `vcpu` to the calling thread. The vCPU must outlive the returned guard.
    pub(super) fn new(vcpu: &mut VcpuFd) -> Self {
        let flag = &raw mut vcpu.get_kvm_run().immediate_exit;
        IMMEDIATE_EXIT.with(|cell| cell.set(flag));
        Self
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.with(|cell| cell.set(ptr::null_mut()));
    }
}
