//! Filters, run by a small machine of classic BPF.

#![allow(clippy::arithmetic_side_effects)]

use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;

fn compiled(profile: Value) -> Result<Vec<u64>> {
    compile(&LinuxSeccomp::deserialize(profile).unwrap()).map(|filter| filter.code)
}

/// Runs a filter for a call; answers its verdict.
fn run(filter: &[u64], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [number, architecture, 0, 0].map(u32::to_le_bytes).concat();
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let bits = filter[at];
        let (operation, operand) = ((bits & 0xffff) as u16, (bits >> 32) as u32);
        let (if_true, if_false) = ((bits >> 16 & 0xff) as usize, (bits >> 24 & 0xff) as usize);
        at += 1;
        let mut branch = |condition: bool| at += if condition { if_true } else { if_false };
        match operation {
            0x20 => {
                let offset = operand as usize;
                accumulator = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            0x54 => accumulator &= operand,
            0x05 => at += operand as usize,
            0x15 => branch(accumulator == operand),
            0x25 => branch(accumulator > operand),
            0x35 => branch(accumulator >= operand),
            0x06 => return operand,
            other => panic!("operation {other:#x}"),
        }
    }
}

fn verdict(filter: &[u64], number: u32, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(filter, X86_64, number, all)
}

const EPERM: u32 = verdict::ERRNO | 1;

#[test]
fn calls_are_told_apart_by_name() {
    let filter = compiled(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            { "names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
            { "names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS" },
        ],
    }))
    .unwrap();
    for number in 0..600 {
        let wanted = match number {
            0 | 1 => verdict::ALLOW,
            435 => verdict::ERRNO | 38,
            169 => verdict::KILL_PROCESS,
            _ => EPERM,
        };
        assert_eq!(verdict(&filter, number, &[]), wanted, "{number}");
    }
    // The x32 ABI is no way around it, nor are 32-bit calls.
    assert_eq!(verdict(&filter, 0x4000_0000, &[]), verdict::ERRNO | 38);
    assert_eq!(run(&filter, I386, 3, [0; 6]), verdict::KILL_PROCESS);
}

#[test]
fn calls_of_32_bit_programs_have_numbers_of_their_own() {
    let filter = compiled(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{ "names": ["read", "socketcall"], "action": "SCMP_ACT_ALLOW" }],
    }))
    .unwrap();
    let allowed = |number| run(&filter, I386, number, [0; 6]) == verdict::ALLOW;
    assert!(allowed(3) && allowed(102) && !allowed(0));
    assert_eq!(verdict(&filter, 0, &[]), verdict::ALLOW);
    assert_eq!(verdict(&filter, 3, &[]), EPERM);
    assert_eq!(run(&filter, 0xc000_00b7, 0, [0; 6]), verdict::KILL_PROCESS);
}

#[test]
fn arguments_are_compared_as_64_bits() {
    let big = 0x1_0000_0002_u64;
    let around = [0, 1, 2, 3, big - 1, big, big + 1, 0x2_0000_0002, u64::MAX];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(&str, Holds); 6] = [
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("EQ", |a, b| a == b),
        ("GE", |a, b| a >= b),
        ("GT", |a, b| a > b),
    ];
    for (name, holds) in operators {
        for value in [0, 2, big, u64::MAX] {
            let filter = compiled(json!({
                "defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{
                    "names": ["socket"], "action": "SCMP_ACT_ALLOW",
                    "args": [{ "index": 1, "value": value, "op": format!("SCMP_CMP_{name}") }],
                }],
            }))
            .unwrap();
            for argument in around {
                let allowed = verdict(&filter, 41, &[7, argument]) == verdict::ALLOW;
                assert_eq!(allowed, holds(argument, value), "{argument:#x} {name} {value:#x}");
            }
        }
    }
}

#[test]
fn several_rules_and_conditions_work_together() {
    let masked = json!({ "index": 0, "value": 0x7e02_0000_u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" });
    let equal = |index: usize, value: u64| json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" });
    let filter = compiled(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            { "names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [masked] },
            { "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [equal(0, 0)] },
            { "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [equal(0, 8)] },
            { "names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [equal(0, 1), equal(1, 2)] },
            { "names": ["fcntl"], "action": "SCMP_ACT_ALLOW", "args": [equal(0, 1), equal(0, 2)] },
        ],
    }))
    .unwrap();
    let allowed = |number, arguments: &[u64]| verdict(&filter, number, arguments) == verdict::ALLOW;
    assert!(allowed(56, &[0x11]) && allowed(56, &[0x8_0000_0000]));
    assert!(!allowed(56, &[0x1000_0000]) && !allowed(56, &[0x2_0000]));
    assert!(allowed(135, &[0]) && allowed(135, &[8]) && !allowed(135, &[9]));
    // Conditions on different arguments have all to be met, those on one are alternatives.
    assert!(allowed(16, &[1, 2]) && !allowed(16, &[1, 3]) && !allowed(16, &[2, 2]));
    assert!(allowed(72, &[1]) && allowed(72, &[2]) && !allowed(72, &[3]));
}

#[test]
fn what_cannot_be_filtered_is_refused() {
    let message = |profile| compiled(profile).unwrap_err().message;
    assert!(message(json!({ "defaultAction": "SCMP_ACT_NOTIFY" })).contains("NOTIFY"));
    // Errors are told where an action has none to give back.
    let allow = json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 38 });
    assert!(
        message(json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow] })).contains("SCMP_ACT_ALLOW")
    );
    assert!(message(json!({ "defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1 })).contains("errnoRet"));
    let nameless = json!({ "names": [], "action": "SCMP_ACT_ERRNO" });
    assert!(
        message(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [nameless] }))
            .contains("without names")
    );
    let argument = json!({ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" });
    let rule = json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [argument] });
    assert!(message(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] })).contains("argument 6"));
    let many: Vec<Value> = (0..40)
        .map(|value| json!({ "index": 0, "value": value, "op": "SCMP_CMP_GT" }))
        .collect();
    let names: Vec<&str> = numbers().into_keys().collect();
    let long = names.iter().zip(2..).map(
        |(name, errno)| json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": many }),
    );
    let long: Vec<Value> = long.collect();
    assert!(message(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": long })).contains("4096"));
}

#[test]
fn a_filter_stays_short() {
    let names: Vec<&str> = numbers().into_keys().collect();
    assert!(names.len() > 440);
    let filter = compiled(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }],
    }))
    .unwrap();
    assert!(filter.len() < 100, "{}", filter.len());
}

#[test]
fn flags_are_the_kernels() {
    let flags = |flags: Value| {
        let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": flags });
        compile(&LinuxSeccomp::deserialize(profile).unwrap()).map(|filter| filter.flags)
    };
    assert_eq!(flags(json!([])).unwrap(), 0);
    let all = json!([
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW"
    ]);
    assert_eq!(flags(all).unwrap(), 0b111);
    let refused = flags(json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])).unwrap_err();
    assert!(refused.message.contains("WAIT_KILLABLE_RECV"), "{refused}");
}
