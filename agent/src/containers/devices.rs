//! Which devices a container may make, read and write: `linux.resources.devices`
//! as a program of the kernel's, which asks it for each such access.
//!
//! cgroup v2 has no files for this: rules are a BPF program of the type
//! BPF_PROG_TYPE_CGROUP_DEVICE, attached to the cgroup. Of two rules that match,
//! the later one counts, and each kind of access is looked at for itself; what no
//! rule allows is refused.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use nix::errno::Errno;

use crate::error::{Result, invalid, runtime};

/// Each makes up to nine instructions, of which the kernel takes a million.
const MAX_RULES: usize = 4096;

/// bpf(2): commands, the program's type, where and how it is attached.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE: u32 = 6;
/// Containers below this one may have programs, too, which then all have to agree.
const ALLOW_MULTI: u32 = 2;

/// struct bpf_cgroup_dev_ctx: kinds of devices, and of access.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Registers: the result, the context, then what is taken from it.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Operations of 64 bits with an operand in the instruction.
mod op {
    pub const LOAD_WORD: u8 = 0x61;
    pub const SET: u8 = 0xb7;
    pub const COPY: u8 = 0xbf;
    pub const AND: u8 = 0x57;
    pub const SHIFT_RIGHT: u8 = 0x77;
    pub const IF_EQUAL: u8 = 0x15;
    pub const IF_NOT_EQUAL: u8 = 0x55;
    pub const EXIT: u8 = 0x95;
}

/// struct bpf_insn.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    operation: u8,
    /// Destination in the lower half, source in the upper one.
    registers: u8,
    offset: i16,
    operand: i32,
}

const fn instruction(operation: u8, register: u8, offset: i16, operand: i32) -> Instruction {
    Instruction {
        operation,
        registers: register,
        offset,
        operand,
    }
}

const fn load(register: u8, offset: i16) -> Instruction {
    instruction(op::LOAD_WORD, register | CONTEXT << 4, offset, 0)
}

/// Has the kernel ask these rules for everything in a cgroup, from now on.
pub fn restrict(cgroup: &Path, rules: &[LinuxDeviceCgroup]) -> Result<()> {
    let program = compile(rules)?;
    attach(cgroup, &program).map_err(runtime("restrict the container's devices"))
}

fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>> {
    if rules.len() > MAX_RULES {
        return Err(invalid(format!(
            "config.linux.resources.devices has {} rules; at most {MAX_RULES} are taken",
            rules.len()
        )));
    }
    let mut program = vec![
        load(ACCESS, 0),
        instruction(op::COPY, KIND | ACCESS << 4, 0, 0),
        instruction(op::AND, KIND, 0, 0xffff),
        instruction(op::SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        program.extend(rule_code(rule)?);
    }
    program.extend(end(false));
    Ok(program)
}

fn end(allowed: bool) -> [Instruction; 2] {
    [
        instruction(op::SET, RESULT, 0, allowed.into()),
        instruction(op::EXIT, 0, 0, 0),
    ]
}

/// Tests a rule; goes on with the instruction behind it if it does not decide.
fn rule_code(rule: &LinuxDeviceCgroup) -> Result<Vec<Instruction>> {
    let access = access(rule)?;
    let mut decide = if rule.allow() {
        // What is allowed by it needs no further rule.
        vec![
            instruction(op::AND, ACCESS, 0, !access),
            instruction(op::IF_NOT_EQUAL, ACCESS, 2, 0),
        ]
    } else {
        vec![
            instruction(op::COPY, SCRATCH | ACCESS << 4, 0, 0),
            instruction(op::AND, SCRATCH, 0, access),
            instruction(op::IF_EQUAL, SCRATCH, 2, 0),
        ]
    };
    decide.extend(end(rule.allow()));
    let mut wanted = Vec::new();
    match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => {}
        LinuxDeviceType::B => wanted.push((KIND, BLOCK)),
        LinuxDeviceType::C | LinuxDeviceType::U => wanted.push((KIND, CHARACTER)),
        LinuxDeviceType::P => {
            return Err(invalid(
                "config.linux.resources.devices has a rule for pipes; rules are for a, b, c and u",
            ));
        }
    }
    for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        // -1 is any, as it was in cgroup v1.
        if let Some(number) = number.filter(|&number| number != -1) {
            wanted.push((register, self::number(number)?));
        }
    }
    let mut code = Vec::new();
    for (index, (register, value)) in wanted.iter().enumerate() {
        let rest = wanted.len().saturating_sub(index).saturating_sub(1);
        // At most 2 + 5.
        let offset = i16::try_from(rest.saturating_add(decide.len())).unwrap_or(i16::MAX);
        code.push(instruction(op::IF_NOT_EQUAL, *register, offset, *value));
    }
    code.extend(decide);
    Ok(code)
}

fn number(number: i64) -> Result<i32> {
    i32::try_from(number)
        .ok()
        .filter(|&number| number >= 0)
        .ok_or_else(|| {
            invalid(format!(
                "config.linux.resources.devices names device number {number}; want 0 to {}, or none for any",
                i32::MAX
            ))
        })
}

fn access(rule: &LinuxDeviceCgroup) -> Result<i32> {
    let letters = rule.access().as_deref().unwrap_or("rwm");
    letters.chars().try_fold(0, |bits, letter| match letter {
        'r' => Ok(bits | READ),
        'w' => Ok(bits | WRITE),
        'm' => Ok(bits | MAKE),
        other => Err(invalid(format!(
            "config.linux.resources.devices has access '{other}'; want some of r, w and m"
        ))),
    })
}

/// The beginning of union bpf_attr for BPF_PROG_LOAD.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The same for BPF_PROG_ATTACH.
#[repr(C)]
struct AttachAttributes {
    target: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

fn attach(cgroup: &Path, program: &[Instruction]) -> io::Result<()> {
    let load = LoadAttributes {
        kind: CGROUP_DEVICE_PROGRAM,
        count: u32::try_from(program.len()).map_err(io::Error::other)?,
        instructions: program.as_ptr() as u64,
        // It calls nothing that asks for another one.
        licence: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes, the instructions and the licence live through the call; the
    // size is that of the attributes.
    let raw = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_LOAD,
            &raw const load,
            size_of::<LoadAttributes>(),
        )
    };
    let raw = i32::try_from(Errno::result(raw)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it; nobody else knows it.
    let program = unsafe { OwnedFd::from_raw_fd(raw) };
    let folder = File::open(cgroup)?;
    let attach = AttachAttributes {
        target: folder.as_raw_fd(),
        program: program.as_raw_fd(),
        kind: CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the attributes live through the call, and their size is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<AttachAttributes>(),
        )
    };
    Errno::result(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;

    fn compiled(rules: Value) -> Result<Vec<Instruction>> {
        compile(&Vec::<LinuxDeviceCgroup>::deserialize(rules).unwrap())
    }

    /// Runs a program for an access, as the kernel does.
    fn allows(program: &[Instruction], kind: i32, access: i32, major: u64, minor: u64) -> bool {
        let context = [(access << 16 | kind) as u64, major, minor];
        let (mut registers, mut at) = ([0_u64; 11], 0_usize);
        loop {
            let Instruction {
                operation,
                registers: both,
                offset,
                operand,
            } = program[at];
            let (register, source) = (usize::from(both & 15), usize::from(both >> 4));
            let operand = i64::from(operand) as u64;
            at += 1;
            match operation {
                op::LOAD_WORD => registers[register] = context[offset as usize / 4],
                op::SET => registers[register] = operand,
                op::COPY => registers[register] = registers[source],
                op::AND => registers[register] &= operand,
                op::SHIFT_RIGHT => registers[register] >>= operand,
                op::IF_EQUAL if registers[register] != operand => {}
                op::IF_NOT_EQUAL if registers[register] == operand => {}
                op::IF_EQUAL | op::IF_NOT_EQUAL => at += offset as usize,
                op::EXIT => return registers[0] == 1,
                other => panic!("operation {other:#x}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_matches_counts() {
        let program = compiled(json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "access": "m" },
            { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm" },
            { "allow": true, "type": "c", "major": 136, "access": "rw" },
            { "allow": false, "type": "c", "major": 136, "minor": 7, "access": "w" },
        ]))
        .unwrap();
        let allows = |kind, access, major, minor| allows(&program, kind, access, major, minor);
        assert!(allows(CHARACTER, READ | WRITE, 1, 3));
        assert!(!allows(BLOCK, READ, 1, 3));
        assert!(!allows(CHARACTER, READ, 1, 1));
        assert!(allows(CHARACTER, MAKE, 1, 1) && !allows(BLOCK, MAKE, 8, 0));
        // Each kind of access may be allowed by another rule.
        assert!(allows(CHARACTER, MAKE | READ | WRITE, 136, 5));
        assert!(allows(CHARACTER, READ, 136, 7) && !allows(CHARACTER, READ | WRITE, 136, 7));
    }

    #[test]
    fn everything_or_nothing() {
        let all =
            compiled(json!([{ "allow": true, "type": "a", "major": -1, "minor": -1, "access": "rwm" }]));
        assert!(allows(&all.unwrap(), BLOCK, READ | WRITE | MAKE, 254, 0));
        let none = compiled(json!([{ "allow": false }])).unwrap();
        assert!(!allows(&none, CHARACTER, READ, 1, 3));
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let message = |rules| compiled(rules).unwrap_err().message;
        assert!(message(json!([{ "allow": true, "access": "x" }])).contains("'x'"));
        assert!(message(json!([{ "allow": true, "major": -2 }])).contains("-2"));
        assert!(message(json!([{ "allow": true, "type": "p" }])).contains("pipes"));
    }
}
