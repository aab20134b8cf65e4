//! Answers for what a unit is and can do, asked at each login before any data goes through the session.
//!
//! ```text
//! TEST UNIT READY* ─▶ INQUIRY ─▶ VPD 80h ─▶ VPD B0h ─▶ VPD B2h ─▶ MODE SENSE ─▶ VPD 83h ─┐
//!                  Facts ◀─ READ CAPACITY(16) ◀─ REPORT SUPPORTED OPERATION CODES* ◀───────────────────────────┘
//! ```
//! A unit of the wrong size, block length or kind is refused: nothing is ever written to it.

use super::answer::{Answer, Verdict};
use biplex_engine::BLOCK_BYTES;
use biplex_front::iscsi::initiator::{Payload, inquiry, read_capacity16, test_unit_ready};
use std::collections::VecDeque;

/// Blocks of one transfer at most, whatever the unit takes: 256 KiB.
const TRANSFER_BLOCKS_MAX: u64 = 512;
/// Blocks that one WRITE SAME(16) covers at most, whatever the unit takes: 32 MiB, so that each ends soon.
const SAME_BLOCKS_MAX: u64 = 1 << 16;
/// News that a unit may have for a session that has just logged in.
const ATTENTIONS_MAX: u32 = 8;

/// How ranges are made to read as zeros. UNMAP is not among them: it is a hint that a unit may disregard (SBC-3 4.7.3.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Zeroing {
    /// WRITE SAME(16) with UNMAP: gives space back.
    SameUnmap,
    /// WRITE SAME(16).
    Same,
    /// WRITE(16) of zeros.
    Plain,
}

/// What a unit reserves by SCSI-2 besides all of it for who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parts {
    /// Extents, and the blocks of one COMPARE AND WRITE at most; `None`: no extents, or nothing to ask about them with.
    pub extents: Option<u8>,
    /// For a third party, and it is known how that is named.
    pub third_party: bool,
    /// RESERVE(10) is known.
    pub ten: bool,
}

/// What a unit is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// Vendor, product and revision (SPC-4 6.6.2), blanks taken off.
    pub model: String,
    /// Unit serial number, if it has one (SPC-4 7.8.15).
    pub serial: Option<String>,
    /// Number of blocks of 512 bytes.
    pub blocks: u64,
    /// Blocks that Biplex moves in one command.
    pub transfer_blocks_max: u64,
    /// Blocks that Biplex covers with one WRITE SAME(16).
    pub same_blocks_max: u64,
    /// How zeros are made.
    pub zeroing: Zeroing,
    /// Whether writes wait in a volatile cache (WCE, SBC-3 6.4.5); `None` if it does not say.
    pub cache: Option<bool>,
    /// What it reserves; `None`: a reservation, or something else, kept it from saying so.
    pub parts: Option<Parts>,
    /// RELATIVE TARGET PORT IDENTIFIER of the port that was asked (SPC-4 7.8.6.7), if it has one.
    pub port: Option<u16>,
}

impl std::fmt::Display for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.model)?;
        if let Some(serial) = &self.serial {
            write!(f, ", serial {serial}")?;
        }
        write!(f, ", {} blocks, transfers of up to {} KiB", self.blocks, self.transfer_blocks_max / 2)?;
        match self.cache {
            Some(true) => write!(f, ", with a write cache")?,
            Some(false) => write!(f, ", without a write cache")?,
            None => write!(f, ", does not tell whether it has a write cache")?,
        }
        f.write_str(match self.parts {
            None => ", is reserved and does not tell whether it reserves extents",
            Some(Parts { extents: Some(_), third_party: true, .. }) => {
                ", reserves extents and for third parties"
            }
            Some(Parts { extents: Some(_), .. }) => ", reserves extents, but not for third parties",
            Some(Parts { third_party: true, .. }) => ", reserves for third parties, but no extents",
            Some(_) => ", reserves neither extents nor for third parties",
        })?;
        f.write_str(match self.zeroing {
            Zeroing::SameUnmap => ", gives space back",
            Zeroing::Same => ", does not give space back (no WRITE SAME with UNMAP that reads as zeros)",
            Zeroing::Plain => {
                ", does not give space back and knows no WRITE SAME(16): zeros are written in full"
            }
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Ready,
    Inquiry,
    Serial,
    Limits,
    Thin,
    Mode,
    Port,
    /// REPORT SUPPORTED OPERATION CODES about this one.
    Known(u8),
    Capacity,
}

const RESERVE6: u8 = 0x16;
const RESERVE10: u8 = 0x56;
/// What a unit is asked with about blocks that may lie in extents: MODE SELECT(6), COMPARE AND WRITE, VERIFY(16).
const QUESTIONS: [u8; 3] = [0x15, 0x89, 0x8f];
/// In byte 1 of RESERVE (SCSI-2 9.2.12, SPC-2 7.21): Extent, LongID, 3rdPty.
const EXTENT: u8 = 0x01;
const LONG_ID_FOR_THIRD_PARTY: u8 = 0x12;
/// No standard says what RESERVE(10)'s eight bytes are for an iSCSI initiator: only of Biplex itself is it known.
const OUR_VENDOR: &str = "BIPLEX ";

/// Where the questions stand.
#[derive(Debug)]
pub(super) struct Probe {
    step: Step,
    attentions: u32,
    blocks_wanted: u64,
    /// What an earlier login found.
    known: Option<Facts>,
    facts: Facts,
    unmaps: bool,
    /// MAXIMUM COMPARE AND WRITE LENGTH (SBC-3 6.6.4).
    swap_blocks_max: u8,
    parts: Parts,
    /// Operation codes still to be asked about.
    codes: VecDeque<u8>,
}

/// What follows an answer.
#[derive(Debug)]
pub(super) enum Next {
    /// Ask [`Probe::question`].
    Ask,
    /// The unit is fit.
    Fit(Facts),
    /// It is not, or not now.
    Unfit(String),
}

impl Probe {
    pub(super) fn new(blocks_wanted: u64, known: Option<Facts>) -> Probe {
        let facts = Facts {
            model: String::new(),
            serial: None,
            blocks: 0,
            transfer_blocks_max: TRANSFER_BLOCKS_MAX,
            same_blocks_max: SAME_BLOCKS_MAX,
            zeroing: Zeroing::Same,
            cache: None,
            parts: None,
            port: None,
        };
        Probe {
            step: Step::Ready,
            attentions: 0,
            blocks_wanted,
            known,
            facts,
            unmaps: false,
            swap_blocks_max: 0,
            parts: Parts::default(),
            codes: VecDeque::new(),
        }
    }

    /// The next command.
    pub(super) fn question(&self) -> ([u8; 16], Payload) {
        match self.step {
            Step::Ready => (test_unit_ready(), Payload::None),
            Step::Inquiry => (inquiry(None, 96), Payload::In(96)),
            Step::Serial => (inquiry(Some(0x80), 252), Payload::In(252)),
            Step::Limits => (inquiry(Some(0xb0), 64), Payload::In(64)),
            Step::Thin => (inquiry(Some(0xb2), 64), Payload::In(64)),
            Step::Mode => (mode_sense_caching(), Payload::In(192)),
            Step::Port => (inquiry(Some(0x83), 1024), Payload::In(1024)),
            Step::Known(code) => (report_supported(code), Payload::In(64)),
            Step::Capacity => (read_capacity16(), Payload::In(32)),
        }
    }

    /// What the unit said.
    pub(super) fn answered(&mut self, answer: &Answer) -> Next {
        let verdict = answer.verdict();
        if verdict == Verdict::Attention {
            self.attentions += 1;
            return match self.attentions <= ATTENTIONS_MAX {
                true => Next::Ask,
                false => Next::Unfit(format!("{}: {answer}, again and again", self.name())),
            };
        }
        let bytes = (verdict == Verdict::Good).then_some(&answer.data[..]);
        let step = match (self.step, bytes) {
            // SPC-4: a foreign reservation lets neither of these through; both can do without.
            (Step::Ready | Step::Mode, None) if verdict == Verdict::Conflict => self.following(),
            (Step::Ready, Some(_)) => Step::Inquiry,
            (Step::Inquiry, Some(bytes)) => match self.take_inquiry(bytes) {
                Ok(()) => Step::Serial,
                Err(why) => return Next::Unfit(why),
            },
            (Step::Serial, Some(bytes)) => {
                self.facts.serial = bytes.get(4..).map(text).filter(|serial| !serial.is_empty());
                Step::Limits
            }
            (Step::Limits, Some(bytes)) => {
                self.take_limits(bytes);
                Step::Thin
            }
            (Step::Thin, Some(bytes)) => {
                // SBC-3 6.6.6: LBPWS.
                self.unmaps = bytes.get(5).is_some_and(|byte| byte & 0x40 != 0);
                Step::Mode
            }
            (Step::Mode, Some(bytes)) => match self.take_mode(bytes) {
                Ok(()) => Step::Port,
                Err(why) => return Next::Unfit(why),
            },
            (Step::Port, Some(bytes)) => {
                self.facts.port = relative_port(bytes);
                Step::Known(RESERVE10)
            }
            (Step::Known(code), Some(bytes)) => self.take_usage(code, usage_of(code, bytes)),
            // SPC-4 5.13.1: exclusive access keeps this one out. Another session, or time, will tell.
            (Step::Known(_), None) if matches!(verdict, Verdict::Conflict | Verdict::Failed) => {
                Step::Capacity
            }
            (Step::Known(code), None) if verdict == Verdict::Unknown => self.take_usage(code, None),
            (Step::Capacity, Some(bytes)) => {
                return match self.take_capacity(bytes) {
                    Ok(()) => self.conclude(),
                    Err(why) => Next::Unfit(why),
                };
            }
            // Not every unit has these pages.
            (Step::Serial | Step::Limits | Step::Thin | Step::Mode | Step::Port, None)
                if verdict == Verdict::Unknown =>
            {
                self.following()
            }
            (Step::Capacity, None) if verdict == Verdict::Conflict && self.known.is_some() => {
                return self.known.clone().map_or(Next::Ask, Next::Fit);
            }
            (_, None) => return Next::Unfit(format!("{}: {answer}", self.name())),
        };
        self.step = step;
        Next::Ask
    }

    fn following(&self) -> Step {
        match self.step {
            Step::Ready => Step::Inquiry,
            Step::Inquiry => Step::Serial,
            Step::Serial => Step::Limits,
            Step::Limits => Step::Thin,
            Step::Thin => Step::Mode,
            Step::Mode => Step::Port,
            Step::Port => Step::Known(RESERVE10),
            Step::Known(_) | Step::Capacity => Step::Capacity,
        }
    }

    fn name(&self) -> &'static str {
        match self.step {
            Step::Ready => "TEST UNIT READY",
            Step::Inquiry => "INQUIRY",
            Step::Serial => "INQUIRY of page 80h",
            Step::Limits => "INQUIRY of page B0h",
            Step::Thin => "INQUIRY of page B2h",
            Step::Mode => "MODE SENSE(6)",
            Step::Port => "INQUIRY of page 83h",
            Step::Known(_) => "REPORT SUPPORTED OPERATION CODES",
            Step::Capacity => "READ CAPACITY(16)",
        }
    }

    fn take_inquiry(&mut self, bytes: &[u8]) -> Result<(), String> {
        // SPC-4 6.6.2: qualifier and type; 0 is a disk that is there.
        match bytes.first() {
            Some(0) => {}
            Some(0x7f) => return Err("there is no such unit (INQUIRY says 7Fh); correct the LUN".into()),
            Some(kind) => return Err(format!("this is no disk (INQUIRY says {kind:02x}h)")),
            None => return Err("INQUIRY gave no data".into()),
        }
        let parts = [8..16, 16..32, 32..36].map(|range| bytes.get(range).map(text).unwrap_or_default());
        self.facts.model = parts.join(" ").trim().to_owned();
        Ok(())
    }

    /// SBC-3 6.6.4. Zero means that no limit is told.
    fn take_limits(&mut self, bytes: &[u8]) {
        let transfer = u64::from(bytes.get(8..12).and_then(be32).unwrap_or(0));
        let same = bytes.get(36..44).and_then(|b| b.first_chunk().copied()).map_or(0, u64::from_be_bytes);
        self.swap_blocks_max = bytes.get(5).copied().unwrap_or(0);
        if transfer > 0 {
            self.facts.transfer_blocks_max = transfer.min(TRANSFER_BLOCKS_MAX);
        }
        if same > 0 {
            self.facts.same_blocks_max = same.min(SAME_BLOCKS_MAX);
        }
    }

    /// Takes in byte 1 of a command's usage bitmap, `None` if it is not supported; what is asked next.
    fn take_usage(&mut self, code: u8, usage: Option<u8>) -> Step {
        let extents = usage.is_some_and(|bits| bits & EXTENT != 0) && self.swap_blocks_max > 0;
        match (code, usage) {
            (RESERVE10, None) => self.codes.push_back(RESERVE6),
            (RESERVE10 | RESERVE6, Some(bits)) => {
                self.parts.ten = code == RESERVE10;
                let both = bits & LONG_ID_FOR_THIRD_PARTY == LONG_ID_FOR_THIRD_PARTY;
                self.parts.third_party = self.parts.ten && both && self.facts.model.starts_with(OUR_VENDOR);
                if extents {
                    self.parts.extents = Some(self.swap_blocks_max);
                    self.codes.extend(QUESTIONS);
                }
            }
            // One of those that are asked with.
            (_, None) => self.parts.extents = None,
            (_, Some(_)) => {}
        }
        if let Some(next) = self.codes.pop_front() {
            return Step::Known(next);
        }
        self.facts.parts = Some(self.parts);
        Step::Capacity
    }

    /// SPC-4 7.5.5, SBC-3 6.4: WP in the header, WCE in the caching page.
    fn take_mode(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.get(2).is_some_and(|byte| byte & 0x80 != 0) {
            return Err("it is write protected".into());
        }
        let page = bytes.get(4 + usize::from(bytes.get(3).copied().unwrap_or(0))..).unwrap_or(&[]);
        if page.first().is_some_and(|code| code & 0x3f == 8) {
            self.facts.cache = page.get(2).map(|byte| byte & 4 != 0);
        }
        Ok(())
    }

    fn take_capacity(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.facts.blocks = judge_capacity(bytes, self.blocks_wanted)?;
        // SBC-3 5.16.2: LBPRZ; only then a block given back reads as zeros.
        if self.unmaps && bytes.get(14).is_some_and(|byte| byte & 0x40 != 0) {
            self.facts.zeroing = Zeroing::SameUnmap;
        }
        Ok(())
    }

    fn conclude(&mut self) -> Next {
        match &self.known {
            // A unit that came back as another one holds other bytes.
            Some(known)
                if known.serial != self.facts.serial || known.model_name() != self.facts.model_name() =>
            {
                Next::Unfit(format!(
                    "this is another unit than before: {} instead of {known}; nothing is written to it",
                    self.facts
                ))
            }
            Some(known) => {
                // What it once refused it is not asked again.
                self.facts.zeroing = self.facts.zeroing.max(known.zeroing);
                self.facts.parts = self.facts.parts.or(known.parts);
                Next::Fit(self.facts.clone())
            }
            None => Next::Fit(self.facts.clone()),
        }
    }
}

/// What bounds a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub zeroing: Zeroing,
    transfer: u64,
    same: u64,
}

impl Limits {
    /// Blocks of one command at most: one that makes zeros this way, or one that moves data.
    pub(super) fn blocks_max(self, zeroing: Option<Zeroing>) -> u64 {
        match zeroing {
            Some(Zeroing::Same | Zeroing::SameUnmap) => self.same,
            Some(Zeroing::Plain) | None => self.transfer,
        }
    }
}

impl Facts {
    pub(super) fn limits(&self) -> Limits {
        Limits { zeroing: self.zeroing, transfer: self.transfer_blocks_max, same: self.same_blocks_max }
    }

    /// Vendor and product: the revision may change while a unit is away.
    fn model_name(&self) -> &str {
        self.model.rsplit_once(' ').map_or(&self.model, |(name, _)| name)
    }
}

/// Judges the data of READ CAPACITY(16) (SBC-3 5.16.2): the unit's blocks, if there are enough and they have 512 bytes.
pub fn judge_capacity(data: &[u8], blocks_wanted: u64) -> Result<u64, String> {
    let last = data.first_chunk().copied().map(u64::from_be_bytes);
    let (Some(last), Some(block)) = (last, data.get(8..12).and_then(be32)) else {
        return Err(format!("READ CAPACITY(16) gave {} bytes", data.len()));
    };
    if u64::from(block) != BLOCK_BYTES {
        return Err(format!(
            "its blocks have {block} bytes, Biplex works with {BLOCK_BYTES}; name another unit"
        ));
    }
    let blocks = last.saturating_add(1);
    if blocks < blocks_wanted {
        return Err(format!(
            "it has {blocks} blocks, the config says {blocks_wanted}; correct the size at both sites or name another \
             unit"
        ));
    }
    Ok(blocks)
}

/// Printable text of a field, blanks taken off.
fn text(bytes: &[u8]) -> String {
    let shown = |byte: &u8| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { ' ' };
    bytes.iter().map(shown).collect::<String>().trim().to_owned()
}

/// REPORT SUPPORTED OPERATION CODES about one command without service actions (SPC-4 6.35).
fn report_supported(code: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2], cdb[3], cdb[9]) = (0xa3, 0x0c, 0x01, code, 64);
    cdb
}

/// Byte 1 of the command's usage bitmap, if it is supported as the standards say (SPC-4 6.35.3: SUPPORT 011b).
fn usage_of(code: u8, bytes: &[u8]) -> Option<u8> {
    match bytes {
        [_, support, _, _, first, second, ..] if support & 0x07 == 0x03 && *first == code => Some(*second),
        _ => None,
    }
}

/// RELATIVE TARGET PORT IDENTIFIER in page 83h (SPC-4 7.8.6.7): association 01b, designator type 4h.
fn relative_port(page: &[u8]) -> Option<u16> {
    let mut rest = page.get(4..)?;
    loop {
        let (head, more) = rest.split_first_chunk::<4>()?;
        let (designator, more) = more.split_at_checked(usize::from(head[3]))?;
        if head[1] & 0x3f == 0x14
            && let [_, _, high, low] = designator
        {
            return Some(u16::from_be_bytes([*high, *low]));
        }
        rest = more;
    }
}

fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_be_bytes)
}

/// MODE SENSE(6) of the caching page, without block descriptors (SPC-4 6.14).
fn mode_sense_caching() -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2], cdb[4]) = (0x1a, 0x08, 0x08, 192);
    cdb
}
