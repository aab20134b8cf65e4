//! Answers for a volume's rules: its mode, and what it says of reservations and COMPARE AND WRITE. Both sites must say
//! the same. Refuses what would mean nothing, with the reason.

use super::Reading;
use super::raw::{RawVolume, Text};
use biplex_site::{Mode, Rules};

impl Reading<'_> {
    pub(super) fn rules(&mut self, volume: &RawVolume) -> Rules {
        let mode = self.mode(&volume.mode);
        let discard = volume.reserve_conflicting_writes.as_ref();
        let swaps = volume.compare_and_write.as_ref();
        Rules {
            mode,
            discard: discard.is_some_and(|text| self.discard(mode, text)),
            swaps: swaps.is_some_and(|text| self.swaps(mode, text)),
            disk: false, // said by the one who reads the store
        }
    }

    /// E4.1 weighs writes against a table of reservations, which the site has not where its unit keeps them.
    pub(super) fn refuse_discard_on_disk(&mut self, rules: &mut Rules, volume: &RawVolume) {
        if let (true, true, Some(text)) = (rules.disk, rules.discard, &volume.reserve_conflicting_writes) {
            rules.discard = false;
            let what = "reserve_conflicting_writes = \"discard\" needs the pair's own reservations: a unit that keeps \
                        them does not say which of the writes that came before it forbids";
            self.mistake(text.span(), what, "say \"keep\", or reservations = \"pair\"");
        }
    }

    fn mode(&mut self, text: &Text) -> Mode {
        match text.get_ref().as_str() {
            "sync" => Mode::Sync,
            "async" => Mode::Async,
            "flush" => Mode::Flush,
            other => {
                let remedy = "say \"sync\" (done when durable at both sites), \"async\" (durable here) or \"flush\" \
                              (durable here; FUA and SYNCHRONIZE CACHE wait for both)";
                self.mistake(text.span(), format!("there is no mode \"{other}\""), remedy);
                Mode::Sync
            }
        }
    }

    /// E4.1.
    fn discard(&mut self, mode: Mode, text: &Text) -> bool {
        let discard = match text.get_ref().as_str() {
            "keep" => false,
            "discard" => true,
            other => {
                let remedy = "say \"keep\" (a write that the other site let in before it knew of the reservation stays) \
                              or \"discard\" (it is undone at both sites, though its host was told that it is done)";
                let what = format!("reserve_conflicting_writes cannot be \"{other}\"");
                self.mistake(text.span(), what, remedy);
                return false;
            }
        };
        if mode == Mode::Sync {
            let what = "reserve_conflicting_writes means nothing on a sync volume: a write that is done there is at both \
                        sites, and so before every reservation that is granted later; there is nothing to keep or to \
                        discard";
            self.mistake(text.span(), what, "remove the line, or say mode = \"async\" or mode = \"flush\"");
            return false;
        }
        discard
    }

    fn swaps(&mut self, mode: Mode, text: &Text) -> bool {
        match (text.get_ref().as_str(), mode) {
            ("refuse", Mode::Sync) => {
                let what = "compare_and_write cannot be refused on a sync volume: it is always served there, in one \
                            step for hosts of both sites";
                self.mistake(
                    text.span(),
                    what,
                    "remove the line, or say mode = \"async\" or mode = \"flush\"",
                );
                false
            }
            // It says what is so anyway, and the peer may leave it out: no rule.
            ("allow", Mode::Sync) | ("refuse", Mode::Async | Mode::Flush) => false,
            ("allow", Mode::Async | Mode::Flush) => true,
            (other, _) => {
                let remedy = "say \"refuse\", or \"allow\" (atomic against every other one, but what it compared may be \
                              a plain write that is lost if the other site is lost)";
                self.mistake(text.span(), format!("compare_and_write cannot be \"{other}\""), remedy);
                false
            }
        }
    }
}

/// What becomes of writes that the other site let in before it knew of a reservation; `None` where none can be.
pub(super) fn describe_discard(rules: Rules) -> Option<&'static str> {
    match (rules.mode, rules.discard) {
        (Mode::Sync, _) => None,
        (Mode::Async | Mode::Flush, false) => Some(
            "reserve_conflicting_writes = \"keep\": a write that was let in at one site before a reservation of the \
             other was known there stays",
        ),
        (Mode::Async | Mode::Flush, true) => Some(
            "reserve_conflicting_writes = \"discard\": a write that was let in at one site before a reservation of the \
             other was known there is undone at both, though its host was told that it is done; `biplex discards`",
        ),
    }
}

/// Whether COMPARE AND WRITE is served, and what it is worth.
pub(super) fn describe_swaps(rules: Rules) -> &'static str {
    match (rules.mode, rules.swaps) {
        (Mode::Sync, _) => "COMPARE AND WRITE: served, in one step for hosts of both sites",
        (Mode::Async | Mode::Flush, false) => {
            "compare_and_write = \"refuse\": COMPARE AND WRITE is refused, because writes may still be lost"
        }
        (Mode::Async | Mode::Flush, true) => {
            "compare_and_write = \"allow\": COMPARE AND WRITE is served while the line stands, in one step against every \
             other one at both sites"
        }
    }
}

/// Prices of the rules.
pub(super) fn risks(name: &str, rules: Rules) -> Vec<String> {
    let mut risks = Vec::new();
    if rules.mode == Mode::Async {
        risks.push(format!("volume {name}: async: the last moments of writes are lost if this site is lost"));
    }
    if rules.discard {
        risks.push(format!(
            "volume {name}: reserve_conflicting_writes is \"discard\": a host may be told that a write is done which a \
             reservation at the other site then undoes"
        ));
    }
    if rules.swaps {
        risks.push(format!(
            "volume {name}: compare_and_write is \"allow\" though the volume is not sync: what a COMPARE AND WRITE \
             found may be a plain write that is lost if the site that took it is lost; do not keep locks so that must \
             never be held twice"
        ));
    }
    risks
}
