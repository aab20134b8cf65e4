//! Unit attentions (SAM-5 5.14): what each nexus has yet to be told about each unit.
//!
//! A first login is told nothing: there is nothing that it could have missed. A nexus that comes back after
//! it was lost is told so once (29/07), because what it had running is gone. Memory is bounded: a condition
//! is queued once per nexus and unit, and only the last `LOST_MAX` lost nexuses are remembered.

use super::NexusIdentity;
use super::sense::Sense;
use crate::NexusId;
use std::collections::{BTreeMap, VecDeque};

/// How many lost nexuses are remembered.
const LOST_MAX: usize = 1024;

/// Something that happened to a unit without this nexus' doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Attention {
    /// The target was reset as if by power (TARGET COLD RESET).
    PowerOn,
    /// LOGICAL UNIT RESET or TARGET WARM RESET.
    Reset,
    /// This nexus was lost, and with it its commands.
    NexusLost,
    /// Another nexus changed the mode parameters.
    ModeChanged,
    /// Another nexus cleared the task set.
    CommandsCleared,
}

impl Attention {
    pub fn sense(self) -> Sense {
        match self {
            Attention::PowerOn => Sense::attention(0x29, 0x00),
            Attention::Reset => Sense::attention(0x29, 0x03),
            Attention::NexusLost => Sense::attention(0x29, 0x07),
            Attention::ModeChanged => Sense::attention(0x2a, 0x01),
            Attention::CommandsCleared => Sense::attention(0x2f, 0x00),
        }
    }
}

#[derive(Debug)]
struct Session {
    identity: NexusIdentity,
    pending: BTreeMap<u16, VecDeque<Attention>>,
}

/// Who is logged in, and what they have yet to hear.
#[derive(Debug, Default)]
pub(super) struct Attentions {
    live: BTreeMap<NexusId, Session>,
    lost: VecDeque<(NexusIdentity, Attention)>,
}

impl Attentions {
    /// A session began. `luns` are all units that it can reach.
    pub fn attach(&mut self, nexus: NexusId, identity: NexusIdentity, luns: impl Iterator<Item = u16>) {
        // RFC 7143 6.3.5: the same name and ISID again is the same nexus, reinstated; its old session is
        // over.
        let reinstated: Vec<NexusId> = self
            .live
            .iter()
            .filter(|(_, session)| session.identity == identity)
            .map(|(old, _)| *old)
            .collect();
        for old in reinstated {
            self.detach(old);
        }
        let mut pending = BTreeMap::new();
        if let Some(at) = self.lost.iter().position(|(lost, _)| *lost == identity)
            && let Some((_, attention)) = self.lost.remove(at)
        {
            pending.extend(luns.map(|lun| (lun, VecDeque::from([attention]))));
        }
        self.live.insert(nexus, Session { identity, pending });
    }

    /// A session ended, however it ended: an I_T nexus loss (SAM-5 6.3.4).
    pub fn detach(&mut self, nexus: NexusId) {
        let Some(session) = self.live.remove(&nexus) else { return };
        let powered = session.pending.values().any(|queue| queue.contains(&Attention::PowerOn));
        // SAM-5 5.14.4: a power-on condition says more than a lost nexus.
        let attention = if powered { Attention::PowerOn } else { Attention::NexusLost };
        if self.lost.len() == LOST_MAX {
            self.lost.pop_front();
        }
        self.lost.push_back((session.identity, attention));
    }

    /// Tells every nexus but `except` about `lun`.
    pub fn raise(&mut self, lun: u16, attention: Attention, except: Option<NexusId>) {
        for (nexus, session) in &mut self.live {
            let queue = session.pending.entry(lun).or_default();
            if Some(*nexus) != except && !queue.contains(&attention) {
                queue.push_back(attention);
            }
        }
    }

    /// The oldest condition that `nexus` has not heard of, which is then reported.
    pub fn take(&mut self, nexus: NexusId, lun: u16) -> Option<Attention> {
        self.live.get_mut(&nexus)?.pending.get_mut(&lun)?.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> NexusIdentity {
        NexusIdentity { initiator: name.into(), isid: [0; 6] }
    }

    #[test]
    fn a_first_login_hears_nothing_and_a_returning_nexus_hears_of_its_loss_once() {
        let mut attentions = Attentions::default();
        attentions.attach(NexusId(1), identity("iqn.a"), [0, 1].into_iter());
        assert_eq!(attentions.take(NexusId(1), 0), None);
        attentions.detach(NexusId(1));
        attentions.attach(NexusId(2), identity("iqn.b"), [0, 1].into_iter());
        attentions.attach(NexusId(3), identity("iqn.a"), [0, 1].into_iter());
        assert_eq!(attentions.take(NexusId(2), 0), None);
        assert_eq!(attentions.take(NexusId(3), 1), Some(Attention::NexusLost));
        assert_eq!(attentions.take(NexusId(3), 1), None);
        assert_eq!(attentions.take(NexusId(3), 0), Some(Attention::NexusLost));
    }

    #[test]
    fn a_reinstated_session_replaces_the_old_one_in_either_order() {
        let mut attentions = Attentions::default();
        attentions.attach(NexusId(1), identity("iqn.a"), [0].into_iter());
        attentions.attach(NexusId(2), identity("iqn.a"), [0].into_iter());
        attentions.detach(NexusId(1));
        assert_eq!(attentions.take(NexusId(2), 0), Some(Attention::NexusLost));
        assert!(attentions.lost.is_empty());
    }

    #[test]
    fn one_condition_is_queued_once_and_never_for_its_cause() {
        let mut attentions = Attentions::default();
        attentions.attach(NexusId(1), identity("iqn.a"), [0].into_iter());
        attentions.attach(NexusId(2), identity("iqn.b"), [0].into_iter());
        for _ in 0..3 {
            attentions.raise(0, Attention::CommandsCleared, Some(NexusId(1)));
        }
        assert_eq!(attentions.take(NexusId(1), 0), None);
        assert_eq!(attentions.take(NexusId(2), 0), Some(Attention::CommandsCleared));
        assert_eq!(attentions.take(NexusId(2), 0), None);
    }

    #[test]
    fn the_memory_of_lost_nexuses_is_bounded() {
        let mut attentions = Attentions::default();
        for number in 0..2 * LOST_MAX as u64 {
            attentions.attach(NexusId(number), identity(&number.to_string()), [0].into_iter());
            attentions.detach(NexusId(number));
        }
        assert_eq!(attentions.lost.len(), LOST_MAX);
    }
}
