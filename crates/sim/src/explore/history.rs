//! What hosts were told, and whether they could be told so.
//!
//! A history is a set of commands and, for each, which had been answered and which asked when it was asked. That is all
//! that hosts together can know, and it is judged by search: is there an order of the commands, in which nothing comes
//! before what had been answered when it was asked, in which a single unit ([`Unit`]) would have told the same?

use super::ask::{Ask, Told, Unit};
use biplex_engine::Nexus;

/// How a command stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Stand {
    /// Not asked.
    Waits,
    /// Asked, not answered.
    Open,
    /// Answered.
    Told(Told),
    /// Nobody waits for the answer any more: it may happen, or not.
    Lost,
}

/// A command in a history.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Command {
    /// Which host asks.
    pub host: usize,
    /// Its nexus.
    pub nexus: Nexus,
    /// What.
    pub ask: Ask,
    /// How it stands.
    pub stand: Stand,
    /// Those that had been answered when it was asked, as a bit set of places in the history.
    pub answered_before: u32,
    /// Those that had been asked, kept for reserves only.
    pub asked_before: u32,
}

impl Command {
    fn was_asked(&self) -> bool {
        self.stand != Stand::Waits
    }

    /// Whether it went with a site that lost power.
    fn went_down(&self, history: &[Command]) -> bool {
        let down = |c: &Command| c.host == usize::MAX && c.was_asked() && c.nexus.site == self.nexus.site;
        self.stand == Stand::Lost && history.iter().any(down)
    }

    fn granted_or_open(&self) -> bool {
        matches!(self.stand, Stand::Open | Stand::Lost | Stand::Told(Told::Good))
    }
}

/// Judges a history. `faults`: something broke, so that hosts may be told to ask again. `sync`: of a sync volume, so that
/// what was told of blocks is judged, too.
pub fn judge(history: &[Command], faults: bool, sync: bool) -> Result<(), String> {
    for (at, command) in history.iter().enumerate() {
        if command.stand == Stand::Told(Told::Retry) && !faults {
            return Err(format!("{} was told to retry though nothing failed", name(history, at)));
        }
    }
    if sync {
        exclusion(history)?;
    }
    justified(history)?;
    let requests = |c: &Command| !c.ask.is_data();
    let data = |c: &Command| c.ask.is_data() && c.stand != Stand::Told(Told::Conflict);
    // A refusal of data says only that somebody asks for the unit: `justified` judges it.
    let all = |c: &Command| requests(c) || data(c);
    explain(history, &requests, "no order of the requests explains the verdicts")?;
    if !sync {
        return Ok(());
    }
    explain(history, &data, "blocks are not linearizable")?;
    explain(history, &all, "no order of requests and data together explains what was told")
}

fn name(history: &[Command], at: usize) -> String {
    history.get(at).map_or(String::new(), |c| format!("{:?} of host {}", c.ask, c.host))
}

/// E3.4: between the GOOD of a reserve and the asking of what ends it, nobody else's command that is asked is done.
fn exclusion(history: &[Command]) -> Result<(), String> {
    for (r, reserve) in history.iter().enumerate() {
        if reserve.ask != Ask::Reserve || reserve.stand != Stand::Told(Told::Good) {
            continue;
        }
        for (w, other) in history.iter().enumerate() {
            let done = match other.stand {
                Stand::Told(Told::Good | Told::Miscompare) => other.ask.is_data() || other.ask.is_reserve(),
                Stand::Told(Told::Value(_)) => true,
                Stand::Told(_) | Stand::Waits | Stand::Open | Stand::Lost => false,
            };
            let later = other.answered_before & 1 << r != 0;
            if !done || !later || other.nexus == reserve.nexus {
                continue;
            }
            let ended = history.iter().enumerate().any(|(l, end)| {
                let of_it = end.ask.releases() && (end.nexus == reserve.nexus || end.ask == Ask::Reset);
                of_it && l != r && end.was_asked() && end.answered_before & 1 << w == 0
            });
            if !ended {
                let (w, r) = (name(history, w), name(history, r));
                return Err(format!("exclusion: {w} was asked after the GOOD of {r}, and was done"));
            }
        }
    }
    Ok(())
}

/// E3.5, E3.7: a refusal needs somebody who had asked for the unit before it, and had not asked to release it when the
/// refused reserve was asked (had not been told of the release when refused data were asked).
fn justified(history: &[Command]) -> Result<(), String> {
    if history.iter().any(|c| matches!(c.ask, Ask::Register(_))) {
        return Ok(());
    }
    for (at, refused) in history.iter().enumerate() {
        if refused.stand != Stand::Told(Told::Conflict) {
            continue;
        }
        let reserve = refused.ask.is_reserve();
        let cause = history.iter().enumerate().any(|(c, cause)| {
            let held = cause.nexus != refused.nexus
                && cause.ask.is_reserve()
                && cause.granted_or_open()
                && cause.answered_before & 1 << at == 0;
            let ended = history.iter().enumerate().any(|(l, end)| {
                let mask = if reserve { refused.asked_before } else { refused.answered_before };
                let of_it = end.ask.releases() && (end.nexus == cause.nexus || end.ask == Ask::Reset);
                // It was asked after what it ends, and was not lost with its site.
                of_it && !end.went_down(history) && mask & 1 << l != 0 && end.answered_before & 1 << c != 0
            });
            held && !ended
        });
        if !cause {
            return Err(format!("E3.5: {} was refused though nobody held the unit", name(history, at)));
        }
    }
    Ok(())
}

/// Whether an order of the commands that `counts` explains what was told.
fn explain(history: &[Command], counts: &dyn Fn(&Command) -> bool, what: &str) -> Result<(), String> {
    let asked: u32 =
        history.iter().enumerate().filter(|(_, c)| c.was_asked() && counts(c)).map(|(at, _)| 1 << at).sum();
    if placed(history, asked, &Unit::default()) {
        return Ok(());
    }
    let said = |(at, c): (usize, &Command)| match c.stand {
        Stand::Told(told) if counts(c) => Some(format!("{} was told {told:?}", name(history, at))),
        Stand::Told(_) | Stand::Waits | Stand::Open | Stand::Lost => None,
    };
    let told: Vec<String> = history.iter().enumerate().filter_map(said).collect();
    Err(format!("{what}: {}", told.join(", ")))
}

/// Wing and Gong's search, over a handful of commands.
fn placed(history: &[Command], open: u32, unit: &Unit) -> bool {
    let told = |at: usize| matches!(history[at].stand, Stand::Told(told) if told != Told::Retry);
    let rest: Vec<usize> = (0..history.len()).filter(|at| open & 1 << at != 0).collect();
    if !rest.iter().any(|at| told(*at)) {
        return true;
    }
    rest.iter().copied().any(|at| {
        let command = &history[at];
        // What had been answered before it was asked comes first.
        if command.answered_before & open & mask_of(&rest, told) != 0 {
            return false;
        }
        let mut after = unit.clone();
        let said = after.execute(command.nexus, command.ask);
        let fits = match command.stand {
            Stand::Told(told) => told == said || told == Told::Retry,
            Stand::Waits | Stand::Open | Stand::Lost => true,
        };
        fits && placed(history, open & !(1 << at), &after)
    })
}

fn mask_of(rest: &[usize], keeps: impl Fn(usize) -> bool) -> u32 {
    rest.iter().filter(|at| keeps(**at)).map(|at| 1 << at).sum()
}
