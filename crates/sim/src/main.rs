//! Plays seeds: `--seeds N` many, `--seed N --trace` one with every step told, `--mutants` the planted bugs.

use biplex_sim::mutants::{HUNTS, chase, tell};
use biplex_sim::report::Counts;
use biplex_sim::scenario::{SLANTS, Scenario, Slant, Weather};
use biplex_sim::sweep::{play, replay};
use clap::{Parser, ValueEnum};
use std::process::ExitCode;

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Polite,
    Cruel,
    Both,
}

/// The simulator: two sites in a world made of a seed.
#[derive(Parser)]
struct Arguments {
    /// Play this seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Play so many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// Begin with this seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Whether faults stop and the pair must come to rest.
    #[arg(long, value_enum, default_value_t = Mode::Both)]
    mode: Mode,
    /// Which trouble to make likely; "all" takes them in turn.
    #[arg(long, default_value = "all", value_parser = slant_names())]
    slant: String,
    /// Plant this bug (a name of the table that `--mutants` prints).
    #[arg(long)]
    mutant: Option<String>,
    /// Chase every planted bug and print which check saw it.
    #[arg(long)]
    mutants: bool,
    /// Tell every step.
    #[arg(long)]
    trace: bool,
    /// Go on after a violation, up to so many.
    #[arg(long, default_value_t = 1)]
    violations: u64,
}

fn slant_names() -> Vec<&'static str> {
    SLANTS.iter().map(|(name, _)| *name).chain(["all"]).collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.mutants {
        return chase_all();
    }
    let hunt = match &arguments.mutant {
        Some(name) => match HUNTS.iter().find(|hunt| hunt.name == name) {
            Some(hunt) => Some(hunt),
            None => {
                let names: Vec<&str> = HUNTS.iter().map(|hunt| hunt.name).collect();
                eprintln!("no planted bug is named {name}; there are: {}", names.join(", "));
                return ExitCode::FAILURE;
            }
        },
        None => None,
    };
    let weathers: &[Weather] = match arguments.mode {
        Mode::Polite => &[Weather::Polite],
        Mode::Cruel => &[Weather::Cruel],
        Mode::Both => &[Weather::Polite, Weather::Cruel],
    };
    let slants: Vec<Slant> = match SLANTS.iter().find(|(name, _)| *name == arguments.slant) {
        Some((_, slant)) => vec![*slant],
        None => SLANTS.iter().map(|(_, slant)| *slant).collect(),
    };
    let seeds = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => arguments.first..arguments.first + arguments.seeds,
    };
    let (mut total, mut runs, mut bad, mut virtual_time) = (Counts::default(), 0u64, 0, 0u64);
    let every = (seeds.end - seeds.start).div_ceil(20).max(1);
    'all: for seed in seeds.clone() {
        for &weather in weathers {
            // One seed alone is played in every slant that was asked for; a sweep takes the slants in turn.
            let turn = [slants[(seed % slants.len() as u64) as usize]];
            let list = if arguments.seed.is_some() { slants.as_slice() } else { turn.as_slice() };
            for &slant in list {
                let report =
                    play(Scenario::new(seed, weather, slant), hunt.map(|h| h.mutant), arguments.trace);
                runs += 1;
                virtual_time += report.time;
                total.add(&report.counts);
                if arguments.seed.is_some() {
                    println!(
                        "{} {}: hash {:016x}, {} steps",
                        weather.name(),
                        slant.name(),
                        report.hash,
                        report.steps
                    );
                }
                if let Some(violation) = report.violation {
                    bad += 1;
                    println!("seed {seed} {} {}: {violation}", weather.name(), slant.name());
                    println!("  {}", replay(seed, weather, slant, hunt.map(|h| h.name)));
                    if bad >= arguments.violations {
                        break 'all;
                    }
                }
            }
        }
        let done = seed + 1 - seeds.start;
        if arguments.seed.is_none() && done % every == 0 {
            eprintln!("{done} of {} seeds, {runs} runs, {bad} violations", seeds.end - seeds.start);
        }
    }
    println!("{runs} runs, {} s of virtual time, {bad} violations\n{total}", virtual_time / 1_000_000_000);
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn chase_all() -> ExitCode {
    let mut missed = 0;
    for hunt in &HUNTS {
        let caught = chase(hunt);
        missed += usize::from(caught.is_none());
        println!("{}", tell(hunt, caught.as_ref()));
    }
    println!("{} of {} caught", HUNTS.len() - missed, HUNTS.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
