//! Who may do what now: the one table, from the standards, that every command is held against (E3.4).

use super::request::{ExtentKind, PersistentKind};
use super::{Access, Reservations};
use crate::units::{Extent, Nexus};

/// How a nexus stands to a persistent reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Holder,
    Registered,
    Stranger,
}

/// What may be done to the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rights {
    reads: bool,
    writes: bool,
}

const ALL: Rights = Rights { reads: true, writes: true };
const READS: Rights = Rights { reads: true, writes: false };
const WRITES: Rights = Rights { reads: false, writes: true };
const NONE: Rights = Rights { reads: false, writes: false };

/// SPC-4 5.13.1, table 65; SBC-3 4.17.
fn persistent_rights(kind: PersistentKind, standing: Standing) -> Rights {
    use PersistentKind as Kind;
    match (kind, standing) {
        (_, Standing::Holder) => ALL,
        (Kind::WriteExclusive, Standing::Registered | Standing::Stranger) => READS,
        (Kind::ExclusiveAccess, Standing::Registered | Standing::Stranger) => NONE,
        (Kind::WriteExclusiveRegistrants | Kind::WriteExclusiveAll, Standing::Registered) => ALL,
        (Kind::WriteExclusiveRegistrants | Kind::WriteExclusiveAll, Standing::Stranger) => READS,
        (Kind::ExclusiveAccessRegistrants | Kind::ExclusiveAccessAll, Standing::Registered) => ALL,
        (Kind::ExclusiveAccessRegistrants | Kind::ExclusiveAccessAll, Standing::Stranger) => NONE,
    }
}

/// SCSI-2 9.2.12.2, reservation types.
fn extent_rights(kind: ExtentKind, holder: bool) -> Rights {
    match (kind, holder) {
        // Nobody writes, and who reserved does not either.
        (ExtentKind::ReadShared, true | false) => READS,
        (ExtentKind::WriteExclusive | ExtentKind::ReadExclusive | ExtentKind::ExclusiveAccess, true) => ALL,
        (ExtentKind::WriteExclusive, false) => READS,
        (ExtentKind::ReadExclusive, false) => WRITES,
        (ExtentKind::ExclusiveAccess, false) => NONE,
    }
}

impl Reservations {
    /// Whether `by` may do this now (E3.4). `extent`: the blocks that the command touches, all of them if it touches
    /// the whole medium; `None` if it touches none (a length of zero, MODE SENSE). Reservations of extents ask for it,
    /// but for [`Access::Control`], which any extent of another's keeps out.
    pub fn allows(&self, by: Nexus, access: Access, extent: Option<Extent>) -> bool {
        self.is_free()
            || access == Access::Exempt
            || (self.unit_allows(by)
                && self.extents_allow(by, access, extent)
                && self.persistent_allows(by, access))
    }

    /// SPC-2 5.5.1: whatever is not exempt conflicts with another's reservation of the unit.
    fn unit_allows(&self, by: Nexus) -> bool {
        self.state.unit.is_none_or(|unit| unit.holds(by))
    }

    fn extents_allow(&self, by: Nexus, access: Access, extent: Option<Extent>) -> bool {
        let all = |may: fn(Rights) -> bool| {
            extent.is_none_or(|extent| {
                self.state.extents.iter().all(|reservation| {
                    let holder = reservation.holds(by);
                    let met = reservation.extents.claims.iter().filter(|claim| claim.extent.overlaps(extent));
                    met.into_iter().all(|claim| may(extent_rights(claim.kind, holder)))
                })
            })
        };
        match access {
            Access::Exempt | Access::Look => true,
            Access::Read => all(|rights| rights.reads),
            Access::Write => all(|rights| rights.writes),
            // SCSI-2 9.2.12.2: what needs the unit conflicts with any extent of another's.
            Access::Control => self.state.extents.iter().all(|reservation| reservation.holds(by)),
        }
    }

    fn persistent_allows(&self, by: Nexus, access: Access) -> bool {
        let Some(held) = self.state.persistent else { return true };
        let standing = if self.state.holds_persistent(by) {
            Standing::Holder
        } else if self.state.registration(by).is_some() {
            Standing::Registered
        } else {
            Standing::Stranger
        };
        let rights = persistent_rights(held.kind, standing);
        match access {
            Access::Exempt | Access::Look => true,
            Access::Read => rights.reads,
            Access::Write | Access::Control => rights.writes,
        }
    }
}
