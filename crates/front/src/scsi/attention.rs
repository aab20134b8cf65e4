//! Unit attentions (SAM-5 5.14): what each nexus has yet to be told about each unit.
//!
//! A first login is told nothing: there is nothing that it could have missed. A nexus that comes back after
//! it was lost is told so once (29/07), because what it had running is gone; if it was away when something was
//! done to what it had reserved or registered, it is told that. Memory is bounded: a condition is queued once per
//! nexus and unit, and only the last `LOST_MAX` lost nexuses are remembered.

use super::sense::Sense;
use biplex_engine::Nexus;
use biplex_engine::reserve::Attention;
use std::collections::{BTreeMap, VecDeque};

/// How many lost nexuses are remembered.
const LOST_MAX: usize = 1024;

/// How a condition is told.
pub(super) fn sense(attention: Attention) -> Sense {
    match attention {
        Attention::PowerOn => Sense::attention(0x29, 0x00),
        Attention::Reset => Sense::attention(0x29, 0x03),
        Attention::NexusLost => Sense::attention(0x29, 0x07),
        Attention::ModeChanged => Sense::attention(0x2a, 0x01),
        Attention::ReservationsPreempted => Sense::attention(0x2a, 0x03),
        Attention::ReservationsReleased => Sense::attention(0x2a, 0x04),
        Attention::RegistrationsPreempted => Sense::attention(0x2a, 0x05),
        Attention::CommandsCleared => Sense::attention(0x2f, 0x00),
    }
}

/// Conditions by unit, oldest first.
type Pending = BTreeMap<u16, VecDeque<Attention>>;

/// Who is logged in, and what they have yet to hear.
#[derive(Debug, Default)]
pub(super) struct Attentions {
    live: BTreeMap<Nexus, Pending>,
    lost: VecDeque<(Nexus, Pending)>,
}

impl Attentions {
    /// A session began. `luns` are all units that it can reach.
    pub fn attach(&mut self, nexus: Nexus, luns: impl Iterator<Item = u16>) {
        // RFC 7143 6.3.5: the same name and ISID again is the same nexus, reinstated; its old session is
        // over.
        self.detach(nexus, luns);
        let known = self.lost.iter().position(|(lost, _)| *lost == nexus);
        let pending = known.and_then(|at| self.lost.remove(at)).map(|(_, pending)| pending);
        self.live.insert(nexus, pending.unwrap_or_default());
    }

    /// A session ended, however it ended: an I_T nexus loss (SAM-5 6.3.4).
    pub fn detach(&mut self, nexus: Nexus, luns: impl Iterator<Item = u16>) {
        let Some(pending) = self.live.remove(&nexus) else { return };
        let powered = pending.values().any(|queue| queue.contains(&Attention::PowerOn));
        // SAM-5 5.14.4: a power-on condition says more than a lost nexus, and that more than what came before it.
        let attention = if powered { Attention::PowerOn } else { Attention::NexusLost };
        self.remember(nexus, luns.map(|lun| (lun, VecDeque::from([attention]))).collect());
    }

    fn remember(&mut self, nexus: Nexus, pending: Pending) {
        if self.lost.len() == LOST_MAX {
            self.lost.pop_front();
        }
        self.lost.push_back((nexus, pending));
    }

    /// Tells every nexus that is logged in, but `except`, about `lun`.
    pub fn raise(&mut self, lun: u16, attention: Attention, except: Option<Nexus>) {
        for (nexus, pending) in &mut self.live {
            if Some(*nexus) != except {
                queue(pending, lun, attention);
            }
        }
    }

    /// Tells one nexus, when it comes back if it is not there: something was done to what it had on the unit.
    pub fn tell(&mut self, nexus: Nexus, lun: u16, attention: Attention) {
        if let Some(pending) = self.live.get_mut(&nexus) {
            return queue(pending, lun, attention);
        }
        match self.lost.iter_mut().find(|(lost, _)| *lost == nexus) {
            Some((_, pending)) => queue(pending, lun, attention),
            None => self.remember(nexus, BTreeMap::from([(lun, VecDeque::from([attention]))])),
        }
    }

    /// The oldest condition that `nexus` has not heard of, which is then reported.
    pub fn take(&mut self, nexus: Nexus, lun: u16) -> Option<Attention> {
        self.live.get_mut(&nexus)?.get_mut(&lun)?.pop_front()
    }
}

fn queue(pending: &mut Pending, lun: u16, attention: Attention) {
    let queue = pending.entry(lun).or_default();
    if !queue.contains(&attention) {
        queue.push_back(attention);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use biplex_engine::{HostId, SiteId};

    fn nexus(host: u64) -> Nexus {
        Nexus { host: HostId(host), isid: 0, site: SiteId::A }
    }

    fn luns() -> impl Iterator<Item = u16> {
        [0, 1].into_iter()
    }

    #[test]
    fn a_first_login_hears_nothing_and_a_returning_nexus_hears_of_its_loss_once() {
        let mut attentions = Attentions::default();
        attentions.attach(nexus(1), luns());
        assert_eq!(attentions.take(nexus(1), 0), None);
        attentions.detach(nexus(1), luns());
        attentions.attach(nexus(2), luns());
        attentions.attach(nexus(1), luns());
        assert_eq!(attentions.take(nexus(2), 0), None);
        assert_eq!(attentions.take(nexus(1), 1), Some(Attention::NexusLost));
        assert_eq!(attentions.take(nexus(1), 1), None);
        assert_eq!(attentions.take(nexus(1), 0), Some(Attention::NexusLost));
    }

    #[test]
    fn a_reinstated_session_replaces_the_old_one() {
        let mut attentions = Attentions::default();
        attentions.attach(nexus(1), luns());
        attentions.attach(nexus(1), luns());
        assert_eq!(attentions.take(nexus(1), 0), Some(Attention::NexusLost));
        assert!(attentions.lost.is_empty());
    }

    #[test]
    fn one_condition_is_queued_once_and_never_for_its_cause() {
        let mut attentions = Attentions::default();
        attentions.attach(nexus(1), luns());
        attentions.attach(nexus(2), luns());
        for _ in 0..3 {
            attentions.raise(0, Attention::CommandsCleared, Some(nexus(1)));
        }
        assert_eq!(attentions.take(nexus(1), 0), None);
        assert_eq!(attentions.take(nexus(2), 0), Some(Attention::CommandsCleared));
        assert_eq!(attentions.take(nexus(2), 0), None);
    }

    #[test]
    fn a_nexus_that_was_away_hears_what_was_done_to_its_registrations() {
        let mut attentions = Attentions::default();
        attentions.tell(nexus(1), 1, Attention::RegistrationsPreempted);
        attentions.attach(nexus(1), luns());
        assert_eq!(attentions.take(nexus(1), 0), None);
        assert_eq!(attentions.take(nexus(1), 1), Some(Attention::RegistrationsPreempted));
        attentions.detach(nexus(1), luns());
        attentions.tell(nexus(1), 0, Attention::ReservationsReleased);
        attentions.attach(nexus(1), luns());
        assert_eq!(attentions.take(nexus(1), 0), Some(Attention::NexusLost));
        assert_eq!(attentions.take(nexus(1), 0), Some(Attention::ReservationsReleased));
    }

    #[test]
    fn the_memory_of_lost_nexuses_is_bounded() {
        let mut attentions = Attentions::default();
        for number in 0..2 * LOST_MAX as u64 {
            attentions.attach(nexus(number), luns());
            attentions.detach(nexus(number), luns());
        }
        assert_eq!(attentions.lost.len(), LOST_MAX);
    }
}
