//! Every planted bug, and the weather in which the checks see it.

use crate::report::Violation;
use crate::scenario::{Scenario, Slant, Weather};
use crate::sweep::play;
use biplex_engine::mutant::Mutant;

/// A planted bug and where to look for it.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    /// The bug.
    pub mutant: Mutant,
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// Which weather shows it.
    pub weather: Weather,
    /// Which slant shows it.
    pub slant: Slant,
    /// Within how many seeds.
    pub seeds: u64,
    /// From which seed on: it is not 0 for a bug that is rarely seen.
    pub first: u64,
}

impl Hunt {
    const fn from(self, first: u64) -> Hunt {
        Hunt { first, ..self }
    }
}

const fn hunt(mutant: Mutant, name: &'static str, weather: Weather, slant: Slant, seeds: u64) -> Hunt {
    Hunt { mutant, name, weather, slant, seeds, first: 0 }
}

/// All planted bugs.
pub const HUNTS: [Hunt; 36] = {
    use Mutant::*;
    use Weather::{Cruel, Polite};
    [
        hunt(DropTieBreak, "drop-tie-break", Polite, Slant::Ties, 20),
        hunt(TrimOneBlockTooFew, "trim-one-block-too-few", Polite, Slant::Ties, 20),
        hunt(LateArrivalCovers, "late-arrival-covers", Polite, Slant::Ties, 20),
        hunt(DestageBeforeAck, "destage-before-ack", Polite, Slant::Cuts, 40),
        hunt(DestageBeforePromise, "destage-before-promise", Polite, Slant::SlowLine, 40),
        hunt(ShowPendingWrite, "show-pending-write", Cruel, Slant::SlowLine, 40),
        hunt(ReuseStampAfterRestart, "reuse-stamp-after-restart", Polite, Slant::Clocks, 40),
        hunt(AckBeforeSync, "ack-before-sync", Polite, Slant::SlowDisks, 40),
        hunt(CompleteBeforeAck, "complete-before-ack", Cruel, Slant::SlowLine, 40),
        hunt(CompleteBeforeSync, "complete-before-sync", Polite, Slant::SlowDisks, 40),
        hunt(ApplyResendTwice, "apply-resend-twice", Polite, Slant::Cuts, 150),
        hunt(ResumeOwnOnly, "resume-own-only", Polite, Slant::SlowDisks, 40),
        hunt(RecycleTooEarly, "recycle-too-early", Polite, Slant::StoreCrashes, 40),
        hunt(RecoverOwnOnly, "recover-own-only", Polite, Slant::Crashes, 40),
        hunt(MapNotCleared, "map-not-cleared", Polite, Slant::Mixed, 20),
        hunt(ServeWithoutLease, "serve-without-lease", Cruel, Slant::Silence, 150),
        hunt(HoldUnbounded, "hold-unbounded", Polite, Slant::Cramped, 20),
        hunt(ForgetBeforeStoreSync, "forget-before-store-sync", Polite, Slant::StoreCrashes, 40),
        hunt(TakeTornTail, "take-torn-tail", Polite, Slant::SlowDisks, 40),
        hunt(GrantBeforeAck, "grant-before-ack", Cruel, Slant::Reservations, 40),
        hunt(AckBeforeExecuted, "ack-before-executed", Cruel, Slant::Reservations, 40),
        hunt(WindowByExecuted, "window-by-executed", Polite, Slant::Reservations, 100),
        hunt(SkipRetry, "skip-retry", Polite, Slant::HandOver, 20),
        hunt(JudgeNewest, "judge-newest", Polite, Slant::Swaps, 40),
        hunt(ShowSwapEarly, "show-swap-early", Cruel, Slant::Swaps, 150),
        hunt(ForgetAttention, "forget-attention", Polite, Slant::Reservations, 20),
        hunt(NewerReserveWins, "newer-reserve-wins", Polite, Slant::Reservations, 20),
        hunt(LoseAptpl, "lose-aptpl", Polite, Slant::Power, 20),
        hunt(ForgetVerdict, "forget-verdict", Polite, Slant::Swaps, 100),
        hunt(StaleAdmission, "stale-admission", Cruel, Slant::HandOver, 20).from(80),
        hunt(KeepOldAnswer, "keep-old-answer", Cruel, Slant::Units, 20).from(50),
        hunt(OwnUnitDecides, "own-unit-decides", Cruel, Slant::Units, 100),
        hunt(PassWithoutAnswer, "pass-without-answer", Cruel, Slant::Units, 20),
        hunt(ForgetFreed, "forget-freed", Polite, Slant::HandOver, 20),
        hunt(PassAgain, "pass-again", Polite, Slant::Units, 40),
        hunt(LossUntold, "loss-untold", Cruel, Slant::Units, 60),
    ]
};

/// A bug that was seen.
#[derive(Clone, Debug)]
pub struct Catch {
    /// At which seed.
    pub seed: u64,
    /// By which check, and how.
    pub violation: Violation,
}

/// Looks for a planted bug. `None`: no check saw it within the seeds.
pub fn chase(hunt: &Hunt) -> Option<Catch> {
    (hunt.first..hunt.first + hunt.seeds).find_map(|seed| {
        let report = play(Scenario::new(seed, hunt.weather, hunt.slant), Some(hunt.mutant), false);
        report.violation.map(|violation| Catch { seed, violation })
    })
}

/// One line of the table.
pub fn tell(hunt: &Hunt, caught: Option<&Catch>) -> String {
    let place = format!("{} {}", hunt.weather.name(), hunt.slant.name());
    match caught {
        Some(caught) => {
            let short: String = caught.violation.what.chars().take(70).collect();
            let (name, check, seed) = (hunt.name, caught.violation.check, caught.seed);
            format!("{name:<28} {place:<22} seed {seed:<3} {check:<14} {short}")
        }
        None => format!("{:<28} {place:<22} NOT CAUGHT in {} seeds", hunt.name, hunt.seeds),
    }
}
