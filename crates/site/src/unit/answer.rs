//! Answers for what a status and its sense data mean for a command that Biplex itself sent, and for saying it in words.

use bytes::Bytes;

/// SAM-5 table 35.
pub const GOOD: u8 = 0x00;
/// CHECK CONDITION.
pub const CHECK: u8 = 0x02;
/// BUSY.
pub const BUSY: u8 = 0x08;
/// RESERVATION CONFLICT.
pub const CONFLICT: u8 = 0x18;
/// TASK SET FULL.
pub const TASK_SET_FULL: u8 = 0x28;

/// A command's answer as it came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// SCSI status (SAM-5 table 35); 0xff where the target could not deliver the command (RFC 7143 §11.4.3).
    pub status: u8,
    /// Sense data, empty if there is none.
    pub sense: Bytes,
    /// Data from the unit.
    pub data: Bytes,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Good,
    /// The unit has news for this nexus and has not looked at the command (SAM-5 5.14).
    Attention,
    /// Not now: BUSY, TASK SET FULL, NOT READY, ABORTED COMMAND, and what was said of an earlier command instead.
    Later,
    Conflict,
    /// The unit does not know this command or this form of it (5/20/00, 5/24/00, 5/26/00).
    Unknown,
    Failed,
}

impl Answer {
    pub(super) fn verdict(&self) -> Verdict {
        match (self.status, codes(&self.sense)) {
            (GOOD, _) => Verdict::Good,
            (CHECK, _) if self.is_deferred() => Verdict::Later,
            (CONFLICT, _) => Verdict::Conflict,
            (BUSY | TASK_SET_FULL, _) => Verdict::Later,
            (CHECK, (0x6, _, _)) => Verdict::Attention,
            (CHECK, (0x2 | 0xb, _, _)) => Verdict::Later,
            // SPC-4 4.5.6: RECOVERED ERROR means that it was done.
            (CHECK, (0x1, _, _)) => Verdict::Good,
            (CHECK, (0x5, 0x20 | 0x24 | 0x26, _)) => Verdict::Unknown,
            (_, _) => Verdict::Failed,
        }
    }

    /// Whether this is news of the unit's for the nexus, and the command was not looked at (SAM-5 5.14).
    pub(crate) fn is_attention(&self) -> bool {
        self.verdict() == Verdict::Attention
    }

    /// Whether the unit could not do it just now, and did not: BUSY, TASK SET FULL, NOT READY, ABORTED COMMAND.
    pub(crate) fn is_later(&self) -> bool {
        self.verdict() == Verdict::Later
    }

    /// Whether the unit does not know the command, or this form of it.
    pub(crate) fn is_unknown(&self) -> bool {
        self.verdict() == Verdict::Unknown
    }

    /// Whether it is about an earlier command, which was answered well, and this one was not looked at (SPC-4 4.5.5).
    fn is_deferred(&self) -> bool {
        self.status == CHECK && self.sense.first().is_some_and(|code| matches!(code & 0x7f, 0x71 | 0x73))
    }

    /// What it tells of for which writes may be gone that were answered well: a power on or reset (SPC-4: 29h) takes a write
    /// cache with it.
    pub(super) fn tells_of_loss(&self) -> Option<&'static str> {
        match codes(&self.sense) {
            _ if self.is_deferred() => Some("an earlier command that failed after all"),
            (0x6, 0x29, _) if self.status == CHECK => Some("a power on or reset"),
            _ => None,
        }
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            GOOD => write!(f, "GOOD"),
            CHECK => {
                let (key, code, qualifier) = codes(&self.sense);
                write!(f, "CHECK CONDITION, {}, sense {key:x}/{code:02x}/{qualifier:02x}", key_name(key))
            }
            BUSY => write!(f, "BUSY"),
            CONFLICT => write!(f, "RESERVATION CONFLICT"),
            TASK_SET_FULL => write!(f, "TASK SET FULL"),
            0x40 => write!(f, "TASK ABORTED"),
            0xff => write!(f, "not delivered (iSCSI response)"),
            other => write!(f, "status {other:02x}h"),
        }
    }
}

fn key_name(key: u8) -> &'static str {
    const NAMES: [&str; 16] = [
        "NO SENSE",
        "RECOVERED ERROR",
        "NOT READY",
        "MEDIUM ERROR",
        "HARDWARE ERROR",
        "ILLEGAL REQUEST",
        "UNIT ATTENTION",
        "DATA PROTECT",
        "BLANK CHECK",
        "VENDOR SPECIFIC",
        "COPY ABORTED",
        "ABORTED COMMAND",
        "reserved",
        "VOLUME OVERFLOW",
        "MISCOMPARE",
        "COMPLETED",
    ];
    NAMES.get(usize::from(key)).copied().unwrap_or("reserved")
}

/// Key, code and qualifier of sense data in fixed (SPC-4 4.5.3) or descriptor format (SPC-4 4.5.2).
pub(crate) fn codes(sense: &[u8]) -> (u8, u8, u8) {
    let at = |index: usize| sense.get(index).copied().unwrap_or(0);
    match at(0) & 0x7f {
        0x72 | 0x73 => (at(1) & 0xf, at(2), at(3)),
        _ => (at(2) & 0xf, at(12), at(13)),
    }
}
