//! The promises of the pair, judged over a short sweep; determinism; and every planted bug caught.

use biplex_sim::mutants::{HUNTS, chase, tell};
use biplex_sim::report::Counts;
use biplex_sim::scenario::{SLANTS, Scenario, Weather};
use biplex_sim::sweep::{play, replay};

fn sweep(weather: Weather, seeds: u64) -> Counts {
    let mut total = Counts::default();
    for seed in 0..seeds {
        let slant = SLANTS[(seed % SLANTS.len() as u64) as usize].1;
        let report = play(Scenario::new(seed, weather, slant), None, false);
        if let Some(violation) = report.violation {
            panic!("seed {seed}: {violation}\nreplay: {}", replay(seed, weather, slant, None));
        }
        total.add(&report.counts);
    }
    total
}

/// A sweep in which nothing went wrong proves nothing.
fn assert_that_something_happened(total: &Counts) {
    println!("{total}");
    assert!(total.writes > 1_000 && total.reads > 1_000 && total.conflicts > 100, "{total}");
    assert!(total.crashes > 10 && total.cuts > 10 && total.cuts_compared > 100, "{total}");
    assert!(total.faults.iter().all(|&count| count > 0), "{total}");
    assert!(total.blocks_undecided * 100 <= total.blocks_judged, "{total}");
}

#[test]
fn when_faults_stop_the_pair_comes_to_rest_with_equal_bytes() {
    assert_that_something_happened(&sweep(Weather::Polite, 63));
}

#[test]
fn under_endless_faults_nothing_false_is_shown() {
    assert_that_something_happened(&sweep(Weather::Cruel, 63));
}

#[test]
fn equal_seeds_give_equal_runs_and_others_do_not() {
    let mut hashes = Vec::new();
    for weather in [Weather::Polite, Weather::Cruel] {
        for (index, (_, slant)) in SLANTS.iter().enumerate() {
            let run = || play(Scenario::new(index as u64, weather, *slant), None, false);
            let (first, second) = (run(), run());
            assert_eq!(first, second);
            hashes.push(first.hash);
        }
    }
    let runs = hashes.len();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), runs);
}

#[test]
fn every_mutant_is_caught() {
    let caught: Vec<_> = HUNTS.iter().map(|hunt| (hunt, chase(hunt))).collect();
    for (hunt, caught) in &caught {
        println!("{}", tell(hunt, caught.as_ref()));
    }
    let missed: Vec<&str> = caught.iter().filter(|(_, c)| c.is_none()).map(|(hunt, _)| hunt.name).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
