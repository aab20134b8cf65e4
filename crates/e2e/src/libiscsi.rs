//! Answers for libiscsi's test suite: every test in a process of its own, because some leave hooks behind that spoil
//! the tests after them and a hanging one must not take the run with it; and for what its words mean.

use crate::program;
use std::process::Command;
use std::time::Duration;

/// The test program (package libiscsi-bin).
pub const PROGRAM: &str = "iscsi-test-cu";
/// How long one test may take.
const TEST_PATIENCE: Duration = Duration::from_secs(90);

/// Tests whose failure is the test program's own: name, what every failed assertion must then contain, and why.
pub const KNOWN: [(&str, &str, &str); 3] = [
    (
        "iSCSITMF.AbortTaskSimpleAsync",
        "iscsi_out_queue_length",
        "newer libiscsi writes to an idle socket at once, so the queue that the test counts is empty",
    ),
    (
        "iSCSITMF.LUNResetSimpleAsync",
        "iscsi_out_queue_length",
        "newer libiscsi writes to an idle socket at once, so the queue that the test counts is empty",
    ),
    (
        "CompareAndWrite.InvalidDataOutSize",
        "test_compareandwrite_invalid_dataout_size",
        "compares an opcode with != instead of ==, so that the command is never made invalid",
    ),
];

/// How a test ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Good.
    Passed,
    /// The test itself found that it does not apply.
    Skipped(String),
    /// Failed by a bug of the test program.
    Known(&'static str),
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
        let known = KNOWN.iter().find(|(name, _, _)| *name == test);
        let assertions: Vec<&str> = said.lines().filter(|line| is_failed_assertion(line)).collect();
        return match known {
            Some((_, sign, why))
                if !assertions.is_empty() && assertions.iter().all(|line| line.contains(sign)) =>
            {
                Verdict::Known(why)
            }
            Some(_) | None => Verdict::Failed(ended.to_string()),
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
    // Every run starts by clearing persistent reservations and says when there is no such thing; that skips no test.
    let of_start = line.contains("PERSISTENT RESERVE") && !test.starts_with("Pr");
    (!of_start && !line.contains("Skipping assert")).then(|| why.trim().to_owned())
}
