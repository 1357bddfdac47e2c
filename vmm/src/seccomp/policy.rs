//! Which system calls the threads of a running microVM need, and what for.

use libc::c_long;

/// A system call that a thread may make.
pub(super) struct Rule {
    pub(super) call: c_long,
    /// What is asked of its arguments; nothing: whatever they are.
    pub(super) only: Option<Only>,
}

/// What is asked of the lower half of an argument.
#[derive(Clone, Copy)]
pub(super) struct Only {
    /// Which, from 0.
    pub(super) argument: u8,
    pub(super) test: Test,
}

#[derive(Clone, Copy)]
pub(super) enum Test {
    /// It is one of these.
    OneOf(&'static [u32]),
    /// It has none of these bits.
    Without(u32),
    /// It is this process's number.
    OwnProcess,
    /// It is 0, which is whoever calls.
    Caller,
    /// None: the kernel is said not to have the call. Whoever can do without does.
    Absent,
}

impl Test {
    /// The list, if it is one.
    pub(super) fn values(self) -> Option<&'static [u32]> {
        match self {
            Self::OneOf(values) => Some(values),
            _ => None,
        }
    }
}

const fn any(call: c_long) -> Rule {
    Rule { call, only: None }
}

const fn one_of(call: c_long, argument: u8, values: &'static [u32]) -> Rule {
    tested(call, argument, Test::OneOf(values))
}

const fn without(call: c_long, argument: u8, bits: u32) -> Rule {
    tested(call, argument, Test::Without(bits))
}

const fn tested(call: c_long, argument: u8, test: Test) -> Rule {
    Rule {
        call,
        only: Some(Only { argument, test }),
    }
}

/// `linux/kvm.h`.
mod kvm {
    pub(super) const RUN: u32 = 0xae80;
    pub(super) const KVMCLOCK_CTRL: u32 = 0xaead;
    pub(super) const GET_REGS: u32 = 0x8090_ae81;
    pub(super) const GET_SREGS: u32 = 0x8138_ae83;
    pub(super) const TRANSLATE: u32 = 0xc018_ae85;
    // What a snapshot is made of.
    pub(super) const GET_API_VERSION: u32 = 0xae00;
    pub(super) const GET_MSR_INDEX_LIST: u32 = 0xc004_ae02;
    pub(super) const GET_VCPU_MMAP_SIZE: u32 = 0xae04;
    pub(super) const GET_CLOCK: u32 = 0x8030_ae7c;
    pub(super) const GET_MSRS: u32 = 0xc008_ae88;
    pub(super) const GET_LAPIC: u32 = 0x8400_ae8e;
    pub(super) const GET_CPUID2: u32 = 0xc008_ae91;
    pub(super) const GET_MP_STATE: u32 = 0x8004_ae98;
    pub(super) const GET_VCPU_EVENTS: u32 = 0x8040_ae9f;
    pub(super) const GET_DEBUGREGS: u32 = 0x8080_aea1;
    pub(super) const GET_TSC_KHZ: u32 = 0xaea3;
    pub(super) const GET_XSAVE: u32 = 0x9000_aea4;
    pub(super) const GET_XCRS: u32 = 0x8188_aea6;
    pub(super) const SET_GSI_ROUTING: u32 = 0x4008_ae6a;
    pub(super) const IRQFD: u32 = 0x4020_ae76;
    pub(super) const IOEVENTFD: u32 = 0x4040_ae79;
}

/// `linux/if_tun.h`: what the driver takes, at DRIVER_OK and at a reset.
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNSETIFF: u32 = 0x4004_54ca;
const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;
/// `linux/sockios.h`.
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCETHTOOL: u32 = 0x8946;
/// `linux/fs.h`: a disk that is a block device.
const BLKDISCARD: u32 = 0x1277;
/// `asm-generic/ioctls.h`: the terminal's settings are given back, whichever thread a signal hits.
const TCGETS: u32 = 0x5401;
const TCSETS: u32 = 0x5402;
const TIOCGPGRP: u32 = 0x540f;
const FIONBIO: u32 = 0x5421;

/// `PROT_EXEC`, of the protection: memory is never executable.
const EXECUTABLE: u32 = 4;

/// `linux/sched.h`: a thread as the C library starts one, which is no process and has no namespace of its own.
const THREAD: u32 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u32;

/// Of both kinds of threads.
pub(super) const ALL: &[Rule] = &[
    // Events, devices, the console, the log.
    any(libc::SYS_read),
    any(libc::SYS_readv),
    any(libc::SYS_write),
    any(libc::SYS_writev),
    any(libc::SYS_close),
    any(libc::SYS_fcntl),
    any(libc::SYS_poll),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_eventfd2),
    any(libc::SYS_timerfd_settime),
    // Disks; a reset finishes what is in flight on one.
    any(libc::SYS_preadv),
    any(libc::SYS_pwritev),
    any(libc::SYS_fdatasync),
    any(libc::SYS_fallocate),
    // A reset ends connections of the socket device, and takes queues from whoever serves a shared folder.
    any(libc::SYS_sendto),
    any(libc::SYS_sendmsg),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmsg),
    any(libc::SYS_shutdown),
    // Memory.
    any(libc::SYS_brk),
    without(libc::SYS_mmap, 2, EXECUTABLE),
    without(libc::SYS_mprotect, 2, EXECUTABLE),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    any(libc::SYS_madvise),
    // Locks, clocks, random numbers.
    any(libc::SYS_futex),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    any(libc::SYS_sched_yield),
    any(libc::SYS_getrandom),
    // A thread that watches over the deadline of a conversation with whoever serves a shared folder. What clone3(2) is to
    // do stands in memory, where no filter looks; the C library then takes clone(2).
    tested(libc::SYS_clone3, 0, Test::Absent),
    one_of(libc::SYS_clone, 0, &[THREAD]),
    any(libc::SYS_rseq),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_sigaltstack),
    one_of(libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u32]),
    any(libc::SYS_exit),
    // Signals, and the end of the process, which leaves no core of a guest's memory behind.
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_alarm),
    any(libc::SYS_getpid),
    any(libc::SYS_gettid),
    tested(libc::SYS_tgkill, 0, Test::OwnProcess),
    tested(libc::SYS_prlimit64, 0, Test::Caller),
    any(libc::SYS_setrlimit),
    any(libc::SYS_exit_group),
];

/// Of those that run the guest, beside [`ALL`]: they open nothing.
pub(super) const VCPU: &[Rule] = &[one_of(
    libc::SYS_ioctl,
    1,
    &[
        kvm::RUN,
        // After a pause.
        kvm::KVMCLOCK_CTRL,
        // The guest sets up its interrupts, and its devices' doorbells at DRIVER_OK.
        kvm::SET_GSI_ROUTING,
        kvm::IRQFD,
        kvm::IOEVENTFD,
        TUNSETOFFLOAD,
        // The report of a fault.
        kvm::GET_REGS,
        kvm::GET_SREGS,
        kvm::TRANSLATE,
        TCGETS,
        TCSETS,
    ],
)];

/// Of all threads of a microVM with an `Async` drive, beside theirs. What a ring does passes no filter.
pub(super) const RINGS: &[Rule] = &[
    any(libc::SYS_io_uring_setup),
    any(libc::SYS_io_uring_enter),
    any(libc::SYS_io_uring_register),
];

/// Of the event loop of a microVM with spare windows, beside its own: PUT /network-interfaces opens a tap.
pub(super) const PLUGS: &[Rule] = &[one_of(
    libc::SYS_ioctl,
    1,
    &[
        TUNSETIFF,
        TUNSETVNETHDRSZ,
        // Whether there is such an interface, and what it is if it is no tap.
        SIOCGIFINDEX,
        SIOCETHTOOL,
    ],
)];

/// Of the one with the event loop, beside [`ALL`].
pub(super) const MONITOR: &[Rule] = &[
    one_of(
        libc::SYS_ioctl,
        1,
        &[
            kvm::SET_GSI_ROUTING,
            kvm::IRQFD,
            kvm::IOEVENTFD,
            // PUT /snapshot/create.
            kvm::GET_API_VERSION,
            kvm::GET_MSR_INDEX_LIST,
            kvm::GET_VCPU_MMAP_SIZE,
            kvm::GET_CLOCK,
            kvm::GET_CPUID2,
            kvm::GET_DEBUGREGS,
            kvm::GET_LAPIC,
            kvm::GET_MP_STATE,
            kvm::GET_MSRS,
            kvm::GET_REGS,
            kvm::GET_SREGS,
            kvm::GET_TSC_KHZ,
            kvm::GET_VCPU_EVENTS,
            kvm::GET_XCRS,
            kvm::GET_XSAVE,
            TUNSETOFFLOAD,
            BLKDISCARD,
            TCGETS,
            TCSETS,
            TIOCGPGRP,
            FIONBIO,
        ],
    ),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_timerfd_create),
    any(libc::SYS_ppoll),
    any(libc::SYS_dup),
    // PUT and PATCH /drives, PUT /logger, PUT /metrics, PUT /snapshot/create and
    // PUT /snapshot/working-set name files, and /proc/self/pagemap is one; the sockets' names go at the end.
    any(libc::SYS_openat),
    any(libc::SYS_fstat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_statx),
    any(libc::SYS_lseek),
    // A snapshot's memory has holes, and is asked where it has none.
    any(libc::SYS_ftruncate),
    any(libc::SYS_pread64),
    any(libc::SYS_pwrite64),
    any(libc::SYS_unlink),
    any(libc::SYS_fsync),
    // Clients of the API and of the socket device; what the guest's programs connect to.
    any(libc::SYS_accept4),
    any(libc::SYS_connect),
    any(libc::SYS_getsockopt),
    any(libc::SYS_setsockopt),
    one_of(libc::SYS_socket, 0, &[libc::AF_UNIX as u32]),
    // Whether the terminal listens to this process.
    any(libc::SYS_getpgrp),
];
