//! Answers for libiscsi's test suite: every test in a process of its own, because some leave hooks behind that spoil
//! the tests after them and a hanging one must not take the run with it; and for what its words mean.

use crate::program;
use std::process::Command;
use std::time::Duration;

/// The test program (package libiscsi-bin).
pub const PROGRAM: &str = "iscsi-test-cu";
/// How long one test may take.
const TEST_PATIENCE: Duration = Duration::from_secs(90);

/// A test that may fail: its name, what every failed assertion must then contain one of, and why.
pub type Excuse = (&'static str, &'static [&'static str], &'static str);

/// Tests whose failure is the test program's own.
pub const KNOWN: [Excuse; 4] = [
    (
        "GetLBAStatus.UnmapSingle",
        &["lba offset in first descriptor"],
        "asks for block i + 1 and wants a descriptor that starts at i + the physical block's 8; SBC-3 5.6 starts it at what was asked for",
    ),
    (
        "iSCSITMF.AbortTaskSimpleAsync",
        &["iscsi_out_queue_length"],
        "newer libiscsi writes to an idle socket at once, so the queue that the test counts is empty",
    ),
    (
        "iSCSITMF.LUNResetSimpleAsync",
        &["reconnect_succeeded", "iscsi_out_queue_length"],
        "1.19.0 demands a flag that only the answer to the command just queued can set; newer ones count an empty queue",
    ),
    (
        "CompareAndWrite.InvalidDataOutSize",
        &["test_compareandwrite_invalid_dataout_size"],
        "newer ones compare an opcode with != instead of ==, so that the command is never made invalid",
    ),
];

/// How a test ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Good.
    Passed,
    /// The test itself found that it does not apply.
    Skipped(String),
    /// Failed as [`KNOWN`] says.
    Excused(&'static str),
    /// Failed.
    Failed(String),
}

/// The tests of a family, as "Suite.Test".
pub fn tests(family: &str) -> Vec<String> {
    let listed = program::run(Command::new(PROGRAM).arg("--list"), TEST_PATIENCE).said();
    let prefix = format!("{family}.");
    let names = listed.lines().filter_map(|line| line.trim().strip_prefix(&prefix));
    names.filter(|name| name.contains('.')).map(str::to_owned).collect()
}

/// Runs one test against these paths to the unit.
pub fn run(family: &str, test: &str, urls: &[&str]) -> Verdict {
    let mut command = Command::new(PROGRAM);
    command.args(["-d", "-v", "-t", &format!("{family}.{test}")]).args(urls);
    let ended = program::run(&mut command, TEST_PATIENCE);
    if ended.status.is_none() {
        return Verdict::Failed(format!("hangs\n{ended}"));
    }
    let said = ended.said();
    let Some(failures) = failures(&said) else {
        return Verdict::Failed(format!("no summary\n{ended}"));
    };
    if failures > 0 {
        let assertions: Vec<&str> = said.lines().filter(|line| is_failed_assertion(line)).collect();
        let excused = |(name, signs, _): &&Excuse| {
            let fits = |line: &&str| signs.iter().any(|sign| line.contains(sign));
            *name == test && !assertions.is_empty() && assertions.iter().all(fits)
        };
        return match KNOWN.iter().find(excused) {
            Some((_, _, why)) => Verdict::Excused(why),
            None => Verdict::Failed(ended.to_string()),
        };
    }
    match said.lines().find_map(|line| skipped(test, line)) {
        Some(why) => Verdict::Skipped(why),
        None => Verdict::Passed,
    }
}

/// The "failed" column of CUnit's line on tests.
fn failures(said: &str) -> Option<u32> {
    let line = said.lines().find(|line| line.trim_start().starts_with("tests "))?;
    line.split_whitespace().nth(4)?.parse().ok()
}

/// "    1. test.c:83  - …"
fn is_failed_assertion(line: &str) -> bool {
    let Some((number, rest)) = line.trim_start().split_once(". ") else { return false };
    number.parse::<u32>().is_ok() && rest.split_whitespace().next().is_some_and(|place| place.contains(".c:"))
}

fn skipped(test: &str, line: &str) -> Option<String> {
    let (_, why) = line.split_once("[SKIPPED]")?;
    // Every run clears persistent reservations at its ends and says when there is no such thing; that skips no test.
    let about_them = test.starts_with("Prin") || test.starts_with("Prout");
    let of_start = line.contains("PERSISTENT RESERVE") && !about_them;
    (!of_start && !line.contains("Skipping assert")).then(|| why.trim().to_owned())
}
