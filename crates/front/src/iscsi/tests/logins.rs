//! Login, CHAP, discovery, reinstatement, and sessions' ends.

use super::super::chap::{Algorithm, binary};
use super::super::pdu::{CONTINUE, FINAL, IMMEDIATE, LoginRequest, opcode};
use super::*;
use crate::iscsi::framing::Outbox;

fn chap(user: &str, secret: &str, mutual: Option<(&str, &str)>) -> Option<Chap> {
    let mutual = mutual.map(|(user, secret)| (user.to_owned(), secret.to_owned()));
    Some(Chap { user: user.into(), secret: secret.into(), mutual })
}

/// A login request as raw bytes.
fn request(flags: u8, tsih: u16, text: &str) -> Vec<u8> {
    let mut out = Outbox::default();
    let header = LoginRequest {
        opcode: opcode::LOGIN | IMMEDIATE,
        flags,
        isid: [0x80, 1, 2, 3, 4, 5],
        tsih: tsih.into(),
        itt: 0x1234_5678.into(),
        cid: 1.into(),
        cmd_sn: 5.into(),
        ..LoginRequest::default()
    };
    out.push(&header, &[Bytes::from(text.replace('|', "\0"))]);
    std::iter::from_fn(|| out.pop()).flatten().collect()
}

const NAMES: &str = "InitiatorName=iqn.h|SessionType=Normal|TargetName=iqn.2026-11.io.biplex:pair1|";

/// Class and detail of the last login response on a raw connection.
fn status(world: &World, conn: ConnId) -> (u8, u8) {
    let bytes = &world.raw[&conn];
    let mut at = 0;
    let mut last = (0, 0);
    while at < bytes.len() {
        let length = bytes[at + 6] as usize * 256 + bytes[at + 7] as usize;
        assert_eq!(bytes[at], opcode::LOGIN_RESPONSE);
        last = (bytes[at + 36], bytes[at + 37]);
        at += 48 + length.next_multiple_of(4);
    }
    last
}

/// Sends requests on a new connection and tells the last status.
fn attempt(world: &mut World, requests: &[Vec<u8>]) -> (u8, u8) {
    let conn = world.open();
    for bytes in requests {
        world.send(conn, bytes);
    }
    status(world, conn)
}

#[test]
fn a_login_and_a_read_match_their_golden_bytes() {
    let mut world = World::new();
    world.disks.get_mut(&VolumeId(7)).expect("disk")[..512].fill(0xab);
    let conn = world.open();
    let mut login = vec![
        0x43, 0x87, 0, 0, 0, 0, 0, 78, // login, immediate; T=1 CSG=1 NSG=3; 78 bytes of text
        0x80, 1, 2, 3, 4, 5, 0, 0, // ISID, TSIH 0
        0x12, 0x34, 0x56, 0x78, 0, 1, 0, 0, // task tag, CID 1
        0, 0, 0, 5, 0, 0, 0, 0, // CmdSN 5
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    login.extend_from_slice(b"InitiatorName=iqn.h\0SessionType=Normal\0");
    login.extend_from_slice(b"TargetName=iqn.2026-11.io.biplex:pair1\0\0\0");
    world.send(conn, &login);
    let mut expected = vec![
        0x23, 0x87, 0, 0, 0, 0, 0, 55, // login response; T=1 CSG=1 NSG=3
        0x80, 1, 2, 3, 4, 5, 0xff, 0xff, // ISID; TSIH is masked below
        0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, //
        0, 0, 0, 1, 0, 0, 0, 5, // StatSN 1, ExpCmdSN 5
        0, 0, 0, 132, 0, 0, 0, 0, // MaxCmdSN 5+127, status 0000
        0, 0, 0, 0, 0, 0, 0, 0,
    ];
    expected.extend_from_slice(b"TargetPortalGroupTag=1\0MaxRecvDataSegmentLength=262144\0");
    expected.push(0); // padding
    let mut got = std::mem::take(world.raw.get_mut(&conn).expect("bytes"));
    assert_ne!(&got[14..16], [0, 0]);
    got[14..16].fill(0xff);
    assert_eq!(got, expected);

    let read = [
        0x01, 0xc1, 0, 0, 0, 0, 0, 0, // SCSI command; F R SIMPLE
        0, 0, 0, 0, 0, 0, 0, 0, // LUN 0
        0, 0, 0, 9, 0, 0, 2, 0, // task tag 9, 512 bytes expected
        0, 0, 0, 5, 0, 0, 0, 2, // CmdSN 5, ExpStatSN 2
        0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, // READ(10) of block 0
    ];
    world.send(conn, &read);
    let mut expected = vec![
        0x25, 0x81, 0, 0, 0, 0, 2, 0, // Data-In; F and S; status GOOD; 512 bytes
        0, 0, 0, 0, 0, 0, 0, 0, //
        0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff, //
        0, 0, 0, 2, 0, 0, 0, 6, // StatSN 2, ExpCmdSN 6
        0, 0, 0, 133, 0, 0, 0, 0, // MaxCmdSN 133, DataSN 0
        0, 0, 0, 0, 0, 0, 0, 0, // offset, residual
    ];
    expected.extend_from_slice(&[0xab; 512]);
    assert_eq!(world.raw[&conn], expected);
}

#[test]
fn a_secret_is_proven_both_ways() {
    let mut config = target_config();
    config.chap = chap("host", "a-secret-of-16-b", Some(("array", "another-secret-x")));
    for mutual in [None, Some(("array", "another-secret-x"))] {
        let mut world = World::with(config.clone());
        let mut host = host_config();
        host.chap = chap("host", "a-secret-of-16-b", mutual);
        let conn = world.login(host);
        world.write(conn, 1, 3, &[5; 512]);
        assert_eq!(world.take(conn), [good(1, &[])]);
    }
}

#[test]
fn a_secret_is_proven_with_each_algorithm_and_encoding() {
    let mut config = target_config();
    config.chap = chap("0xhost", "a-secret-of-16-b", None); // a name is text, whatever it begins with
    for (list, algorithm) in [
        ("5", Algorithm::Md5),
        ("8,6,5", Algorithm::Sha1),
        ("7", Algorithm::Sha256),
        ("5,6,7", Algorithm::Md5),
    ] {
        let mut world = World::with(config.clone());
        let conn = world.open();
        world.send(conn, &request(0, 0, &format!("{NAMES}AuthMethod=CHAP|")));
        world.raw.clear();
        world.send(conn, &request(0, 0, &format!("CHAP_A={list}|")));
        let text = String::from_utf8_lossy(&world.raw[&conn][48..]).into_owned();
        let find = |key: &str| {
            let pair =
                text.split('\0').find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == key));
            pair.map(|(_, value)| value).expect("the key")
        };
        assert_eq!(find("CHAP_A"), algorithm.number().to_string());
        let challenge = binary(find("CHAP_C")).expect("binary");
        let proof =
            algorithm.proof(find("CHAP_I").parse().expect("a number"), "a-secret-of-16-b", &challenge);
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &proof);
        world.send(conn, &request(FINAL | 1, 0, &format!("CHAP_R=0b{encoded}|CHAP_N=0xhost|")));
        world.send(conn, &request(FINAL | 1 << 2 | 3, 0, ""));
        assert_eq!((status(&world, conn), world.target.sessions().len()), ((0, 0), 1));
    }
}

#[test]
fn a_wrong_secret_name_or_no_proof_is_refused_and_logged() {
    let mut config = target_config();
    config.chap = chap("host", "a-secret-of-16-b", None);
    let mut world = World::with(config);
    for wrong in [None, chap("host", "another", None), chap("Host", "a-secret-of-16-b", None)] {
        let mut host = host_config();
        host.chap = wrong;
        let conn = world.connect(host);
        assert_eq!(world.take(conn), [InitiatorEvent::LoginFailed { class: 2, detail: 1 }]);
        assert!(world.hosts[&conn].closed);
    }
    assert_eq!(world.refusals().len(), 3);
    // Without a security stage, with one that is skipped, with a proof nobody asked for, with no algorithm in
    // common.
    let chosen = request(0, 0, &format!("{NAMES}AuthMethod=CHAP|"));
    for rest in [
        vec![request(FINAL | 1 << 2 | 3, 0, NAMES)],
        vec![request(FINAL | 3, 0, NAMES)],
        vec![request(FINAL | 1, 0, &format!("{NAMES}AuthMethod=None|"))],
        vec![chosen.clone(), request(FINAL | 1, 0, "CHAP_N=host|CHAP_R=0x00|")],
        vec![chosen.clone(), request(0, 0, "CHAP_A=56|")],
        vec![chosen.clone(), request(0, 0, "CHAP_A=5|"), request(FINAL | 1, 0, "CHAP_N=host|CHAP_R=0x00|")],
        vec![chosen, request(FINAL | 1 << 2 | 3, 0, "")],
    ] {
        let (class, detail) = attempt(&mut world, &rest);
        assert!(class == 2 && (detail == 1 || detail == 0), "{class} {detail}");
    }
    assert!(world.target.sessions().is_empty());
}

#[test]
fn a_target_that_cannot_prove_itself_is_not_trusted() {
    let mut config = target_config();
    config.chap = chap("host", "a-secret-of-16-b", Some(("array", "another-secret-x")));
    let mut world = World::with(config);
    let mut host = host_config();
    host.chap = chap("host", "a-secret-of-16-b", Some(("array", "expected-something-else")));
    let conn = world.connect(host);
    assert_eq!(world.take(conn), [InitiatorEvent::LoginFailed { class: 255, detail: 0 }]);
}

#[test]
fn one_secret_for_both_directions_is_refused_as_reflection() {
    let mut config = target_config();
    config.chap = chap("host", "a-secret-of-16-b", Some(("array", "a-secret-of-16-b")));
    let mut world = World::with(config.clone());
    let mut host = host_config();
    host.chap = config.chap;
    let conn = world.connect(host);
    assert_eq!(world.take(conn), [InitiatorEvent::LoginFailed { class: 2, detail: 1 }]);
}

#[test]
fn malformed_logins_get_their_status() {
    let mut world = World::new();
    let operational = FINAL | 1 << 2 | 3;
    let long = "k=v|".repeat(2000);
    let cases: [(u8, u16, &str, (u8, u8)); 13] = [
        (operational, 0, NAMES, (0, 0)),
        (operational, 0, "SessionType=Normal|TargetName=x|", (2, 7)),
        (operational, 0, "InitiatorName=iqn.h|", (2, 7)),
        (operational, 0, "InitiatorName=iqn.h|TargetName=iqn.other|", (2, 3)),
        (operational, 0, "InitiatorName=iqn.h|SessionType=Odd|", (2, 0)),
        (operational, 9, NAMES, (2, 10)),
        (operational | CONTINUE, 0, NAMES, (2, 0)),
        (FINAL | 1 << 2 | 1, 0, NAMES, (2, 0)),
        (FINAL | 2, 0, NAMES, (2, 0)),
        (2 << 2, 0, NAMES, (2, 0)),
        (operational, 0, "InitiatorName", (2, 0)),
        (operational, 0, "InitiatorName=a|InitiatorName=b|SessionType=Discovery|", (2, 0)),
        (operational, 0, &long, (2, 0)),
    ];
    for (flags, tsih, text, expected) in cases {
        assert_eq!(attempt(&mut world, &[request(flags, tsih, text)]), expected, "{text:.60}");
    }
    let endless = vec![request(CONTINUE | 1 << 2, 0, NAMES); 70];
    assert_eq!(attempt(&mut world, &endless), (2, 0));
}

#[test]
fn continued_text_is_put_together_before_it_is_read() {
    let mut world = World::new();
    let (head, tail) = NAMES.split_at(20);
    let parts = [request(CONTINUE | 1 << 2, 0, head), request(FINAL | 1 << 2 | 3, 0, tail)];
    assert_eq!(attempt(&mut world, &parts), (0, 0));
    assert_eq!(world.target.sessions().len(), 1);
}

#[test]
fn a_second_connection_of_a_session_is_refused() {
    let mut world = World::new();
    let operational = FINAL | 1 << 2 | 3;
    let first = world.open();
    world.send(first, &request(operational, 0, NAMES));
    let tsih = u16::from_be_bytes([world.raw[&first][14], world.raw[&first][15]]);
    assert_eq!(attempt(&mut world, &[request(operational, tsih, NAMES)]), (2, 6));
    assert_eq!(world.target.sessions().len(), 1);
}

#[test]
fn logging_in_again_ends_the_older_session_of_the_same_port_only() {
    let mut world = World::new();
    world.hold = true;
    let first = world.login(host_config());
    let mut other = host_config();
    other.isid[5] = 2;
    let bystander = world.login(other);
    world.write(first, 1, 0, &[1; 512]);
    assert_eq!(world.held.len(), 1);
    let second = world.login(InitiatorConfig { name: HOST.to_uppercase(), ..host_config() });
    assert!(world.hosts[&first].closed && !world.hosts[&bystander].closed);
    assert_eq!(world.target.sessions().len(), 2);
    world.hold = false;
    world.release(); // the old session's write is answered to nobody
    assert!(world.take(second).is_empty() && world.take(first).is_empty());
    let ended = world.log.iter().filter(|action| matches!(action, TargetAction::LoggedOut { .. })).count();
    assert_eq!(ended, 1);
}

#[test]
fn discovery_tells_both_sites_portals_and_allows_no_command() {
    let mut world = World::new();
    let conn = world.login(InitiatorConfig { target: None, ..host_config() });
    world.initiator(conn).send_text(&[("SendTargets", "All")]);
    world.run();
    let pairs = [
        ("TargetName", TARGET),
        ("TargetAddress", "192.0.2.1:3260,1"),
        ("TargetAddress", "192.0.2.2:3260,2"),
    ];
    let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    assert_eq!(world.take(conn), [InitiatorEvent::Text { pairs: pairs.clone() }]);
    world.read(conn, 1, 0, 1);
    assert_eq!(world.take(conn), [InitiatorEvent::Rejected { reason: 4 }]);
    assert!(world.target.sessions().is_empty());

    // A normal session may ask too; what is not understood is rejected; a long answer comes in pieces.
    let mut config = target_config();
    config.peer_portals = (0..90).map(|at| (format!("192.0.2.{at}:3260"), 2)).collect();
    let mut world = World::with(config);
    let conn = world.login(InitiatorConfig { receive_max: 512, ..host_config() });
    for wrong in ["Alle", "A", "all"] {
        world.initiator(conn).send_text(&[("SendTargets", wrong)]);
        world.run();
        assert_eq!(world.take(conn), [InitiatorEvent::Rejected { reason: 9 }]);
    }
    world.initiator(conn).send_text(&[("Unheard", "1")]);
    world.run();
    assert_eq!(world.take(conn), [InitiatorEvent::Rejected { reason: 5 }]);
    world.initiator(conn).send_text(&[("SendTargets", "All")]);
    world.run();
    let [InitiatorEvent::Text { pairs }] = &world.take(conn)[..] else { panic!("an answer") };
    assert_eq!(pairs.len(), 92);
}

#[test]
fn logout_is_answered_with_writes_in_flight() {
    let mut world = World::new();
    world.hold = true;
    let conn = world.login(host_config());
    for tag in 0..10 {
        world.write(conn, tag, tag, &[1; 512]);
    }
    world.initiator(conn).logout();
    world.run();
    assert_eq!(world.take(conn), [InitiatorEvent::Closed { why: "logged out" }]);
    assert!(world.hosts[&conn].closed && world.target.sessions().is_empty());
    world.release();
    assert_eq!(world.target.connections(), 0);
}

#[test]
fn a_login_that_dawdles_and_a_host_that_falls_silent_are_dropped() {
    let mut world = World::new();
    let lazy = world.open();
    let there = world.login(host_config());
    let raw = world.open();
    world.send(raw, &request(FINAL | 1 << 2 | 3, 0, NAMES));
    world.pass(29 * SECOND);
    assert_eq!(world.target.connections(), 3);
    world.pass(2 * SECOND);
    assert!(world.log.contains(&TargetAction::Close { conn: lazy }));
    assert!(world.log.contains(&TargetAction::Close { conn: raw }), "two pings went unanswered");
    world.pass(100 * SECOND);
    assert!(!world.hosts[&there].closed, "an initiator that answers pings stays");
}

#[test]
fn draining_asks_hosts_to_leave_and_lets_none_in() {
    let mut world = World::new();
    let conn = world.login(host_config());
    world.target.handle_drain(world.now());
    world.run();
    assert_eq!(world.take(conn), [InitiatorEvent::Async { event: 1 }]);
    let late = world.connect(InitiatorConfig { isid: [1; 6], ..host_config() });
    assert_eq!(world.take(late), [InitiatorEvent::LoginFailed { class: 3, detail: 1 }]);
    world.pass(5 * SECOND);
    assert_eq!(world.target.connections(), 0);
}

#[test]
fn connections_have_a_limit_and_logged_in_hosts_are_not_pushed_out() {
    let mut world = World::new();
    let host = world.login(host_config());
    for _ in 0..1000 {
        world.open();
    }
    world.run();
    assert_eq!(world.target.connections(), 1 + super::super::target::LOGINS_MAX);
    world.read(host, 1, 0, 1);
    assert_eq!(world.take(host), [good(1, &[0; 512])]);
}

#[test]
fn silent_callers_do_not_keep_hosts_from_logging_in() {
    let mut world = World::new();
    let callers: Vec<ConnId> = (0..super::super::target::LOGINS_MAX).map(|_| world.open()).collect();
    let host = world.login(host_config());
    world.read(host, 1, 0, 1);
    assert_eq!(world.take(host), [good(1, &[0; 512])]);
    assert!(world.log.contains(&TargetAction::Close { conn: callers[0] }), "the slowest made room");
    assert!(!world.log.contains(&TargetAction::Close { conn: callers[1] }));
}
