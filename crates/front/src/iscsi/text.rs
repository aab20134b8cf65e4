//! Reads and writes `key=value` text (RFC 7143 §6.1) and holds the outcome of negotiation (§13).
//!
//! Must never echo a host's value, nor accept text beyond the limits below. Invariant: every answer chosen
//! here lies within what was offered, and a key is answered at most once.

/// Most text that is gathered over continued PDUs.
pub(super) const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Most keys in one negotiation step.
const KEYS_MAX: usize = 128;
/// Longest key (§6.1).
const KEY_BYTES_MAX: usize = 63;
/// Longest value: 255 (§6.1), but CHAP's large binary values may decode to 1024 bytes.
const VALUE_BYTES_MAX: usize = 255;
const LARGE_VALUE_BYTES_MAX: usize = 2 + 2 * 1024;

/// Data segments that this target takes.
pub(super) const RECEIVE_MAX: u32 = 262_144;
/// Data segments before negotiation (§13.12).
pub(super) const RECEIVE_DEFAULT: u32 = 8192;
const BURST_MAX: u32 = 1_048_576;
const FIRST_BURST_MAX: u32 = 262_144;
const OUTSTANDING_MAX: u32 = 4;

/// The text is not text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// Splits text into keys and values. Total; refuses what §6.1 forbids.
pub(super) fn parse(text: &[u8]) -> Result<Vec<(&str, &str)>, Malformed> {
    let text = match text {
        [] => return Ok(Vec::new()),
        [text @ .., 0] => text,
        [..] => return Err(Malformed),
    };
    let mut pairs = Vec::new();
    // Some initiators pad with further NULs: empty items are skipped.
    for item in text.split(|byte| *byte == 0).filter(|item| !item.is_empty()) {
        let item = std::str::from_utf8(item).map_err(|_| Malformed)?;
        let (key, value) = item.split_once('=').ok_or(Malformed)?;
        let value_max = if key.starts_with("CHAP_") || key == "SendTargets" {
            LARGE_VALUE_BYTES_MAX
        } else {
            VALUE_BYTES_MAX
        };
        let named = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-+@_/#".contains(&byte));
        if key.is_empty() || key.len() > KEY_BYTES_MAX || !named || value.len() > value_max {
            return Err(Malformed);
        }
        if pairs.len() == KEYS_MAX {
            return Err(Malformed);
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Text to be sent.
#[derive(Clone, Default, Debug)]
pub(super) struct TextOut(pub Vec<u8>);

impl TextOut {
    /// Appends `key=value`.
    pub(super) fn push(&mut self, key: &str, value: &str) {
        self.0.extend_from_slice(key.as_bytes());
        self.0.push(b'=');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
    }
}

/// Reads a numerical value: decimal or 0x-hex, no sign (§6.1).
pub(super) fn number(value: &str) -> Option<u32> {
    let (digits, radix) = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (value, 10),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_alphanumeric());
    plain.then(|| u32::from_str_radix(digits, radix).ok()).flatten()
}

/// Whether a comma-separated list contains an item.
pub(super) fn lists(list: &str, item: &str) -> bool {
    list.split(',').any(|candidate| candidate == item)
}

/// What a session runs with (§13); starts as the defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parameters {
    pub header_digest: bool,
    pub data_digest: bool,
    pub initial_r2t: bool,
    pub immediate_data: bool,
    /// Longest data segment that the other end takes.
    pub peer_receive_max: u32,
    pub max_burst: u32,
    pub first_burst: u32,
    pub max_outstanding_r2t: u32,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters {
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            peer_receive_max: RECEIVE_DEFAULT,
            max_burst: 262_144,
            first_burst: 65_536,
            max_outstanding_r2t: 1,
        }
    }
}

/// How an offered operational key is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Declarations are not answered.
    Silent,
    /// A fixed word.
    Word(&'static str),
    /// A number.
    Number(u32),
}

impl Answer {
    /// Writes the answer to `key`.
    pub(super) fn write(&self, key: &str, out: &mut TextOut) {
        match self {
            Answer::Silent => {}
            Answer::Word(word) => out.push(key, word),
            Answer::Number(number) => out.push(key, &number.to_string()),
        }
    }
}

impl Parameters {
    /// Takes the host's offer of one operational key and says what to answer (§13, table of SCSI.md 3.1).
    pub(super) fn negotiate(&mut self, key: &str, value: &str) -> Answer {
        match key {
            "HeaderDigest" => digest(value, &mut self.header_digest),
            "DataDigest" => digest(value, &mut self.data_digest),
            "InitialR2T" => boolean(value, |offered| {
                self.initial_r2t = offered; // OR with our No (§13.10)
                offered
            }),
            "ImmediateData" => boolean(value, |offered| {
                self.immediate_data = offered; // AND with our Yes (§13.11)
                offered
            }),
            "MaxRecvDataSegmentLength" => match ranged(value, 512, 0x00ff_ffff) {
                Some(declared) => {
                    self.peer_receive_max = declared;
                    Answer::Silent
                }
                None => Answer::Word("Reject"),
            },
            "MaxBurstLength" => minimum(value, 512, 0x00ff_ffff, BURST_MAX, &mut self.max_burst),
            "FirstBurstLength" => minimum(value, 512, 0x00ff_ffff, FIRST_BURST_MAX, &mut self.first_burst),
            "MaxOutstandingR2T" => minimum(value, 1, 65_535, OUTSTANDING_MAX, &mut self.max_outstanding_r2t),
            "MaxConnections" => fixed(value, 1, 65_535, 1, u32::min),
            "ErrorRecoveryLevel" => fixed(value, 0, 2, 0, u32::min),
            "DefaultTime2Wait" => fixed(value, 0, 3600, 2, u32::max),
            // 0: a lost connection is a lost session, at once.
            "DefaultTime2Retain" => fixed(value, 0, 3600, 0, u32::min),
            "iSCSIProtocolLevel" => fixed(value, 0, 31, 1, u32::min),
            "DataPDUInOrder" | "DataSequenceInOrder" => boolean(value, |_| true),
            "IFMarker" | "OFMarker" => boolean(value, |_| false),
            "IFMarkInt" | "OFMarkInt" => Answer::Word("Irrelevant"),
            "TaskReporting" => match value.split(',').find(|offered| *offered == "RFC3720") {
                Some(_) => Answer::Word("RFC3720"),
                None => Answer::Word("Reject"),
            },
            "InitiatorAlias" => Answer::Silent,
            _ => Answer::Word("NotUnderstood"),
        }
    }

    /// Brings the parameters in line with each other once negotiation is over (§13.14).
    pub(super) fn settle(&mut self) {
        self.first_burst = self.first_burst.min(self.max_burst);
    }
}

/// Answers a digest list with the first entry that is known (§13.1).
fn digest(value: &str, chosen: &mut bool) -> Answer {
    match value.split(',').find(|offered| matches!(*offered, "CRC32C" | "None")) {
        Some("CRC32C") => {
            *chosen = true;
            Answer::Word("CRC32C")
        }
        Some(_) => {
            *chosen = false;
            Answer::Word("None")
        }
        None => Answer::Word("Reject"),
    }
}

fn boolean(value: &str, choose: impl FnOnce(bool) -> bool) -> Answer {
    let offered = match value {
        "Yes" => true,
        "No" => false,
        _ => return Answer::Word("Reject"),
    };
    Answer::Word(if choose(offered) { "Yes" } else { "No" })
}

fn ranged(value: &str, least: u32, most: u32) -> Option<u32> {
    number(value).filter(|number| (least..=most).contains(number))
}

fn minimum(value: &str, least: u32, most: u32, ours: u32, chosen: &mut u32) -> Answer {
    match ranged(value, least, most) {
        Some(offered) => {
            *chosen = offered.min(ours);
            Answer::Number(*chosen)
        }
        None => Answer::Word("Reject"),
    }
}

fn fixed(value: &str, least: u32, most: u32, ours: u32, choose: fn(u32, u32) -> u32) -> Answer {
    ranged(value, least, most).map_or(Answer::Word("Reject"), |offered| Answer::Number(choose(offered, ours)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_and_nonsense_refused() {
        assert_eq!(parse(b"a=1\0B.c=x=y\0"), Ok(vec![("a", "1"), ("B.c", "x=y")]));
        for bad in [&b"a=1"[..], b"novalue\0", b"=x\0", b"a\xff=1\0", b"sp ace=1\0"] {
            assert_eq!(parse(bad), Err(Malformed), "{bad:?}");
        }
        assert_eq!(parse(format!("{}=1\0", "k".repeat(64)).as_bytes()), Err(Malformed));
        assert_eq!(parse(format!("k={}\0", "v".repeat(256)).as_bytes()), Err(Malformed));
        assert_eq!(parse("k=v\0".repeat(10_000).as_bytes()), Err(Malformed));
    }

    #[test]
    fn numbers_have_no_sign_and_no_exponent() {
        assert_eq!(number("0x10"), Some(16));
        assert_eq!(number("262144"), Some(262_144));
        for bad in ["", "-1", "+1", "0x", "1e9", "4294967296", " 1"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn answers_stay_within_the_offer() {
        let mut parameters = Parameters::default();
        let cases = [
            ("MaxBurstLength", "16776192", Answer::Number(1_048_576)),
            ("FirstBurstLength", "4096", Answer::Number(4096)),
            ("MaxOutstandingR2T", "1", Answer::Number(1)),
            ("DefaultTime2Wait", "0", Answer::Number(2)),
            ("DefaultTime2Retain", "20", Answer::Number(0)),
            ("ErrorRecoveryLevel", "2", Answer::Number(0)),
            ("HeaderDigest", "CRC32C,None", Answer::Word("CRC32C")),
            ("DataDigest", "None,CRC32C", Answer::Word("None")),
            ("InitialR2T", "No", Answer::Word("No")),
            ("ImmediateData", "yes", Answer::Word("Reject")),
            ("IFMarker", "Yes", Answer::Word("No")),
            ("X-com.example", "1", Answer::Word("NotUnderstood")),
            ("MaxRecvDataSegmentLength", "511", Answer::Word("Reject")),
            ("MaxRecvDataSegmentLength", "65536", Answer::Silent),
        ];
        for (key, value, answer) in cases {
            assert_eq!(parameters.negotiate(key, value), answer, "{key}={value}");
        }
        assert_eq!((parameters.peer_receive_max, parameters.first_burst), (65_536, 4096));
        assert!(parameters.header_digest && !parameters.data_digest && !parameters.initial_r2t);
    }
}
