//! The threads of the vCPUs.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use koya_devices::GuestRam;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::Killable;

use super::exits::{Buses, Flow, run_once, settle};
use super::fault::VcpuFault;
use super::gate::{Gate, Passage};
use super::kick::{self, Kickable};
use crate::ending::{EndLine, Ending};
use crate::seccomp::{Confinement, Filter};

/// How long a pause waits for the vCPUs. They leave the guest within microseconds; this much is needed only by a
/// host that does not schedule us at all.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Less than a huge page: where the host makes huge pages by itself, a larger stack that happens to be aligned is one from
/// its first byte on, as it is right below a guest's memory (Linux before 6.7).
const STACK: usize = 512 << 10;

/// The vCPU threads cannot be managed.
#[derive(Debug, thiserror::Error)]
pub enum VcpuThreadError {
    /// No thread.
    #[error("cannot start the thread of vCPU {index}")]
    Spawn {
        /// Which vCPU.
        index: u8,
        /// Why.
        source: io::Error,
    },
    /// No signal handler.
    #[error("cannot install the handler of the signal that kicks vCPUs")]
    Signal(#[source] io::Error),
    /// No descriptor left.
    #[error("cannot duplicate the descriptor of a vCPU")]
    Descriptor(#[source] io::Error),
    /// They did not reach the gate in time.
    #[error("the vCPUs did not pause within {} s", PAUSE_TIMEOUT.as_secs())]
    Timeout,
}

/// All vCPUs of a running guest.
pub struct Vcpus {
    gate: Arc<Gate>,
    threads: Vec<JoinHandle<()>>,
    /// The vCPUs' own descriptors, in order, for whoever reads them while they stand still.
    descriptors: Vec<OwnedFd>,
}

impl Vcpus {
    /// Starts a thread for each vCPU, behind its filter if there is a `confinement`.
    pub fn start(
        vcpus: Vec<VcpuFd>,
        gate: Arc<Gate>,
        end: Arc<EndLine>,
        buses: Arc<Buses>,
        memory: &GuestRam,
        confinement: Option<Confinement>,
    ) -> Result<Self, VcpuThreadError> {
        kick::install_handler().map_err(VcpuThreadError::Signal)?;
        let mut this = Self {
            gate,
            threads: Vec::with_capacity(vcpus.len()),
            descriptors: vcpus.iter().map(descriptor).collect::<Result<_, _>>()?,
        };
        let mut waiting: Vec<_> = (0_u8..).zip(vcpus).collect();
        // The one that boots the kernel comes last: if a thread cannot be had, the guest has not begun.
        while let Some((index, fd)) = waiting.pop() {
            let vcpu = VcpuThread {
                index,
                fd,
                end: end.clone(),
                buses: buses.clone(),
                memory: memory.clone(),
                confinement,
            };
            if let Err(source) = this.spawn(vcpu) {
                let gate = this.gate.clone();
                drop(this);
                gate.restart();
                return Err(VcpuThreadError::Spawn { index, source });
            }
        }
        Ok(this)
    }

    /// The name is the one by which Firecracker's tools find vCPU threads to pin them.
    fn spawn(&mut self, vcpu: VcpuThread) -> io::Result<()> {
        let gate = self.gate.clone();
        let thread = Builder::new()
            .name(format!("fc_vcpu {}", vcpu.index))
            .stack_size(STACK);
        self.threads.push(thread.spawn(move || vcpu.run(&gate))?);
        Ok(())
    }

    /// Stops the guest's time: returns when every vCPU is outside the guest.
    pub fn pause(&self) -> Result<(), VcpuThreadError> {
        self.gate.close();
        self.kick();
        if self.gate.wait_for(self.threads.len(), PAUSE_TIMEOUT) || self.gate.is_stopped() {
            Ok(())
        } else {
            self.gate.open();
            Err(VcpuThreadError::Timeout)
        }
    }

    /// Lets the guest go on.
    pub fn resume(&self) {
        self.gate.open();
    }

    /// Ends the guest's time for good, without waiting for the threads.
    pub fn stop(&self) {
        self.gate.stop();
        self.kick();
    }

    /// The descriptors of the vCPUs, in order. Only of use while the guest is paused: KVM otherwise makes whoever asks
    /// wait until the guest leaves by itself.
    pub fn descriptors(&self) -> &[OwnedFd] {
        &self.descriptors
    }

    fn kick(&self) {
        for thread in &self.threads {
            // A thread that has ended needs no kick.
            let _ = thread.kill(kick::signal());
        }
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A second descriptor of a vCPU.
fn descriptor(vcpu: &VcpuFd) -> Result<OwnedFd, VcpuThreadError> {
    // SAFETY: the descriptor is open as long as `vcpu` lives, which is beyond this call.
    let own = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
    own.try_clone_to_owned().map_err(VcpuThreadError::Descriptor)
}

struct VcpuThread {
    index: u8,
    fd: VcpuFd,
    end: Arc<EndLine>,
    buses: Arc<Buses>,
    memory: GuestRam,
    confinement: Option<Confinement>,
}

impl VcpuThread {
    fn run(mut self, gate: &Gate) {
        if let Some(confinement) = self.confinement
            && let Err(error) = Filter::Vcpu.install(confinement)
        {
            self.end.announce(Ending::Unconfined(error));
            return;
        }
        let _kickable = Kickable::new(&mut self.fd);
        let mut left = None;
        while gate.pass(|| left = self.park()) == Passage::Run {
            let flow = left.take().unwrap_or_else(|| run_once(&mut self.fd, &self.buses));
            let ending = match flow {
                Flow::Continue | Flow::Kicked => continue,
                Flow::Reset => Ending::Reset,
                Flow::PowerOff => Ending::PowerOff,
                Flow::TripleFault => Ending::TripleFault { vcpu: self.index },
                Flow::Fault(kind) => Ending::Fault(Box::new(VcpuFault::collect(
                    self.index,
                    kind,
                    &self.fd,
                    &self.memory,
                ))),
            };
            self.end.announce(ending);
            return;
        }
    }

    /// Finishes the last exit, whose end is returned if it is the guest's, and tells the guest's kernel that it was
    /// stopped, lest its watchdogs believe that it hung. A kernel without kvmclock has no such watchdog to calm: the call
    /// then fails, which is fine.
    fn park(&mut self) -> Option<Flow> {
        let left = settle(&mut self.fd, &self.buses);
        let _ = self.fd.kvmclock_ctrl();
        left
    }
}
