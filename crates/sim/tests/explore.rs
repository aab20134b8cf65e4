//! The small state space of two sites, two hosts and a handful of commands: all of it, and bugs planted in it.

use biplex_sim::explore::{PLANTED, STATES_MAX, chase, explore, scenario};

#[test]
fn no_order_of_a_few_commands_breaks_a_promise() {
    let (mut states, mut steps, mut ends) = (0, 0, 0);
    let all = scenario::small();
    for scenario in &all {
        let report = explore(scenario, STATES_MAX);
        if let Some(violation) = report.violation {
            panic!("{}, A's clock {} ms ahead: {violation}", scenario.name, scenario.ahead);
        }
        assert!(!report.cut_off && report.ends > 0, "{}", scenario.name);
        states += report.states;
        steps += report.steps;
        ends += report.ends;
    }
    println!("{} scenarios, {states} states, {steps} steps, {ends} ends", all.len());
    assert!(states > 300_000, "{states} states: nothing was explored");
}

#[test]
fn every_bug_planted_in_the_order_is_found_with_a_shortest_trace() {
    for (mutant, name) in PLANTED {
        let (scenario, violation) = chase(mutant, name).unwrap_or_else(|| panic!("{mutant:?} was not found"));
        assert!(!violation.trace.is_empty(), "{mutant:?}");
        println!("{mutant:?}: {name}, A's clock {} ms ahead: {violation}", scenario.ahead);
    }
}

#[test]
fn equal_scenarios_have_equal_states() {
    let all = scenario::chosen();
    let counts = |_| {
        let report = explore(&all[0], STATES_MAX);
        (report.states, report.steps, report.ends, report.depth, report.engines)
    };
    assert_eq!(counts(1), counts(2));
}
