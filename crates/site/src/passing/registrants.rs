//! Answers for who is surely registered with a unit, and for what follows where the unit has lost them all: one that lost
//! power keeps no registrations if nobody asked it to (APTPL, SPC-4 5.13.5).
//!
//! It is no table to judge by (E5.1): it holds only of whom the unit itself said so in this run of the site, and with the
//! first request that may have ended it, it is forgotten.

use crate::api::Severity;
use crate::site::Site;
use biplex_engine::reserve::{Request, Reset};
use biplex_engine::{Nexus, Now, VolumeId};
use std::collections::BTreeSet;

#[derive(Debug, Default)]
pub(super) struct Registrants(BTreeSet<(VolumeId, Nexus)>);

impl Registrants {
    /// The unit answered a request; `done`: it did it.
    pub fn answered(&mut self, id: VolumeId, nexus: Nexus, request: &Request, done: bool) {
        match request {
            Request::Register { new_key: 1.., .. } if done => drop(self.0.insert((id, nexus))),
            Request::Register { new_key: 1.., .. } => {}
            Request::Register { .. } => drop(self.0.remove(&(id, nexus))),
            // Who preempts another one's key stays.
            Request::Preempt { key, victim, .. } => {
                self.0.retain(|(of, who)| *of != id || (*who == nexus && key != victim));
            }
            Request::Clear { .. } | Request::Move { .. } => self.0.retain(|(of, _)| *of != id),
            Request::Reserve { .. }
            | Request::Release { .. }
            | Request::ReservePersistent { .. }
            | Request::ReleasePersistent { .. }
            | Request::Reset(_)
            | Request::SetModes(_)
            | Request::NexusLost
            | Request::SiteStarted { .. } => {}
        }
    }
}

impl Site {
    /// A nexus' session was made anew, and the unit says that nobody is registered. If this one was, the unit has lost it:
    /// whom the other unit keeps out this one lets in. That hosts must hear, as of any disk that lost power.
    pub(crate) fn nobody_registered(&mut self, now: Now, id: VolumeId, nexus: Nexus) {
        let known = &mut self.passing.registrants.0;
        // What is under way may have ended it.
        if self.passing.rounds.contains_key(&id) || !known.contains(&(id, nexus)) {
            return;
        }
        known.retain(|(of, _)| *of != id);
        self.onlook.forget_holder(id);
        let text = format!(
            "the unit of volume {id} has lost all registrations, {nexus}'s among them, and with them a persistent \
             reservation: it was restarted, and who registered last had not asked for APTPL. The other site's unit has them \
             still. All hosts are told of a power on (29/00); those that register anew must disregard the existing key, or a \
             registered one CLEAR first, which goes to both"
        );
        self.notice(Severity::Alarm, text);
        self.engine.handle_unit_lost(now, id, Reset::TargetCold);
    }
}
