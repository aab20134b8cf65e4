//! Plays seeds: `--seeds N` many, `--seed N --trace` one with every step told, `--mutants` the planted bugs.
//! `--explore` tries every order of a few commands instead.

use biplex_sim::explore;
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
    #[arg(long, alias = "scenario", default_value = "all", value_parser = slant_names())]
    slant: String,
    /// Plant this bug (a name of the table that `--mutants` prints).
    #[arg(long)]
    mutant: Option<String>,
    /// Chase every planted bug and print which check saw it.
    #[arg(long)]
    mutants: bool,
    /// Try every order of a few commands through two engines; with `--mutants` with bugs planted. Only scenarios whose
    /// name contains this, if it is given.
    #[arg(long, num_args = 0..=1, default_missing_value = "")]
    explore: Option<String>,
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
    if let Some(name) = &arguments.explore {
        return if arguments.mutants { explore_planted() } else { explore_all(name) };
    }
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

#[expect(clippy::disallowed_types, reason = "how long it took is for people; nothing depends on it")]
fn explore_all(name: &str) -> ExitCode {
    let begun = std::time::Instant::now();
    let (mut total, mut runs, mut bad) = (explore::Report::default(), 0, 0);
    for scenario in explore::scenario::large().into_iter().filter(|s| s.name.contains(name)) {
        let report = explore::explore(&scenario, explore::STATES_MAX);
        let trouble = format!(
            "{:>2} ms {}{}{}{}",
            scenario.ahead,
            if scenario.fine { "fine " } else { "" },
            if scenario.ticks > 0 { "tick " } else { "" },
            if scenario.cuts > 0 { "cut " } else { "" },
            if scenario.crashes > 0 { "crash " } else { "" },
        );
        println!(
            "{:<50} {trouble:<12} {:>8} states {:>9} steps {:>6} ends depth {:>3} {:>6} engine states{}",
            scenario.name,
            report.states,
            report.steps,
            report.ends,
            report.depth,
            report.engines,
            if report.cut_off { " NOT ALL" } else { "" }
        );
        if let Some(violation) = &report.violation {
            println!("{violation}");
        }
        runs += 1;
        bad += u32::from(report.violation.is_some() || report.cut_off);
        total.states += report.states;
        total.steps += report.steps;
        total.ends += report.ends;
        total.depth = total.depth.max(report.depth);
    }
    let explore::Report { states, steps, ends, depth, .. } = total;
    let seconds = begun.elapsed().as_secs();
    println!(
        "{runs} scenarios, {states} states, {steps} steps, {ends} ends, depth {depth}, {seconds} s, {bad} bad"
    );
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn explore_planted() -> ExitCode {
    let mut missed = 0;
    for (mutant, name) in explore::PLANTED {
        match explore::chase(mutant, name) {
            Some((scenario, violation)) => {
                println!("{mutant:?}: {name}, A's clock {} ms ahead: {violation}", scenario.ahead);
            }
            None => {
                missed += 1;
                println!("{mutant:?}: {name}: NOT FOUND");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
