//! Plays one seed safely: a site's broken assertion is a violation like any other, and a bug may be planted.

use crate::report::{Counts, Report, Violation};
use crate::scenario::{Scenario, Slant, Weather};
use crate::world;
use biplex_engine::mutant::{Mutant, plant};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// While a run is under way: what it panicked with.
    static PANICKED: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Plays a scenario; with `mutant`, with that bug planted. With `print`, tells every step.
pub fn play(scenario: Scenario, mutant: Option<Mutant>, print: bool) -> Report {
    quieten();
    PANICKED.set(Some(None));
    plant(mutant);
    let result = catch_unwind(AssertUnwindSafe(|| world::run(scenario, print)));
    plant(None);
    let panicked = PANICKED.take().flatten();
    result.unwrap_or_else(|_| {
        let what = panicked.unwrap_or_else(|| "a panic without a message".to_owned());
        let violation = Some(Violation { check: "assertion", what, time: 0 });
        Report { hash: 0, steps: 0, counts: Counts::default(), time: 0, violation }
    })
}

/// The command that plays a run again, telling every step.
pub fn replay(seed: u64, weather: Weather, slant: Slant, mutant: Option<&str>) -> String {
    let mutant = mutant.map_or(String::new(), |name| format!(" --mutant {name}"));
    let (mode, slant) = (weather.name(), slant.name());
    format!(
        "cargo run --release -p biplex-sim -- --seed {seed} --mode {mode} --slant {slant}{mutant} --trace"
    )
}

/// Panics of runs under way are kept for their report instead of being printed.
fn quieten() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let kept = PANICKED.with_borrow_mut(|state| match state {
                Some(message) => {
                    let place =
                        info.location().map_or(String::new(), |l| format!("{}:{}: ", l.file(), l.line()));
                    let text = info.payload_as_str().unwrap_or("a panic");
                    *message = Some(format!("{place}{text}"));
                    true
                }
                None => false,
            });
            if !kept {
                usual(info);
            }
        }));
    });
}
