//! The end of a polite run: what is left is tidied up, everything is read, reservations are left behind, both sites lose
//! power, and what stands then must be what the standards say.

use crate::claims::{register, wish_of};
use crate::history::Deed;
use crate::place::volume_id;
use crate::unit::Has;
use crate::world::World;
use biplex_engine::reserve::{PersistentKind, Request, ReservationState, Reset, Verdict};

/// The key that is used at the end.
const KEY: u64 = 77;

/// What a volume was left with before the last loss of power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bequest {
    Unit,
    Persistent { aptpl: bool },
}

/// All bequests, and the commands that made them, by index in the history.
#[derive(Clone, Debug, Default)]
pub struct Legacy {
    volumes: Vec<Bequest>,
    asked: Vec<usize>,
    /// The reservations just before power was lost.
    before: Vec<ReservationState>,
}

impl World {
    /// Whether nobody reserves or is registered anywhere any more. If not, host 0 sees to it.
    pub(crate) fn tidy(&mut self) -> bool {
        let mut tidy = true;
        for volume in 0..self.scenario.volumes.len() {
            let Some(state) = self.state_of(volume) else { return false };
            let kept = self.scenario.volumes[volume].rules.disk;
            let bare = match kept {
                true => self.units_bare(volume),
                false => state.unit.is_none() && state.extents.is_empty() && state.registrations.is_empty(),
            };
            if !bare {
                tidy = false;
                let name = self.hosts[0].id;
                let asks = [
                    Request::Reset(Reset::Unit),
                    register(None, KEY, false, false, name),
                    Request::Clear { key: KEY },
                ];
                asks.into_iter().for_each(|request| {
                    self.ask_at_the_end(volume, request);
                });
            }
        }
        tidy
    }

    /// Host 0 reserves everything, in one way or the other.
    pub(crate) fn bequeath(&mut self) {
        self.legacy = Legacy::default();
        for volume in 0..self.scenario.volumes.len() {
            let aptpl = self.random.one_in(2);
            let bequest = if self.random.one_in(4) { Bequest::Unit } else { Bequest::Persistent { aptpl } };
            let name = self.hosts[0].id;
            let asks = match bequest {
                Bequest::Unit => vec![Request::Reserve { third_party: None, extents: None }],
                // A type that lets everybody read.
                Bequest::Persistent { aptpl } => vec![
                    register(None, KEY, aptpl, false, name),
                    Request::ReservePersistent { key: KEY, kind: PersistentKind::WriteExclusive },
                ],
            };
            self.legacy.volumes.push(bequest);
            for request in asks {
                let op = self.ask_at_the_end(volume, request);
                self.legacy.asked.push(op);
            }
        }
    }

    /// Whether all of that was done; remembers what stands.
    pub(crate) fn bequeathed(&mut self) -> bool {
        let done =
            |op: &usize| matches!(self.history[*op].deed, Deed::Control { verdict: Some(Verdict::Done), .. });
        if !self.legacy.asked.iter().all(done) {
            return false;
        }
        let states = (0..self.scenario.volumes.len()).filter_map(|volume| self.state_of(volume));
        self.legacy.before = states.collect();
        self.legacy.before.len() == self.scenario.volumes.len()
    }

    /// Both sites lost power since: APTPL decides.
    pub(crate) fn judge_legacy(&mut self) {
        for volume in 0..self.scenario.volumes.len() {
            let (bequest, before) = (self.legacy.volumes[volume], self.legacy.before[volume].clone());
            if self.scenario.volumes[volume].rules.disk {
                self.judge_legacy_of_units(volume, bequest);
                continue;
            }
            let Some(state) = self.state_of(volume) else { continue };
            let stands =
                (&state.registrations, &state.persistent) == (&before.registrations, &before.persistent);
            let gone = state.registrations.is_empty() && state.persistent.is_none();
            let well = match bequest {
                Bequest::Unit => true,
                Bequest::Persistent { aptpl: true } => stands && state.aptpl,
                Bequest::Persistent { aptpl: false } => gone && !state.aptpl,
            };
            if !well || state.unit.is_some() || !state.extents.is_empty() || state.generation != 0 {
                let what = format!("vol{volume}: {bequest:?} before power was lost, now {state:?}");
                return self.violation("power loss", what);
            }
            self.counts.power_losses_judged += 1;
        }
    }

    /// The same where the units keep the reservations and lost power, too.
    fn judge_legacy_of_units(&mut self, volume: usize, bequest: Bequest) {
        let (pair, heir) = (self.places[0].config.port.target.clone(), self.hosts[0].nexus());
        let wanted = match bequest {
            Bequest::Unit | Bequest::Persistent { aptpl: false } => Has::default(),
            Bequest::Persistent { aptpl: true } => {
                Has { persistent: Some(PersistentKind::WriteExclusive), key: Some(KEY), ..Has::default() }
            }
        };
        let found = self.places.each_ref().map(|place| place.units.get(&volume).map(|u| u.has(&pair, heir)));
        if found != [Some(wanted.clone()), Some(wanted)] {
            let what = format!("vol{volume}: {bequest:?} before power was lost, now at the units {found:?}");
            return self.violation("power loss", what);
        }
        self.counts.power_losses_judged += 1;
    }

    /// Every write that one site undid the other undid, too.
    pub(crate) fn judge_discards(&mut self) {
        let [a, b] = self.places.each_ref().map(|place| &place.discarded);
        self.counts.discards += a.len() as u64;
        if let Some((volume, stamp)) = a.symmetric_difference(b).next() {
            let by = if a.contains(&(*volume, *stamp)) { "A" } else { "B" };
            let what = format!("vol{volume}: the write {stamp} is undone at site {by} only");
            self.violation("discards", what);
        }
    }

    fn ask_at_the_end(&mut self, volume: usize, request: Request) -> usize {
        self.ask(0, wish_of(volume, Deed::Control { request, verdict: None }));
        self.history.len() - 1
    }

    fn state_of(&self, volume: usize) -> Option<ReservationState> {
        let table = self.places[0].site.as_ref()?.reservations(volume_id(volume))?;
        Some(table.parts().clone())
    }
}
