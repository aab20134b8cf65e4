//! What befalls a unit from outside its reservation commands: resets, mode parameters, nexuses and sites that go.
//!
//! # Power loss
//!
//! The pair is one unit, so it has lost power when both sites were started anew and neither knew of the other's start:
//! as long as one site went on, what stands was never gone. Each start brings one [`Request::SiteStarted`] with the
//! site's own run and the run that its peer's hello tells; the state keeps both sites' runs as last told. With `site`
//! the site of the stamp:
//!
//! 1. Nothing is kept (the first start ever): both are kept; nothing else changes.
//! 2. The own run is the one kept: this start is known, nothing changes. It is so for the second of two sites that both
//!    were started, whose start came with the first's request.
//! 3. The peer's run is the one kept: the peer went on, only `site` was started. SCSI-2 reservations of its nexuses are
//!    released, and each such nexus is told of its loss.
//! 4. The peer's run is another: both were started. This is power loss: SCSI-2 reservations of both sites are released;
//!    unless APTPL is on, registrations and persistent reservation go (SPC-4 5.13.5); PRGENERATION is 0 (SPC-4
//!    6.15.2); mode parameters are the defaults; whoever was registered or owned a reservation is told PowerOn.
//!
//! In cases 3 and 4 both runs are kept afterwards.
//!
//! [`Request::SiteStarted`]: super::Request::SiteStarted

use super::Access;
use super::Reservations;
use super::request::{Attention, Effect, ModeBits, Reset, Verdict};
use crate::mutant::{Mutant, planted};
use crate::units::{Nexus, SiteId};

impl Reservations {
    /// SAM-5 7, RFC 7143 11.5.1. Resets know no reservations, and leave persistent ones alone (SPC-4 5.13.1).
    pub(super) fn reset(&mut self, by: Nexus, reset: Reset, effects: &mut Vec<Effect>) -> Verdict {
        effects.push(Effect::AbortAll);
        let (but, attention) = match reset {
            Reset::TaskSet => (Some(by), Attention::CommandsCleared),
            Reset::Unit | Reset::TargetWarm => (None, Attention::Reset),
            Reset::TargetCold => (None, Attention::PowerOn),
        };
        match reset {
            Reset::TaskSet => {}
            Reset::Unit | Reset::TargetWarm | Reset::TargetCold => {
                self.release_owners(|_| true);
                self.change_modes(ModeBits::default(), effects);
            }
        }
        effects.push(Effect::AttendAll { but, attention });
        Verdict::Done
    }

    /// MODE SELECT. Reservations of the moment in which it is executed count, not those of when it came.
    pub(super) fn set_modes(&mut self, by: Nexus, modes: ModeBits, effects: &mut Vec<Effect>) -> Verdict {
        if !self.allows(by, Access::Control, None) {
            return Verdict::Conflict;
        }
        if self.change_modes(modes, effects) {
            // SPC-4 6.11: every other nexus, if something changed.
            effects.push(Effect::AttendAll { but: Some(by), attention: Attention::ModeChanged });
        }
        Verdict::Done
    }

    fn change_modes(&mut self, modes: ModeBits, effects: &mut Vec<Effect>) -> bool {
        let changes = self.state.modes != modes;
        if changes {
            self.state.modes = modes;
            effects.push(Effect::Modes(modes));
        }
        changes
    }

    /// A site was started anew; the rule is at the head of this file.
    pub(super) fn site_started(
        &mut self,
        site: SiteId,
        run: u32,
        peer_run: u32,
        effects: &mut Vec<Effect>,
    ) -> Verdict {
        let told = match site {
            SiteId::A => [run, peer_run],
            SiteId::B => [peer_run, run],
        };
        let Some([a, b]) = self.state.runs else {
            self.state.runs = Some(told);
            return Verdict::Done;
        };
        let (own, peer) = match site {
            SiteId::A => (a, b),
            SiteId::B => (b, a),
        };
        if run == own {
            return Verdict::Done;
        }
        self.state.runs = Some(told);
        if peer_run == peer {
            let lost = self.release_owners(|owner| owner.site == site);
            effects.extend(lost.into_iter().map(|nexus| Effect::Attend(nexus, Attention::NexusLost)));
        } else {
            self.lose_power(effects);
        }
        Verdict::Done
    }

    fn lose_power(&mut self, effects: &mut Vec<Effect>) {
        let mut told = self.release_owners(|_| true);
        told.extend(self.state.registrations.iter().map(|registration| registration.registrant.nexus));
        told.sort_unstable();
        told.dedup();
        if !self.state.aptpl || planted(Mutant::LoseAptpl) {
            self.state.registrations.clear();
            self.state.persistent = None;
        }
        self.state.generation = 0;
        self.change_modes(ModeBits::default(), effects);
        effects.extend(told.into_iter().map(|nexus| Effect::Attend(nexus, Attention::PowerOn)));
    }
}
