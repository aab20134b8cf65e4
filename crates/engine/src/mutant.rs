//! Planted bugs. Each is a line of `GUARANTEES.md`'s proof that a checker sees what it claims to see.
//!
//! Without the `mutants` feature [`planted`] is constantly false and the compiler removes every use.

/// A bug that the simulator plants and must catch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    /// Equal times are not ordered by site: the later arrival wins.
    DropTieBreak,
    /// Overlap trim leaves the last overlapped block to the older entry.
    TrimOneBlockTooFew,
    /// A late, older write covers newer ones.
    LateArrivalCovers,
    /// Destage does not wait for the peer's ack.
    DestageBeforeAck,
    /// Destage does not wait for the peer's promise.
    DestageBeforePromise,
    /// A read shows a write that is not committed.
    ShowPendingWrite,
    /// The clock's ceiling is not made durable: stamps may repeat after a restart.
    ReuseStampAfterRestart,
    /// The peer is told "durable" when the entry is only appended.
    AckBeforeSync,
    /// A sync write completes when its own journal has it.
    CompleteBeforeAck,
    /// A write completes before its own journal has it.
    CompleteBeforeSync,
    /// A resend is not recognised and is applied again under a new stamp.
    ApplyResendTwice,
    /// A resume gives the peer only what this site itself wrote, not what the peer lost of its own.
    ResumeOwnOnly,
    /// A journal segment is recycled when its entries are older than the hold time, destaged or not.
    RecycleTooEarly,
    /// Recovery forgets entries of the peer's origin.
    RecoverOwnOnly,
    /// The state map is not cleared after a destage.
    MapNotCleared,
    /// A site serves a sync volume without a lease.
    ServeWithoutLease,
    /// The hold buffer's limit is not kept.
    HoldUnbounded,
    /// Entries are forgotten at the cut's checkpoint before the backing store is synced.
    ForgetBeforeStoreSync,
    /// A torn tail is taken for good.
    TakeTornTail,
    /// A reserve is granted before the peer has acked it.
    GrantBeforeAck,
    /// A peer's request is acked before it is executed here, and before what came before is on its way.
    AckBeforeExecuted,
    /// The window is freed only by what is executed at the peer, and not by what its journal has.
    WindowByExecuted,
    /// A reserve that finds somebody else is refused although a release is on its way.
    SkipRetry,
    /// A COMPARE AND WRITE is judged on the newest bytes instead of those at its place in the order.
    JudgeNewest,
    /// What a COMPARE AND WRITE wrote is shown before the peer has what its verdict rests on.
    ShowSwapEarly,
    /// One registrant is not told of a PREEMPT, CLEAR or RELEASE.
    ForgetAttention,
    /// A RESERVE at site A takes the unit from an older holder at site B.
    NewerReserveWins,
    /// Persistent reservations are lost with power although APTPL is on.
    LoseAptpl,
    /// A destage does not wait until the verdicts of what it covers are in the journal.
    ForgetVerdict,
    /// What a unit said before a request went through it still lets a command in.
    StaleAdmission,
    /// What stands at the door while a request goes through the unit keeps what the unit said before.
    KeepOldAnswer,
    /// A host is told what the own unit said, whatever the peer's did.
    OwnUnitDecides,
    /// A request counts as executed when it is on its way to the unit.
    PassWithoutAnswer,
    /// A reserve that a unit refused is refused although a release was executed since.
    ForgetFreed,
    /// After a restart requests are passed again although the unit has answered them.
    PassAgain,
    /// The pair is not told that a unit lost what was reserved.
    LossUntold,
}

#[cfg(feature = "mutants")]
mod switch {
    use super::Mutant;
    use std::cell::Cell;
    thread_local! { static PLANTED: Cell<Option<Mutant>> = const { Cell::new(None) }; }

    /// Plants a bug in everything that this thread runs from now on; `None` removes it.
    pub fn plant(mutant: Option<Mutant>) {
        PLANTED.set(mutant);
    }

    /// Whether `mutant` is planted.
    pub fn planted(mutant: Mutant) -> bool {
        PLANTED.get() == Some(mutant)
    }
}

#[cfg(not(feature = "mutants"))]
mod switch {
    /// Whether `mutant` is planted: never, in this build.
    #[inline(always)]
    pub const fn planted(_mutant: super::Mutant) -> bool {
        false
    }
}

pub use switch::*;
