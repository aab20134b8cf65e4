//! Text requests in full-feature phase: SendTargets above all (RFC 7143 §11.10, §11.11, Appendix C).
//!
//! Must never answer with more than the host takes in one PDU: longer answers are continued on request.

use super::framing::Outbox;
use super::pdu::{Answer, CONTINUE, FINAL, NO_TAG, Pdu, RejectReason, TextRequest, opcode};
use super::session::{Next, Session};
use super::shared::Shared;
use super::target::TargetConfig;
use super::text::{Parameters, TEXT_BYTES_MAX, TextOut, parse};
use bytes::Bytes;

/// A text exchange that is not finished.
#[derive(Default)]
pub(super) struct TextExchange {
    incoming: Vec<u8>,
    /// Text not yet sent.
    outgoing: Bytes,
    /// Names the exchange; `None` where there is none.
    tag: Option<u32>,
}

impl Session {
    /// Text Request (§11.10).
    pub(super) fn handle_text(&mut self, shared: &mut Shared, out: &mut Outbox, pdu: &Pdu) -> Next {
        let request: &TextRequest = pdu.view();
        if request.ttt == NO_TAG {
            self.text = TextExchange::default(); // a new exchange resets an old one
        } else if self.text.tag != Some(request.ttt.get()) {
            self.reject(out, pdu, RejectReason::InvalidField);
            return Next::Continue;
        }
        let (last, continued) = (request.flags & FINAL != 0, request.flags & CONTINUE != 0);
        if (last && continued) || self.text.incoming.len() + pdu.data.len() > TEXT_BYTES_MAX {
            self.text = TextExchange::default();
            self.reject(out, pdu, RejectReason::Protocol);
            return Next::Continue;
        }
        if self.text.outgoing.is_empty() {
            self.text.incoming.extend_from_slice(&pdu.data);
            if !continued {
                let incoming = std::mem::take(&mut self.text.incoming);
                match answer(
                    &shared.config,
                    &self.local,
                    &mut self.parameters,
                    self.nexus.is_none(),
                    &incoming,
                ) {
                    Ok(text) => self.text.outgoing = text.0.into(),
                    Err(reason) => {
                        self.text = TextExchange::default();
                        self.reject(out, pdu, reason);
                        return Next::Continue;
                    }
                }
            }
        }
        self.send_text(out, request, last);
        Next::Continue
    }

    /// Sends as much of the answer as fits.
    fn send_text(&mut self, out: &mut Outbox, request: &TextRequest, last: bool) {
        let fits = self.text.outgoing.len().min(self.parameters.peer_receive_max as usize);
        let piece = self.text.outgoing.split_to(fits);
        let rest = !self.text.outgoing.is_empty();
        let done = last && !rest;
        self.text.tag = if done { None } else { Some(self.new_transfer_tag()) };
        let flags = match (done, rest) {
            (true, _) => FINAL,
            (false, true) => CONTINUE,
            (false, false) => 0,
        };
        let ttt = self.text.tag.unwrap_or(NO_TAG).into();
        let header =
            Answer { flags, ttt, lun: request.lun, ..self.answer(opcode::TEXT_RESPONSE, request.itt.get()) };
        out.push(&header, &[piece]);
    }
}

/// Answers a text negotiation.
fn answer(
    config: &TargetConfig,
    local: &str,
    parameters: &mut Parameters,
    discovery: bool,
    text: &[u8],
) -> Result<TextOut, RejectReason> {
    let mut out = TextOut::default();
    let pairs = parse(text).map_err(|_| RejectReason::InvalidField)?;
    let mut understood = pairs.is_empty();
    for (key, value) in pairs {
        match key {
            "SendTargets" => {
                // Appendix C; "All" in a normal session is more than the standard asks for, but hosts do it.
                let own = value.eq_ignore_ascii_case(&config.name) || (value.is_empty() && !discovery);
                if value != "All" && !own {
                    return Err(RejectReason::InvalidField);
                }
                send_targets(config, local, &mut out);
            }
            // The only keys that may be told anew in this phase (§13.12, §13.7).
            "MaxRecvDataSegmentLength" | "InitiatorAlias" => {
                parameters.negotiate(key, value).write(key, &mut out)
            }
            _ => {
                out.push(key, "NotUnderstood");
                continue;
            }
        }
        understood = true;
    }
    // A request of which nothing is understood gets no half-success: some initiators take any response for
    // one.
    if understood { Ok(out) } else { Err(RejectReason::NotSupported) }
}

/// The target's name and all its portals, those of the other site included.
fn send_targets(config: &TargetConfig, local: &str, out: &mut TextOut) {
    out.push("TargetName", &config.name);
    out.push("TargetAddress", &format!("{},{}", own_portal(&config.portal, local), config.group));
    for (portal, group) in &config.peer_portals {
        out.push("TargetAddress", &format!("{portal},{group}"));
    }
}

/// Our portal as this host can reach it: a wildcard becomes the address at which the host did reach us.
fn own_portal(portal: &str, local: &str) -> String {
    let Some((host, port)) = portal.rsplit_once(':') else { return local.to_owned() };
    match (host, local.rsplit_once(':')) {
        ("" | "0.0.0.0" | "[::]" | "*", Some((reached, _))) => format!("{reached}:{port}"),
        _ => portal.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_portal_is_told_as_the_address_that_was_reached() {
        assert_eq!(own_portal("0.0.0.0:3260", "192.0.2.7:3260"), "192.0.2.7:3260");
        assert_eq!(own_portal("[::]:3261", "[2001:db8::1]:3261"), "[2001:db8::1]:3261");
        assert_eq!(own_portal("192.0.2.9:3260", "192.0.2.7:3260"), "192.0.2.9:3260");
    }
}
