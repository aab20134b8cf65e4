//! Project chores, each one command: `cargo xtask test` runs every check that must be green, installing what it needs;
//! `cargo xtask sim` sweeps the simulator for longer than a test may.

mod tidy;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Debian packages that the end-to-end tests drive the daemons with, and a program of each; without one, it is QEMU's
/// iSCSI module.
const PACKAGES: [(&str, &str); 5] = [
    ("libiscsi-bin", "iscsi-test-cu"),
    ("qemu-utils", "qemu-io"),
    ("qemu-block-extra", ""),
    ("fio", "fio"),
    ("tgt", "tgtd"),
];

#[derive(Parser)]
#[command(about = "Chores of the Biplex project")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Everything that must be green: format, lints, tidiness, unit and simulator tests, end to end, demo, bench smoke.
    Test {
        /// Leave out what needs Debian packages and running daemons.
        #[arg(long)]
        no_e2e: bool,
    },
    /// A long sweep of the simulator, both modes: `cargo xtask sim --seeds 20000`.
    Sim {
        /// Handed to the simulator as they are; see `cargo xtask sim -- --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Rules of the house that a program can check.
    Tidy,
}

fn main() -> anyhow::Result<()> {
    let root = root()?;
    match Arguments::parse().chore {
        Chore::Test { no_e2e } => test(&root, !no_e2e),
        Chore::Sim { arguments } => {
            let mut command = cargo(&root, &["run", "--release", "-p", "biplex-sim", "--"]);
            if arguments.is_empty() {
                command.args(["--seeds", "5000", "--mode", "both"]);
            }
            run("simulator", command.args(arguments))
        }
        Chore::Tidy => tidy::check(&root),
    }
}

fn test(root: &Path, end_to_end: bool) -> anyhow::Result<()> {
    run("format", &mut cargo(root, &["fmt", "--all", "--check"]))?;
    tidy::check(root)?;
    run("lints", &mut cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // What is red must be red again: property tests take the same cases in every run of this command, unless told
    // otherwise. New cases come with `cargo test`, and with PROPTEST_RNG_SEED.
    let seed = std::env::var("PROPTEST_RNG_SEED").unwrap_or_else(|_| "20261122".into());
    run(
        "unit and simulator tests",
        cargo(root, &["test", "--workspace", "--exclude", "biplex-e2e", "--no-fail-fast"])
            .env("PROPTEST_RNG_SEED", seed),
    )?;
    run("release build", &mut cargo(root, &["build", "--release", "-p", "biplex", "-p", "biplex-bench"]))?;
    if end_to_end {
        install_packages()?;
        let tests = ["test", "-p", "biplex-e2e", "--no-fail-fast", "--", "--test-threads=1"];
        run("end to end", &mut cargo(root, &tests))?;
        run("demo", &mut cargo(root, &["run", "--release", "--", "demo"]))?;
        // As it was built: alone it would be built once more, with fewer features in what both depend on.
        let target = root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
        run(
            "bench smoke",
            Command::new(target.join("release/biplex-bench")).current_dir(root).arg("--quick"),
        )?;
    }
    println!("\nall green");
    Ok(())
}

fn root() -> anyhow::Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.ancestors().nth(2).context("the workspace is two levels up")?;
    Ok(root.to_path_buf())
}

fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(arguments);
    command
}

fn run(what: &str, command: &mut Command) -> anyhow::Result<()> {
    println!("\n== {what}");
    let started = Instant::now();
    let status = command.status().with_context(|| format!("{what}: {command:?} does not start"))?;
    if !status.success() {
        bail!("{what} failed ({status}): {command:?}");
    }
    println!("== {what}: done in {} s", started.elapsed().as_secs());
    Ok(())
}

/// Installs what is missing. In rounds: a machine's own newer qemu-utils gives way when qemu-block-extra comes, and is
/// missing then itself.
fn install_packages() -> anyhow::Result<()> {
    for round in 0..3 {
        let missing = missing_packages();
        if missing.is_empty() {
            return Ok(());
        }
        if round == 0 {
            let mut update = Command::new("apt-get");
            run("apt-get update", update.args(["update", "-qq"]))?;
        }
        let mut install = Command::new("apt-get");
        install.env("DEBIAN_FRONTEND", "noninteractive").args(["install", "-y", "-qq"]).args(missing);
        run("apt-get install", &mut install)?;
    }
    match missing_packages().as_slice() {
        [] => Ok(()),
        missing => bail!("installed, and yet their programs are not there: {}", missing.join(" ")),
    }
}

fn missing_packages() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    let there = |program: &str| {
        std::env::split_paths(&path).chain(extra.iter().cloned()).any(|folder| folder.join(program).exists())
    };
    let libraries = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib/qemu", "/usr/lib"];
    let block_module = libraries.iter().any(|at| {
        let at = Path::new(at);
        at.join("qemu/block-iscsi.so").exists() || at.join("block-iscsi.so").exists()
    });
    PACKAGES
        .iter()
        .filter(|(_, program)| if program.is_empty() { !block_module } else { !there(program) })
        .map(|(package, _)| *package)
        .collect()
}
