//! Brings a connection from its first byte to full-feature phase (RFC 7143 §6.2, §6.3, §11.12, §11.13).
//!
//! Must never grant a stage before the secret is proven, whatever the order of keys. Invariant: every request
//! gets exactly one response, and a response with a non-zero class is the last thing that the connection
//! sends.

use super::chap::{Algorithm, Challenge, binary};
use super::pdu::{CONTINUE, FINAL, LoginRequest};
use super::target::TargetConfig;
use super::text::{Parameters, RECEIVE_MAX, TEXT_BYTES_MAX, TextOut, lists, parse};
use std::collections::BTreeSet;

/// Most requests that one login may take.
const REQUESTS_MAX: u32 = 64;
/// A response fits the data segment that every initiator takes before negotiation (§13.12).
const RESPONSE_BYTES_MAX: usize = 8192;
/// Longest iSCSI name (§4.2.7.1).
const NAME_BYTES_MAX: usize = biplex_engine::reserve::INITIATOR_NAME_BYTES_MAX;

/// Status-Class and Status-Detail (§11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LoginStatus(pub u8, pub u8);

impl LoginStatus {
    pub(super) const SUCCESS: LoginStatus = LoginStatus(0, 0);
    const INITIATOR_ERROR: LoginStatus = LoginStatus(2, 0x00);
    const AUTHENTICATION: LoginStatus = LoginStatus(2, 0x01);
    const NOT_FOUND: LoginStatus = LoginStatus(2, 0x03);
    const VERSION: LoginStatus = LoginStatus(2, 0x05);
    const TOO_MANY_CONNECTIONS: LoginStatus = LoginStatus(2, 0x06);
    const MISSING_PARAMETER: LoginStatus = LoginStatus(2, 0x07);
    const SESSION_UNKNOWN: LoginStatus = LoginStatus(2, 0x0a);
    const UNAVAILABLE: LoginStatus = LoginStatus(3, 0x01);
}

/// Why a login is refused: what the host is told, and what the log is told.
type Refusal = (LoginStatus, &'static str);

/// What a request leads to.
pub(super) struct LoginReply {
    /// Flags byte of the response.
    pub flags: u8,
    pub status: LoginStatus,
    pub text: TextOut,
    /// Why it was refused, for the log.
    pub refused: Option<&'static str>,
    /// This response opens full-feature phase.
    pub complete: bool,
}

/// What a login may know about the rest of the target.
pub(super) struct LoginRules<'a> {
    pub config: &'a TargetConfig,
    /// Logins are refused for now.
    pub draining: bool,
    /// A session with the request's TSIH exists.
    pub tsih_known: bool,
}

/// How far the host has proven who it is.
enum Proof {
    /// Nothing asked yet.
    Open,
    /// CHAP is agreed on; the algorithm is not.
    Agreed,
    /// Challenged.
    Challenged(Challenge),
    /// Proven, or no proof needed and none wanted.
    Done,
}

/// A connection that logs in.
pub(super) struct Login {
    requests: u32,
    stage: Option<u8>,
    text: Vec<u8>,
    offered: BTreeSet<String>,
    proof: Proof,
    declared: bool,
    grouped: bool,
    named: bool,
    pub(super) parameters: Parameters,
    pub(super) initiator: String,
    pub(super) discovery: bool,
    pub(super) isid: [u8; 6],
    pub(super) cid: u16,
    pub(super) cmd_sn: u32,
    pub(super) stat_sn: u32,
}

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

impl Login {
    /// A connection that has said nothing yet.
    pub(super) fn new() -> Login {
        Login {
            requests: 0,
            stage: None,
            text: Vec::new(),
            offered: BTreeSet::new(),
            proof: Proof::Open,
            declared: false,
            grouped: false,
            named: false,
            parameters: Parameters::default(),
            initiator: String::new(),
            discovery: false,
            isid: [0; 6],
            cid: 0,
            cmd_sn: 0,
            stat_sn: 1,
        }
    }

    /// Answers one Login Request.
    pub(super) fn handle(
        &mut self,
        rules: &LoginRules<'_>,
        entropy: &mut dyn FnMut(&mut [u8]),
        request: &LoginRequest,
        data: &[u8],
    ) -> LoginReply {
        let mut reply = LoginReply {
            flags: 0,
            status: LoginStatus::SUCCESS,
            text: TextOut::default(),
            refused: None,
            complete: false,
        };
        if let Err((status, why)) = self.step(rules, entropy, request, data, &mut reply) {
            reply = LoginReply {
                flags: 0,
                status,
                text: TextOut::default(),
                refused: Some(why),
                complete: false,
            };
        }
        reply
    }

    fn step(
        &mut self,
        rules: &LoginRules<'_>,
        entropy: &mut dyn FnMut(&mut [u8]),
        request: &LoginRequest,
        data: &[u8],
        reply: &mut LoginReply,
    ) -> Result<(), Refusal> {
        let (transit, continued) = (request.flags & FINAL != 0, request.flags & CONTINUE != 0);
        let (stage, next) = ((request.flags >> 2) & 3, request.flags & 3);
        self.admit(rules, request)?;
        if transit && continued {
            return Err((LoginStatus::INITIATOR_ERROR, "login request with both T and C bit"));
        }
        if self.stage.is_some_and(|current| current != stage) || stage > OPERATIONAL {
            return Err((LoginStatus::INITIATOR_ERROR, "login stage out of order"));
        }
        if transit && (next <= stage || next == 2) {
            return Err((LoginStatus::INITIATOR_ERROR, "login transit to an impossible stage"));
        }
        self.stage = Some(stage);
        self.cmd_sn = request.cmd_sn.get();
        if self.text.len() + data.len() > TEXT_BYTES_MAX {
            return Err((LoginStatus::INITIATOR_ERROR, "login text too long"));
        }
        self.text.extend_from_slice(data);
        reply.flags = stage << 2;
        if continued {
            return Ok(()); // an empty response asks for the rest (§6.2)
        }
        let text = std::mem::take(&mut self.text);
        let pairs = parse(&text).map_err(|_| (LoginStatus::INITIATOR_ERROR, "malformed login text"))?;
        for (key, _) in &pairs {
            // CHAP's keys belong to its steps; all others are offered once (§6.2).
            if !key.starts_with("CHAP_") && !self.offered.insert((*key).to_owned()) {
                return Err((LoginStatus::INITIATOR_ERROR, "a key was offered twice"));
            }
        }
        self.identify(rules, &pairs)?;
        self.group(rules, &mut reply.text);
        self.authenticate(rules, entropy, stage, &pairs, &mut reply.text)?;
        self.negotiate(stage, &pairs, &mut reply.text);
        if reply.text.0.len() > RESPONSE_BYTES_MAX {
            return Err((LoginStatus::INITIATOR_ERROR, "too many keys to answer"));
        }
        if transit {
            self.transit(rules, next, reply)?;
        }
        Ok(())
    }

    /// What must hold of every request's header.
    fn admit(&mut self, rules: &LoginRules<'_>, request: &LoginRequest) -> Result<(), Refusal> {
        self.requests += 1;
        if self.requests > REQUESTS_MAX {
            return Err((LoginStatus::INITIATOR_ERROR, "login takes too many steps"));
        }
        if request.version_min > 0 {
            return Err((LoginStatus::VERSION, "unsupported iSCSI version"));
        }
        if rules.draining {
            return Err((LoginStatus::UNAVAILABLE, "the target is stopping"));
        }
        if self.requests == 1 {
            self.isid = request.isid;
            self.cid = request.cid.get();
            // One connection per session (§7.4.3 aside: connection reinstatement needs a second one too).
            match (request.tsih.get(), rules.tsih_known) {
                (0, _) => {}
                (_, true) => {
                    return Err((LoginStatus::TOO_MANY_CONNECTIONS, "second connection of a session"));
                }
                (_, false) => {
                    return Err((LoginStatus::SESSION_UNKNOWN, "login to a session that is not there"));
                }
            }
        } else if self.isid != request.isid || self.cid != request.cid.get() {
            return Err((LoginStatus::INITIATOR_ERROR, "ISID or CID changed during login"));
        }
        Ok(())
    }

    /// Takes the names, due in the first request (§6.2, §13.4 to §13.6, §13.21).
    fn identify(&mut self, rules: &LoginRules<'_>, pairs: &[(&str, &str)]) -> Result<(), Refusal> {
        if self.named {
            return Ok(());
        }
        let find = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        let initiator =
            find("InitiatorName").ok_or((LoginStatus::MISSING_PARAMETER, "login without InitiatorName"))?;
        let printable = initiator.chars().all(|letter| !letter.is_control() && !letter.is_whitespace());
        // Names are compared after folding (§4.2.7.1), which makes some letters longer: what is kept is measured.
        self.initiator = initiator.to_lowercase();
        let length = initiator.len().max(self.initiator.len());
        if initiator.is_empty() || length > NAME_BYTES_MAX || !printable {
            return Err((LoginStatus::INITIATOR_ERROR, "impossible InitiatorName"));
        }
        self.discovery = match find("SessionType") {
            None | Some("Normal") => false,
            Some("Discovery") => true,
            Some(_) => return Err((LoginStatus::INITIATOR_ERROR, "unknown SessionType")),
        };
        if !self.discovery {
            let target =
                find("TargetName").ok_or((LoginStatus::MISSING_PARAMETER, "login without TargetName"))?;
            if target.to_lowercase() != rules.config.name.to_lowercase() {
                return Err((LoginStatus::NOT_FOUND, "login to an unknown target"));
            }
        }
        self.named = true;
        Ok(())
    }

    /// Tells the portal group in the first response that can carry it (§13.9).
    fn group(&mut self, rules: &LoginRules<'_>, out: &mut TextOut) {
        if !self.discovery && !self.grouped {
            out.push("TargetPortalGroupTag", &rules.config.group.to_string());
            self.grouped = true;
        }
    }

    /// The security stage (§12.1): takes its keys out of `pairs` in the order of the protocol, not of the
    /// text.
    fn authenticate(
        &mut self,
        rules: &LoginRules<'_>,
        entropy: &mut dyn FnMut(&mut [u8]),
        stage: u8,
        pairs: &[(&str, &str)],
        out: &mut TextOut,
    ) -> Result<(), Refusal> {
        let find = |wanted: &str| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        let required = rules.config.chap.is_some();
        if stage != SECURITY {
            // Without a security stage there is no proof.
            return match (&self.proof, required) {
                (Proof::Done, _) | (Proof::Open, false) => Ok(()),
                (Proof::Open | Proof::Agreed | Proof::Challenged(_), _) => {
                    Err((LoginStatus::AUTHENTICATION, "login without authentication"))
                }
            };
        }
        if let Some(methods) = find("AuthMethod") {
            match (required, &self.proof) {
                (true, Proof::Open) if lists(methods, "CHAP") => {
                    out.push("AuthMethod", "CHAP");
                    self.proof = Proof::Agreed;
                }
                (false, Proof::Open) if lists(methods, "None") => {
                    out.push("AuthMethod", "None");
                    self.proof = Proof::Done;
                }
                (true | false, _) => {
                    return Err((LoginStatus::AUTHENTICATION, "no authentication method in common"));
                }
            }
        }
        if let (Some(list), Proof::Agreed) = (find("CHAP_A"), &self.proof) {
            let algorithm = Algorithm::choose(list)
                .ok_or((LoginStatus::AUTHENTICATION, "no CHAP algorithm in common"))?;
            let challenge = Challenge::draw(algorithm, entropy);
            out.push("CHAP_A", &algorithm.number().to_string());
            out.push("CHAP_I", &challenge.identifier.to_string());
            out.push("CHAP_C", &super::chap::hex(&challenge.bytes));
            self.proof = Proof::Challenged(challenge);
            return Ok(());
        }
        if let (Some(name), Some(response)) = (find("CHAP_N"), find("CHAP_R")) {
            let Proof::Challenged(challenge) = std::mem::replace(&mut self.proof, Proof::Open) else {
                return Err((LoginStatus::AUTHENTICATION, "CHAP response without a challenge"));
            };
            self.check_proof(rules, &challenge, name, response)?;
            if let (Some(identifier), Some(returned)) = (find("CHAP_I"), find("CHAP_C")) {
                prove(rules, &challenge, identifier, returned, out)?;
            }
            self.proof = Proof::Done;
        } else if find("CHAP_N").is_some() || find("CHAP_R").is_some() {
            return Err((LoginStatus::AUTHENTICATION, "incomplete CHAP response"));
        }
        Ok(())
    }

    fn check_proof(
        &self,
        rules: &LoginRules<'_>,
        challenge: &Challenge,
        name: &str,
        response: &str,
    ) -> Result<(), Refusal> {
        let chap =
            rules.config.chap.as_ref().ok_or((LoginStatus::AUTHENTICATION, "CHAP is not configured"))?;
        // Both are judged before either verdict is told, so that the time taken does not tell names.
        let proven = challenge.proven_by(response, &chap.secret);
        if name == chap.user && proven {
            Ok(())
        } else {
            Err((LoginStatus::AUTHENTICATION, "wrong CHAP name or secret"))
        }
    }

    /// Answers all keys that belong to no other step (§13).
    fn negotiate(&mut self, stage: u8, pairs: &[(&str, &str)], out: &mut TextOut) {
        for (key, value) in pairs {
            let elsewhere = matches!(*key, "InitiatorName" | "SessionType" | "TargetName" | "AuthMethod");
            if !elsewhere && !key.starts_with("CHAP_") {
                self.parameters.negotiate(key, value).write(key, out);
            }
        }
        if stage == OPERATIONAL && !self.declared {
            out.push("MaxRecvDataSegmentLength", &RECEIVE_MAX.to_string());
            self.declared = true;
        }
    }

    fn transit(&mut self, rules: &LoginRules<'_>, next: u8, reply: &mut LoginReply) -> Result<(), Refusal> {
        match self.proof {
            Proof::Done => {}
            Proof::Open if rules.config.chap.is_none() => {}
            Proof::Open => return Err((LoginStatus::AUTHENTICATION, "login without authentication")),
            // CHAP is under way: the host's wish to move on is not granted yet.
            Proof::Agreed | Proof::Challenged(_) => return Ok(()),
        }
        reply.flags |= FINAL | next;
        self.stage = Some(next);
        reply.complete = next == FULL_FEATURE;
        if reply.complete {
            self.parameters.settle();
        }
        Ok(())
    }

    /// Longest data segment that we take: what we declared, or the default where there was no chance to
    /// declare.
    pub(super) fn receive_max(&self) -> u32 {
        if self.declared { RECEIVE_MAX } else { super::text::RECEIVE_DEFAULT }
    }
}

/// Proves ourselves to a host that asks (mutual CHAP).
fn prove(
    rules: &LoginRules<'_>,
    ours: &Challenge,
    identifier: &str,
    returned: &str,
    out: &mut TextOut,
) -> Result<(), Refusal> {
    let chap = rules.config.chap.as_ref();
    let Some((name, secret)) = chap.and_then(|chap| chap.mutual.as_ref()) else {
        return Err((LoginStatus::AUTHENTICATION, "mutual CHAP is not configured"));
    };
    let identifier = super::text::number(identifier).and_then(|number| u8::try_from(number).ok());
    let (Some(identifier), Some(challenge)) = (identifier, binary(returned)) else {
        return Err((LoginStatus::AUTHENTICATION, "unreadable CHAP challenge"));
    };
    // Reflection (§9.2.1): our own challenge comes back, or one secret serves both directions.
    if challenge == ours.bytes || chap.is_some_and(|chap| chap.secret == *secret) {
        return Err((LoginStatus::AUTHENTICATION, "CHAP reflection"));
    }
    out.push("CHAP_N", name);
    out.push("CHAP_R", &super::chap::hex(&ours.algorithm.proof(identifier, secret, &challenge)));
    Ok(())
}
