//! Which system calls a container has.
//!
//! What programs need is allowed, the rest answers EPERM. Which calls those are, and which ones come with which
//! capability, is as docker has it; AF_VSOCK, over which a microVM talks to its host, is nobody's in a container.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{ProcessSpec, security};

/// A filter of system calls.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// docker's: what programs need, and what the process's capabilities are for. For an init: all but what reaches
    /// the kernel.
    #[default]
    Default,
    /// Every call there is.
    Unconfined,
    /// `linux.seccomp` of the specification.
    Profile(Value),
}

/// Calls of every container, by what they are about.
const USUAL: [&str; 9] = [
    // Files by descriptor.
    "close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fchdir fcntl fcntl64 fdatasync \
     flock fstat fstat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 getdents getdents64 ioctl _llseek lseek pread64 \
     preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 splice sync sync_file_range \
     syncfs tee vmsplice write writev cachestat",
    // Files by name, their owners and attributes.
    "access chdir chmod chown chown32 creat faccessat faccessat2 fchmod fchmodat fchmodat2 fchown fchown32 fchownat \
     fgetxattr flistxattr fremovexattr fsetxattr fstatat64 futimesat getcwd getxattr lchown lchown32 lgetxattr link \
     linkat listxattr llistxattr lremovexattr lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at \
     newfstatat open openat openat2 readlink readlinkat removexattr rename renameat renameat2 rmdir setxattr stat \
     stat64 statfs statfs64 statx symlink symlinkat truncate truncate64 umask unlink unlinkat utime utimensat \
     utimensat_time64 utimes",
    // Waiting for events.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd \
     eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy \
     io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect pause poll ppoll ppoll_time64 \
     pselect6 pselect6_time64 select signalfd signalfd4",
    // Memory.
    "brk madvise membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap mseal \
     msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect remap_file_pages map_shadow_stack",
    // Processes and threads.
    "arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait \
     futex_waitv futex_wake get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getpriority \
     getrlimit getrusage getsid gettid ioprio_get ioprio_set modify_ldt pidfd_open pidfd_send_signal prctl prlimit64 \
     process_mrelease process_vm_readv process_vm_writev ptrace rseq sched_get_priority_max sched_get_priority_min \
     sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
     sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield \
     set_robust_list set_thread_area set_tid_address setpgid setpriority setrlimit setsid times ugetrlimit vfork \
     wait4 waitid waitpid",
    // Users, and filters that a process puts on itself.
    "getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 getresuid \
     getresuid32 getuid getuid32 landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp setfsgid \
     setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 \
     setresuid setresuid32 setreuid setreuid32 setuid setuid32",
    // Signals and time.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
     clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday kill nanosleep restart_syscall rt_sigaction \
     rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
     rt_tgsigqueueinfo setitimer sigaltstack sigprocmask sigreturn tgkill time timer_create timer_delete \
     timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
     timerfd_gettime64 timerfd_settime timerfd_settime64 tkill",
    // Sockets, and messages between processes.
    "accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify mq_open \
     mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd \
     pipe pipe2 recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send \
     sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketcall socketpair",
    // The system.
    "getrandom sysinfo uname",
];
/// Calls that come with a capability.
const WITH_CAPABILITY: [(&str, &str); 13] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns statmount syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module finit_module init_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "ioperm iopl"),
    ("SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("SYS_TTY_CONFIG", "vhangup"),
    (
        "SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
];
/// What an init does not have: it reaches the kernel, and no namespace confines it.
const NOT_FOR_INITS: &str = "delete_module finit_module init_module ioperm iopl kexec_file_load kexec_load";
/// Flags of clone(2) for namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// personality(2): as it is, PER_LINUX32, UNAME26, both, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

impl Seccomp {
    /// `linux.seccomp` of the specification, if there is to be a filter.
    pub(super) fn to_json(&self, process: &ProcessSpec) -> Option<Value> {
        match self {
            Self::Profile(profile) => Some(profile.clone()),
            Self::Unconfined => None,
            Self::Default if process.privileged => None,
            Self::Default if process.system => Some(of_inits()),
            Self::Default => Some(usual(&security::granted(process))),
        }
    }
}

/// EPERM is the errno of `SCMP_ACT_ERRNO` that names none; other actions take none.
fn profile(default: &str, calls: Vec<Value>) -> Value {
    json!({
        "defaultAction": default,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": calls,
    })
}

fn names(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

fn allow(text: &str) -> Value {
    json!({ "names": names(text), "action": "SCMP_ACT_ALLOW" })
}

fn allow_if(name: &str, operator: &str, value: u64) -> Value {
    json!({
        "names": [name], "action": "SCMP_ACT_ALLOW",
        "args": [{ "index": 0, "value": value, "valueTwo": 0, "op": operator }],
    })
}

fn refuse(text: &str, errno: u32) -> Value {
    json!({ "names": names(text), "action": "SCMP_ACT_ERRNO", "errnoRet": errno })
}

/// Everything but the kernel's own, and the way to the host.
fn of_inits() -> Value {
    let vsock = json!({
        "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM,
        "args": [{ "index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_EQ" }],
    });
    profile("SCMP_ACT_ALLOW", vec![refuse(NOT_FOR_INITS, EPERM), vsock])
}

fn usual(granted: &[&str]) -> Value {
    let mut calls: Vec<Value> = USUAL.map(allow).into();
    let with = WITH_CAPABILITY
        .iter()
        .filter(|(capability, _)| granted.contains(capability));
    calls.extend(with.map(|(_, names)| allow(names)));
    calls.push(allow_if("socket", "SCMP_CMP_NE", AF_VSOCK));
    calls.extend(PERSONALITIES.map(|value| allow_if("personality", "SCMP_CMP_EQ", value)));
    if !granted.contains(&"SYS_ADMIN") {
        // Without new namespaces. Of clone3 a filter cannot see the flags: C libraries then
        // take clone, if they are told that it does not exist.
        calls.push(allow_if("clone", "SCMP_CMP_MASKED_EQ", NEW_NAMESPACES));
        calls.push(refuse("clone3", ENOSYS));
        if granted.contains(&"PERFMON") {
            calls.push(allow("perf_event_open"));
        }
    }
    profile("SCMP_ACT_ERRNO", calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rules of a process's profile for a call.
    fn rules(process: &ProcessSpec, call: &str) -> Vec<Value> {
        let profile = Seccomp::Default.to_json(process).unwrap();
        let all = profile["syscalls"].as_array().unwrap();
        let names_it = |rule: &&Value| rule["names"].as_array().unwrap().contains(&json!(call));
        all.iter().filter(names_it).cloned().collect()
    }

    #[test]
    fn calls_come_with_their_capabilities() {
        let plain = ProcessSpec::default();
        let adding = |name: &str| ProcessSpec {
            cap_add: vec![name.to_owned()],
            ..Default::default()
        };
        assert_eq!(rules(&plain, "openat").len(), 1);
        assert!(rules(&plain, "mount").is_empty() && rules(&plain, "reboot").is_empty());
        assert_eq!(rules(&adding("SYS_ADMIN"), "mount").len(), 1);
        assert_eq!(rules(&adding("SYS_BOOT"), "reboot").len(), 1);
        assert_eq!(rules(&plain, "clone3")[0]["errnoRet"], ENOSYS);
        assert_eq!(
            rules(&adding("SYS_ADMIN"), "clone3")[0]["action"],
            "SCMP_ACT_ALLOW"
        );
        assert_eq!(rules(&plain, "socket")[0]["args"][0]["value"], AF_VSOCK);
    }

    #[test]
    fn calls_are_named_once() {
        let mut all: Vec<&str> = USUAL.iter().flat_map(|group| group.split_whitespace()).collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }

    #[test]
    fn privileged_containers_have_no_filter_and_inits_a_short_one() {
        let privileged = ProcessSpec {
            privileged: true,
            ..Default::default()
        };
        assert_eq!(Seccomp::Default.to_json(&privileged), None);
        assert_eq!(Seccomp::Unconfined.to_json(&ProcessSpec::default()), None);
        let init = ProcessSpec {
            system: true,
            ..Default::default()
        };
        let profile = Seccomp::Default.to_json(&init).unwrap();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
        // The specification wants an errno refused for an action that answers none.
        assert_eq!(profile.get("defaultErrnoRet"), None);
        assert_eq!(rules(&init, "kexec_load")[0]["action"], "SCMP_ACT_ERRNO");
    }
}
