//! Classic BPF for seccomp: a search tree over the numbers of system calls, with
//! checks of arguments at its leaves.
//!
//! ```text
//!  architecture? ─► number ≥ middle? ─► … ─► verdict, or: arguments as in rule 1? verdict : rule 2? … : default
//! ```

use super::verdict;
use crate::error::{Result, invalid};

/// The kernel's own limit (BPF_MAXINSNS).
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Offsets in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
/// Architectures (linux/audit.h), as the kernel tells them for each call.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
/// Numbers from here on are those of the x32 ABI, which our kernel lacks.
const X32: u32 = 0x4000_0000;
const ENOSYS: u32 = 38;

/// Operations (linux/bpf_common.h).
mod op {
    /// Loads a word of struct seccomp_data.
    pub const LOAD: u16 = 0x20;
    pub const AND: u16 = 0x54;
    pub const JUMP: u16 = 0x05;
    pub const IF_EQUAL: u16 = 0x15;
    pub const IF_GREATER: u16 = 0x25;
    pub const IF_GREATER_OR_EQUAL: u16 = 0x35;
    pub const RETURN: u16 = 0x06;
}

/// How an argument is compared, as 64 bits without sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
}

/// A condition on one argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// 0 to 5.
    pub argument: usize,
    pub comparison: Comparison,
    /// Bits that are looked at.
    pub mask: u64,
    pub value: u64,
}

/// What a call gets whose arguments meet all conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub conditions: Vec<Condition>,
    pub verdict: u32,
}

/// What a number gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leaf {
    Verdict(u32),
    /// That of the first rule that applies, or the default.
    Rules(Vec<Rule>, u32),
}

impl Leaf {
    /// Rules in their order; none after one without conditions is ever reached.
    pub fn of(mut rules: Vec<Rule>, default: u32) -> Self {
        let Some(last) = rules.iter().position(|rule| rule.conditions.is_empty()) else {
            return Self::Rules(rules, default);
        };
        let verdict = rules.get(last).map_or(default, |rule| rule.verdict);
        rules.truncate(last);
        match rules.is_empty() {
            true => Self::Verdict(verdict),
            false => Self::Rules(rules, verdict),
        }
    }
}

/// One instruction, as struct sock_filter has it.
fn instruction(operation: u16, if_true: u8, if_false: u8, operand: u32) -> u64 {
    u64::from(operation) | u64::from(if_true) << 16 | u64::from(if_false) << 24 | u64::from(operand) << 32
}

fn ret(verdict: u32) -> u64 {
    instruction(op::RETURN, 0, 0, verdict)
}

/// Skips as many instructions.
fn jump(length: usize) -> Result<u64> {
    let length = u32::try_from(length).map_err(|_| too_long())?;
    Ok(instruction(op::JUMP, 0, 0, length))
}

/// A profile that is too much for the kernel.
pub fn too_long() -> koya_proto::error::AgentError {
    invalid(format!(
        "config.linux.seccomp makes a filter of more than {MAX_INSTRUCTIONS} instructions, which is the kernel's limit"
    ))
}

/// The whole filter. Without `compatible`, 32-bit calls end their process.
pub fn assemble(native: &[(u32, Leaf)], compatible: Option<&[(u32, Leaf)]>) -> Result<Vec<u64>> {
    let mut compatible_code = vec![ret(verdict::KILL_PROCESS)];
    if let Some(leaves) = compatible {
        compatible_code = vec![
            instruction(op::IF_EQUAL, 1, 0, I386),
            ret(verdict::KILL_PROCESS),
            instruction(op::LOAD, 0, 0, NUMBER),
        ];
        compatible_code.extend(tree(leaves)?);
    }
    let mut code = vec![
        instruction(op::LOAD, 0, 0, ARCHITECTURE),
        instruction(op::IF_EQUAL, 1, 0, X86_64),
        0,
        instruction(op::LOAD, 0, 0, NUMBER),
        instruction(op::IF_GREATER_OR_EQUAL, 0, 1, X32),
        ret(verdict::ERRNO | ENOSYS),
    ];
    code.extend(tree(native)?);
    let to_compatible = jump(code.len().saturating_sub(3))?;
    if let Some(place) = code.get_mut(2) {
        *place = to_compatible;
    }
    code.extend(compatible_code);
    if code.len() > MAX_INSTRUCTIONS {
        return Err(too_long());
    }
    Ok(code)
}

/// Searches for the number, which is loaded.
fn tree(leaves: &[(u32, Leaf)]) -> Result<Vec<u64>> {
    let (left, right) = leaves.split_at(leaves.len() / 2);
    match (left, right) {
        ([], [(_, leaf), ..]) => leaf_code(leaf),
        (_, [(middle, _), ..]) => {
            let below = tree(left)?;
            let mut code = vec![
                instruction(op::IF_GREATER_OR_EQUAL, 0, 1, *middle),
                jump(below.len())?,
            ];
            code.extend(below);
            code.extend(tree(right)?);
            Ok(code)
        }
        _ => Ok(vec![ret(verdict::KILL_PROCESS)]),
    }
}

fn leaf_code(leaf: &Leaf) -> Result<Vec<u64>> {
    let (rules, default) = match leaf {
        Leaf::Verdict(verdict) => return Ok(vec![ret(*verdict)]),
        Leaf::Rules(rules, default) => (rules, *default),
    };
    let mut code = Vec::new();
    for rule in rules {
        // What does not meet a condition goes on behind the rule's verdict.
        let mut passed = vec![ret(rule.verdict)];
        for condition in rule.conditions.iter().rev() {
            let mut check = check(condition, passed.len())?;
            check.extend(passed);
            passed = check;
        }
        code.extend(passed);
    }
    code.push(ret(default));
    Ok(code)
}

/// Goes on if a condition is met; skips `rest` instructions more if not.
fn check(condition: &Condition, rest: usize) -> Result<Vec<u64>> {
    let argument = u32::try_from(condition.argument).map_err(|_| too_long())?;
    let low = FIRST_ARGUMENT.saturating_add(argument.saturating_mul(8));
    let load = |half: Half| {
        let (offset, mask) = match half {
            Half::High => (low.saturating_add(4), condition.mask >> 32),
            Half::Low => (low, condition.mask & 0xffff_ffff),
        };
        let mask = u32::try_from(mask).unwrap_or(u32::MAX);
        [
            instruction(op::LOAD, 0, 0, offset),
            instruction(op::AND, 0, 0, mask),
        ]
    };
    let high_value = u32::try_from(condition.value >> 32).unwrap_or(u32::MAX);
    let low_value = u32::try_from(condition.value & 0xffff_ffff).unwrap_or(u32::MAX);
    // What the whole is if the high halves differ, by which is greater; the test of the low
    // halves if they are equal, and whether it has to hold.
    let (less, greater, test, holds) = match condition.comparison {
        Comparison::Equal => (false, false, op::IF_EQUAL, true),
        Comparison::NotEqual => (true, true, op::IF_EQUAL, false),
        Comparison::Greater => (false, true, op::IF_GREATER, true),
        Comparison::GreaterOrEqual => (false, true, op::IF_GREATER_OR_EQUAL, true),
        Comparison::Less => (true, false, op::IF_GREATER_OR_EQUAL, false),
        Comparison::LessOrEqual => (true, false, op::IF_GREATER, false),
    };
    let rest = u8::try_from(rest).map_err(|_| too_long())?;
    // Distances to behind this check, where it is met, and behind the rule, where it is not.
    let target = |met: bool, behind: u8| match met {
        true => behind,
        false => behind.saturating_add(rest),
    };
    let mut code = Vec::new();
    code.extend(load(Half::High));
    code.push(instruction(op::IF_GREATER, target(greater, 4), 0, high_value));
    code.push(instruction(op::IF_EQUAL, 0, target(less, 3), high_value));
    code.extend(load(Half::Low));
    code.push(instruction(test, target(holds, 0), target(!holds, 0), low_value));
    if rest > u8::MAX.saturating_sub(4) {
        return Err(too_long());
    }
    Ok(code)
}

enum Half {
    High,
    Low,
}
