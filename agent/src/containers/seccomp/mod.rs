//! `linux.seccomp` of config.json, made into a filter of system calls.
//!
//! libcontainer would have libseccomp, a C library, do it; seccompiler knows one
//! action beside the default and kills 32-bit programs. So this is our own:
//!
//! ```text
//!  rules by name ──► rules by number, for each architecture ──► ranges of numbers ──► classic BPF (filter)
//! ```

mod filter;
mod table;

use std::collections::BTreeMap;

use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};

use crate::error::{Result, invalid};
use crate::helper::Filter;
use filter::{Comparison, Condition, Leaf, Rule};

/// What a system call gets (seccomp(2), SECCOMP_RET_*).
mod verdict {
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    pub const KILL_THREAD: u32 = 0;
    pub const TRAP: u32 = 0x0003_0000;
    pub const ERRNO: u32 = 0x0005_0000;
    pub const TRACE: u32 = 0x7ff0_0000;
    pub const LOG: u32 = 0x7ffc_0000;
    pub const ALLOW: u32 = 0x7fff_0000;
}

/// The most that a list of rules may have; docker's has 30.
const MAX_RULES: usize = 4096;
/// Arguments of a system call.
const ARGUMENTS: usize = 6;

/// Makes the filter.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter> {
    Ok(Filter {
        code: code(profile)?,
        flags: flags(profile)?,
    })
}

fn flags(profile: &LinuxSeccomp) -> Result<u64> {
    let listed = profile.flags().as_deref().unwrap_or_default();
    listed.iter().try_fold(0, |flags, flag| {
        let flag = match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            other => {
                return Err(invalid(format!(
                    "config.linux.seccomp.flags has {other}, which is for those who listen, and nobody does here"
                )));
            }
        };
        Ok(flags | flag)
    })
}

fn code(profile: &LinuxSeccomp) -> Result<Vec<u64>> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    if rules.len() > MAX_RULES {
        return Err(invalid(format!(
            "config.linux.seccomp.syscalls has {} rules; at most {MAX_RULES} are taken",
            rules.len()
        )));
    }
    let listed = profile.architectures().as_deref().unwrap_or_default();
    let compatible = listed.contains(&Arch::ScmpArchX86);
    let native = leaves(rules, default, |numbers| numbers.native)?;
    let compatible = match compatible {
        true => Some(leaves(rules, default, |numbers| numbers.compatible)?),
        false => None,
    };
    filter::assemble(&native, compatible.as_deref())
}

/// A system call's numbers.
#[derive(Clone, Copy)]
struct Numbers {
    native: Option<u32>,
    compatible: Option<u32>,
}

fn numbers() -> BTreeMap<&'static str, Numbers> {
    let entry = |text: &'static str| {
        let mut words = text.split_whitespace();
        let name = words.next()?;
        let mut number = || words.next().and_then(|word| word.parse().ok());
        let (native, compatible) = (number(), number());
        Some((name, Numbers { native, compatible }))
    };
    table::CALLS.split(';').filter_map(entry).collect()
}

/// What each number gets: (first number, leaf), ascending, beginning with 0. A
/// name that this architecture lacks is passed over.
fn leaves(
    rules: &[LinuxSyscall],
    default: u32,
    number: impl Fn(Numbers) -> Option<u32>,
) -> Result<Vec<(u32, Leaf)>> {
    let known = numbers();
    let mut count: usize = 0;
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for rule in rules {
        if rule.names().is_empty() {
            return Err(invalid(
                "config.linux.seccomp.syscalls has an entry without names; want at least one",
            ));
        }
        let verdict = action(rule.action(), rule.errno_ret())?;
        let alternatives = alternatives(rule)?;
        let found = rule
            .names()
            .iter()
            .filter_map(|name| known.get(name.as_str()).copied());
        for number in found.filter_map(&number) {
            // Each makes at least one instruction; a few lines of JSON could make millions.
            count = count.saturating_add(alternatives.len());
            if count > filter::MAX_INSTRUCTIONS {
                return Err(filter::too_long());
            }
            let all = calls.entry(number).or_default();
            all.extend(alternatives.iter().map(|conditions| Rule {
                conditions: conditions.clone(),
                verdict,
            }));
        }
    }
    let mut ranges: Vec<(u32, Leaf)> = vec![(0, Leaf::Verdict(default))];
    let mut put = |from: u32, leaf: Leaf| {
        // Nothing lies between two numbers that follow each other.
        let _ = ranges.pop_if(|(start, _)| *start == from);
        if ranges.last().is_none_or(|(_, last)| *last != leaf) {
            ranges.push((from, leaf));
        }
    };
    for (number, rules) in calls {
        put(number, Leaf::of(rules, default));
        put(number.saturating_add(1), Leaf::Verdict(default));
    }
    Ok(ranges)
}

/// What a rule asks of the arguments: one of these lists, all of its conditions.
/// Several conditions on one argument are alternatives, as in runc.
fn alternatives(rule: &LinuxSyscall) -> Result<Vec<Vec<Condition>>> {
    let arguments = rule.args().as_deref().unwrap_or_default();
    let conditions: Vec<Condition> = arguments.iter().map(condition).collect::<Result<_>>()?;
    let mut seen = [false; ARGUMENTS];
    let twice = conditions.iter().any(|condition| {
        seen.get_mut(condition.argument)
            .is_some_and(|seen| std::mem::replace(seen, true))
    });
    Ok(match twice {
        true => conditions.into_iter().map(|condition| vec![condition]).collect(),
        false => vec![conditions],
    })
}

fn condition(argument: &LinuxSeccompArg) -> Result<Condition> {
    if argument.index() >= ARGUMENTS {
        return Err(invalid(format!(
            "config.linux.seccomp.syscalls has a condition on argument {}; system calls have arguments 0 to 5",
            argument.index()
        )));
    }
    let value = argument.value();
    let (comparison, mask, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (Comparison::NotEqual, u64::MAX, value),
        LinuxSeccompOperator::ScmpCmpLt => (Comparison::Less, u64::MAX, value),
        LinuxSeccompOperator::ScmpCmpLe => (Comparison::LessOrEqual, u64::MAX, value),
        LinuxSeccompOperator::ScmpCmpEq => (Comparison::Equal, u64::MAX, value),
        LinuxSeccompOperator::ScmpCmpGe => (Comparison::GreaterOrEqual, u64::MAX, value),
        LinuxSeccompOperator::ScmpCmpGt => (Comparison::Greater, u64::MAX, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            Comparison::Equal,
            value,
            argument.value_two().unwrap_or(0) & value,
        ),
    };
    Ok(Condition {
        argument: argument.index(),
        comparison,
        mask,
        value,
    })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32> {
    let takes_one = matches!(
        action,
        LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace
    );
    if errno.is_some() && !takes_one {
        return Err(invalid(format!(
            "config.linux.seccomp has an errnoRet for {action}; SCMP_ACT_ERRNO and SCMP_ACT_TRACE take one"
        )));
    }
    // EPERM, unless it is said.
    let data = errno.unwrap_or(1);
    if data > 0xffff {
        return Err(invalid(format!(
            "config.linux.seccomp has an errnoRet of {data}; at most 65535 fit"
        )));
    }
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => verdict::KILL_THREAD,
        LinuxSeccompAction::ScmpActKillProcess => verdict::KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => verdict::TRAP,
        LinuxSeccompAction::ScmpActErrno => verdict::ERRNO | data,
        LinuxSeccompAction::ScmpActTrace => verdict::TRACE | data,
        LinuxSeccompAction::ScmpActLog => verdict::LOG,
        LinuxSeccompAction::ScmpActAllow => verdict::ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(invalid(
                "config.linux.seccomp uses SCMP_ACT_NOTIFY, for which nobody listens here",
            ));
        }
    })
}

#[cfg(test)]
mod tests;
