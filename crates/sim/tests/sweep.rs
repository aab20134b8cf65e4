//! The promises of the pair, judged over a short sweep; determinism; and every planted bug caught.

use biplex_sim::mutants::{HUNTS, chase, tell};
use biplex_sim::report::Counts;
use biplex_sim::scenario::{SLANTS, Scenario, Slant, Weather};
use biplex_sim::sweep::{play, replay};

fn sweep(weather: Weather, seeds: u64) -> Counts {
    let mut total = Counts::default();
    // The last has turns of its own.
    let others = SLANTS.len() as u64 - 1;
    for seed in 0..seeds {
        let units = (seed % 6 == 5).then_some(Slant::Units);
        for slant in [SLANTS[(seed % others) as usize].1].into_iter().chain(units) {
            let report = play(Scenario::new(seed, weather, slant), None, false);
            if let Some(violation) = report.violation {
                panic!("seed {seed}: {violation}\nreplay: {}", replay(seed, weather, slant, None));
            }
            total.add(&report.counts);
        }
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
    assert!(total.swaps_matched > 100 && total.swaps_missed > 100, "{total}");
    assert!(total.granted > 100 && total.kept_out > 100 && total.sessions_lost > 10, "{total}");
    assert!(total.tables_compared > 1_000 && total.demands_judged > 100, "{total}");
    assert!(total.units_compared > 1_000 && total.unit_restarts > 10, "{total}");
}

#[test]
fn when_faults_stop_the_pair_comes_to_rest_with_equal_bytes() {
    let total = sweep(Weather::Polite, 63);
    assert_that_something_happened(&total);
    assert!(total.power_losses_judged > 20 && total.discards > 10 && total.fenced_off > 0, "{total}");
}

#[test]
fn under_endless_faults_nothing_false_is_shown() {
    assert_that_something_happened(&sweep(Weather::Cruel, 63));
}

/// Seeds in which something was found once, with what it was.
#[test]
fn what_was_found_once_stays_mended() {
    let found = [
        // A restarted site took a cut before the one whose destage the crash had cut off.
        (1327, Weather::Cruel, Slant::Power),
        // The checker wanted an UNMAP that had met a reservation, because others' zeros were seen.
        (5162, Weather::Cruel, Slant::Reservations),
        // The checker took a host for unregistered while a write that came before its wish to be so was under way.
        (5316, Weather::Polite, Slant::Reservations),
        // Requests alone filled the journal before the first cut, so that a release waited at its door.
        (10541, Weather::Cruel, Slant::HandOver),
        // Persistent requests that a unit had answered were passed to it again after a crash: the units differed, in silence.
        (6, Weather::Cruel, Slant::Units),
        (23, Weather::Polite, Slant::Units),
        // And what a loss of power had taken was registered and reserved again by that.
        (0, Weather::Polite, Slant::Units),
        // A restarted site had no session for the holder that it had recovered: destage found no way in.
        (5, Weather::Polite, Slant::Power),
        // A read that lost three sessions at once, or found the holder's away, was told as a bad block.
        (20, Weather::Cruel, Slant::Units),
        (22, Weather::Polite, Slant::Units),
        // PREEMPT AND ABORT took a destage's sync from a unit, which says nothing: it was waited for a minute.
        (17, Weather::Polite, Slant::Units),
        // The units differed over a request whose site was started anew before it heard of that: nobody compared.
        (215, Weather::Polite, Slant::Units),
        // Who was preempted, by the keys that the pair knew of, had no session any more though its unit had it still.
        (5027, Weather::Polite, Slant::Units),
        (5034, Weather::Polite, Slant::Units),
        // A registrant that had asked in vain to be unregistered had no nexus after a restart.
        (300_043, Weather::Polite, Slant::Units),
        // A reserve was refused by a unit whose release had been executed before the refusal was told.
        (5, Weather::Polite, Slant::HandOver),
    ];
    for (seed, weather, slant) in found {
        let violation = play(Scenario::new(seed, weather, slant), None, false).violation;
        assert!(violation.is_none(), "{}: {violation:?}", replay(seed, weather, slant, None));
    }
}

/// FIG. 22/23, E3.6, E3.7: see `handover.rs`, which judges.
#[test]
fn a_unit_is_handed_over_thousands_of_times_and_nobody_is_refused_for_a_release_on_its_way() {
    let mut total = Counts::default();
    for seed in 0..55 {
        let report = play(Scenario::new(seed, Weather::Polite, Slant::HandOver), None, false);
        if let Some(violation) = report.violation {
            let again = replay(seed, Weather::Polite, Slant::HandOver, None);
            panic!("seed {seed}: {violation}\nreplay: {again}");
        }
        total.add(&report.counts);
    }
    assert!(total.hand_overs > 3_000 && total.races > 1_000, "{total}");
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
