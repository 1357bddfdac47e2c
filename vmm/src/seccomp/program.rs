//! Rules as a program of the classic packet filter.
//!
//! ```text
//!  architecture? ─► calls with conditions, one by one ─► a search tree over the numbers of all others ─► allow, trap
//! ```
//!
//! The kernel tries a new filter on every system call there is before it takes it, and translates it; so a filter costs
//! time at the start of a thread by its length, and by the length of its longest way.

use std::process;

use libc::{c_long, sock_filter};

use super::policy::{Rule, Test};

/// `struct seccomp_data`: where the number of the call, the architecture and the lower half of an argument are.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
const ARGUMENT: u32 = 8;

/// `AUDIT_ARCH_X86_64`.
const X86_64: u32 = 0xc000_003e;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_IF_BITS: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The rules make a longer program than its jumps can span: they need a tree of trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLong;

/// The program that allows what `rules` allow, and traps whatever else is called. Of several rules about one call and a
/// list of values, each adds to the list.
pub(super) fn compile<'a>(
    rules: impl Iterator<Item = &'a Rule> + Clone,
) -> Result<Vec<sock_filter>, TooLong> {
    let mut program = Program::default();
    program.load(ARCHITECTURE);
    program.test(JUMP_IF_EQUAL, X86_64, Next, Trap);
    program.load(NUMBER);
    // They are few, and are compared with each other alone: this is part of every start.
    let conditional = rules.clone().filter(|rule| rule.only.is_some());
    for (index, rule) in conditional.clone().enumerate() {
        let same = |other: &&Rule| other.call == rule.call;
        if !conditional.clone().take(index).any(|earlier| same(&earlier)) {
            program.conditional(rule, conditional.clone().skip(index).filter(same));
        }
    }
    program.tree(&segments(rules.filter(|rule| rule.only.is_none())));
    program.link()
}

/// Where a jump leads to.
#[derive(Clone, Copy)]
enum Target {
    Next,
    /// So many instructions further than the next.
    Skip(usize),
    Allow,
    Trap,
    Absent,
}
use Target::{Absent, Allow, Next, Skip, Trap};

/// The error number of a call that the kernel does not have.
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

#[derive(Default)]
struct Program(Vec<(u16, u32, Target, Target)>);

impl Program {
    fn load(&mut self, offset: u32) {
        self.0.push((LOAD, offset, Next, Next));
    }

    fn test(&mut self, code: u16, value: u32, yes: Target, no: Target) {
        self.0.push((code, value, yes, no));
    }

    /// The whole of what is to be known of a call whose arguments count; `all` are the rules about it.
    fn conditional<'a>(&mut self, rule: &Rule, all: impl Iterator<Item = &'a Rule>) {
        let Some(only) = rule.only else { return };
        let mut block = Self::default();
        block.load(ARGUMENTS.saturating_add(ARGUMENT.saturating_mul(only.argument.into())));
        match only.test {
            Test::OneOf(_) => {
                let values = all.filter_map(|rule| rule.only?.test.values());
                for &value in values.flatten() {
                    block.test(JUMP_IF_EQUAL, value, Allow, Next);
                }
                block.test(JUMP_IF_EQUAL, 0, Trap, Trap);
            }
            Test::Without(bits) => block.test(JUMP_IF_BITS, bits, Trap, Allow),
            Test::OwnProcess => block.test(JUMP_IF_EQUAL, process::id(), Allow, Trap),
            Test::Caller => block.test(JUMP_IF_EQUAL, 0, Allow, Trap),
            Test::Absent => block.test(JUMP_IF_EQUAL, 0, Absent, Absent),
        }
        self.test(JUMP_IF_EQUAL, number(rule.call), Next, Skip(block.0.len()));
        self.0.extend(block.0);
    }

    /// Decides by the number of the call.
    fn tree(&mut self, segments: &[Segment]) {
        let (low, high) = segments.split_at(segments.len() / 2);
        let Some(middle) = high.first() else { return };
        let verdict = |half: &[Segment]| match half {
            [only] if only.allowed => Allow,
            _ => Trap,
        };
        let mut left = Self::default();
        if low.len() > 1 {
            left.tree(low);
        }
        let no = if low.len() > 1 { Next } else { verdict(low) };
        let yes = match (high.len() > 1, left.0.len()) {
            (false, _) => verdict(high),
            (true, 0) => Next,
            (true, len) => Skip(len),
        };
        self.test(JUMP_IF_AT_LEAST, middle.from, yes, no);
        self.0.extend(left.0);
        if high.len() > 1 {
            self.tree(high);
        }
    }

    /// Puts the verdicts at the end, and distances in place of targets.
    fn link(self) -> Result<Vec<sock_filter>, TooLong> {
        let len = self.0.len();
        let mut program = Vec::with_capacity(len.saturating_add(2));
        for (index, (code, k, yes, no)) in self.0.into_iter().enumerate() {
            let rest = len.saturating_sub(index).saturating_sub(1);
            let distance = |target| {
                let distance = match target {
                    Next => 0,
                    Skip(count) => count,
                    Allow => rest,
                    Trap => rest.saturating_add(1),
                    Absent => rest.saturating_add(2),
                };
                u8::try_from(distance).map_err(|_| TooLong)
            };
            let (jt, jf) = (distance(yes)?, distance(no)?);
            program.push(sock_filter { code, jt, jf, k });
        }
        for k in [libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_TRAP, NO_SUCH_CALL] {
            let (code, jt, jf) = (RETURN, 0, 0);
            program.push(sock_filter { code, jt, jf, k });
        }
        Ok(program)
    }
}

/// Numbers from here to the next segment, which have the same verdict.
struct Segment {
    from: u32,
    allowed: bool,
}

/// All numbers, in their order.
fn segments<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<Segment> {
    let mut numbers: Vec<u32> = rules.map(|rule| number(rule.call)).collect();
    numbers.sort_unstable();
    let mut segments = vec![Segment {
        from: 0,
        allowed: false,
    }];
    for from in numbers {
        let after = Segment {
            from: from.saturating_add(1),
            allowed: false,
        };
        match segments.last_mut() {
            Some(last) if last.from == from => last.allowed = true,
            _ => segments.push(Segment { from, allowed: true }),
        }
        segments.push(after);
    }
    // Neighbours with the same verdict are one.
    segments.dedup_by(|next, last| next.allowed == last.allowed);
    segments
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::arithmetic_side_effects)]

    use super::super::policy::{self, Only};
    use super::*;

    /// What a program says to a call, as the kernel would run it.
    fn run(program: &[sock_filter], call: u32, arguments: [u32; 6]) -> u32 {
        let load = |offset: u32| match offset {
            NUMBER => call,
            ARCHITECTURE => X86_64,
            offset => arguments[((offset - ARGUMENTS) / ARGUMENT) as usize],
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            let holds = match code {
                LOAD => {
                    accumulator = load(k);
                    continue;
                }
                RETURN => return k,
                JUMP_IF_EQUAL => accumulator == k,
                JUMP_IF_AT_LEAST => accumulator >= k,
                JUMP_IF_BITS => accumulator & k != 0,
                other => panic!("{other:#x}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn verdict(rules: &[&Rule], call: u32, arguments: [u32; 6]) -> u32 {
        let value = |only: Only| arguments[usize::from(only.argument)];
        let about = || rules.iter().filter(|rule| number(rule.call) == call);
        let allows = |rule: &&Rule| {
            rule.only.is_none_or(|only| match only.test {
                Test::OneOf(values) => values.contains(&value(only)),
                Test::Without(bits) => value(only) & bits == 0,
                Test::OwnProcess => value(only) == process::id(),
                Test::Caller => value(only) == 0,
                Test::Absent => false,
            })
        };
        let is_absent = |rule: &&Rule| rule.only.is_some_and(|only| matches!(only.test, Test::Absent));
        match (about().any(allows), about().any(is_absent)) {
            (true, _) => libc::SECCOMP_RET_ALLOW,
            (_, true) => NO_SUCH_CALL,
            _ => libc::SECCOMP_RET_TRAP,
        }
    }

    #[test]
    fn the_program_says_what_the_rules_say() {
        for (own, plugs) in [(policy::MONITOR, policy::PLUGS), (policy::VCPU, &[])] {
            let rules = policy::ALL.iter().chain(own).chain(policy::RINGS).chain(plugs);
            let rules: Vec<&Rule> = rules.collect();
            let program = compile(rules.iter().copied()).unwrap();
            let values = [
                0,
                1,
                2,
                3,
                4,
                5,
                15,
                0x5402,
                0xae80,
                0x4020_ae76,
                0x4004_54ca,
                0x003d_0f00,
                process::id(),
                u32::MAX,
            ];
            // Those of the x32 personality begin at 1 << 30.
            for call in (0..600).chain([1 << 30, (1 << 30) + 16, u32::MAX]) {
                for value in values {
                    let arguments = [value; 6];
                    let expected = verdict(&rules, call, arguments);
                    assert_eq!(run(&program, call, arguments), expected, "{call} {value:#x}");
                }
            }
        }
    }

    /// Lists of values of one argument are put together; other conditions would be lost.
    #[test]
    fn only_lists_about_one_argument_are_added_to() {
        for added in policy::PLUGS {
            let known = policy::ALL.iter().chain(policy::MONITOR);
            for rule in known.filter(|rule| rule.call == added.call) {
                let arguments = [rule, added].map(|rule| {
                    let only = rule.only.unwrap();
                    assert!(only.test.values().is_some());
                    only.argument
                });
                assert_eq!(arguments[0], arguments[1]);
            }
        }
    }

    #[test]
    fn a_call_is_ruled_once() {
        for own in [policy::MONITOR, policy::VCPU] {
            let mut calls: Vec<c_long> = policy::ALL
                .iter()
                .chain(own)
                .chain(policy::RINGS)
                .map(|rule| rule.call)
                .collect();
            calls.sort_unstable();
            assert!(calls.windows(2).all(|pair| pair[0] != pair[1]), "{calls:?}");
        }
    }
}
