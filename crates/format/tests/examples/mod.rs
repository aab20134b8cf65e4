//! One of every kind of message, and of every page of the journal.
#![allow(dead_code)] // each test binary uses its own part

use biplex_engine::message::{
    Ack, Digest, DigestRow, Hello, Message, PROTOCOL_VERSION, Ping, Pong, Refusal, VolumeGeometry,
};
use biplex_engine::reserve::{
    Claim, ExtentKind, ExtentReservation, Extents, ModeBits, PersistentKind, PersistentReservation,
    Registrant, Registration, Request, ReservationState, Reset, UnitReservation, Verdict,
};
use biplex_engine::{Body, Entry, Extent, HostId, Lba, Nexus, SiteId, Stamp, VolumeId};
use biplex_format::body_crc;
use biplex_format::journal::{Checkpoint, GroupHeader, SegmentHeader, Slot, StateHeader, Superblock};
use bytes::Bytes;
use std::sync::Arc;

pub const PAIR: u64 = 0x1122_3344_5566_7788;

pub fn a(time: u64) -> Stamp {
    Stamp { time, site: SiteId::A }
}

pub fn b(time: u64) -> Stamp {
    Stamp { time, site: SiteId::B }
}

pub fn entry(stamp: Stamp, lba: u64, blocks: u64, body: Body) -> Entry {
    Entry {
        stamp,
        seq: 3 << 40 | 7,
        volume: VolumeId(0xcafe_0001),
        extent: Extent::new(Lba(lba), blocks).expect("not empty"),
        host: HostId(0x0102_0304_0506_0708),
        isid: 0,
        body_crc: body_crc(&body),
        body,
    }
}

pub fn volumes() -> Vec<VolumeGeometry> {
    vec![
        VolumeGeometry {
            id: VolumeId(0xcafe_0001),
            name: "vol0".to_owned(),
            lun: 0,
            blocks: 2_097_152,
            mode: 1,
        },
        VolumeGeometry {
            id: VolumeId(0xcafe_0002),
            name: "zweites".to_owned(),
            lun: 258,
            blocks: 77,
            mode: 2,
        },
    ]
}

pub fn hello() -> Hello {
    Hello {
        version: PROTOCOL_VERSION,
        pair: PAIR,
        site: SiteId::B,
        run: 0,
        journal: 0xaaaa_bbbb_cccc_dddd,
        peer_journal: 0x1111_2222_3333_4444,
        wall: 1_790_000_000_000_000_000,
        clock: 1_790_000_000_000_000_001,
        have: [a(1001), b(1002)],
        destaged: b(900),
        journal_bytes: 1 << 30,
        hold_time: 180_000_000_000,
        hold_every: 60_000_000_000,
        stores: 0x5707_e5e5_5707_e5e5,
        volumes: volumes(),
    }
}

pub fn messages() -> Vec<(&'static str, Message)> {
    let ack = Ack { durable: a(41), taken: a(41), promise: b(42), destaged: b(43), resumed: true };
    let pattern: Vec<u8> = (0..512u32).map(|byte| (byte * 7) as u8).collect();
    vec![
        ("hello", Message::Hello(hello())),
        ("refuse", Message::Refuse(Refusal { why: "Größe differs: 1 here, 2 there".to_owned() })),
        ("data", Message::Entry(entry(a(5_000_000_001), 16, 1, Body::Data(Bytes::from(pattern.clone()))))),
        ("fill", Message::Entry(entry(b(5_000_000_002), 1 << 33, 1 << 34, Body::Fill(Bytes::from(pattern))))),
        ("unmap", Message::Entry(entry(b(5_000_000_003), 8, 4096, Body::Unmap))),
        ("resume-end", Message::ResumeEnd),
        ("ack", Message::Ack(ack)),
        ("ping", Message::Ping(Ping { ack, sent_mono: 44, sent_wall: 45 })),
        ("pong", Message::Pong(Pong { sent_mono: 46, sent_wall: 47, received_wall: 48, in_step: true })),
        (
            "digest",
            Message::Digest(Digest {
                from: a(100),
                to: b(200),
                rows: vec![DigestRow {
                    slot: 5,
                    volume: VolumeId(0xcafe_0001),
                    region: Extent::new(Lba(2048), 2048).expect("not empty"),
                    entries: 9,
                    sum: 0xdead_beef_0bad_cafe,
                }],
            }),
        ),
        (
            "host",
            Message::Host { id: 0x0102_0304_0506_0708, name: Bytes::from_static(b"iqn.2026-11.example:a") },
        ),
        ("passed", Message::Passed { stamp: b(5_000_000_007), verdict: Verdict::BadParameter(20) }),
        ("ack-taken", Message::Ack(Ack { taken: a(47), ..ack })),
        (
            "ping-taken",
            Message::Ping(Ping { ack: Ack { taken: b(48), ..ack }, sent_mono: 44, sent_wall: 45 }),
        ),
        ("hello-with-run", Message::Hello(Hello { run: 77, ..hello() })),
        ("unmap-of-a-session", Message::Entry(of_session(b(5_000_000_004), Body::Unmap))),
        ("swap", Message::Entry(of_session(a(5_000_000_005), Body::Swap(Bytes::from(vec![0x5a; 1024]))))),
        ("control", Message::Entry(of_session(b(5_000_000_006), Body::Control(Arc::new(a_request()))))),
    ]
}

fn of_session(stamp: Stamp, body: Body) -> Entry {
    Entry { isid: 0x4001_3700_0001, ..entry(stamp, 0, 1, body) }
}

fn a_request() -> Request {
    Request::ReservePersistent { key: 0x1122, kind: PersistentKind::WriteExclusiveRegistrants }
}

/// What lies in journals and never travels.
pub fn verdict() -> Entry {
    of_session(a(5_000_000_005), Body::Verdict(Verdict::Done))
}

pub fn checkpoint() -> Checkpoint {
    Checkpoint {
        clock_ceiling: 7_000_000_000,
        destaged: b(6_000_000_000),
        resume_from: Some(b(6_500_000_000)),
        peer_journal: 0x1111_2222_3333_4444,
        run: 3,
        oldest_segment: 12,
        state: 0,
    }
}

pub fn superblock() -> Superblock {
    Superblock {
        site: SiteId::B,
        pair: PAIR,
        journal: 0xaaaa_bbbb_cccc_dddd,
        segment_bytes: 8 << 20,
        segments: 127,
        state_pages: 256,
        volumes: volumes(),
    }
}

pub fn segment() -> SegmentHeader {
    SegmentHeader {
        journal: 0xaaaa_bbbb_cccc_dddd,
        index: 3,
        seq: 14,
        first_group: 950,
        slots: 41,
        checkpoint: checkpoint(),
    }
}

pub fn slot() -> Slot {
    Slot { journal: 0xaaaa_bbbb_cccc_dddd, page: 16, seq: 42, after_group: 951, checkpoint: checkpoint() }
}

/// A slot whose checkpoint has a state.
pub fn slot_with_state() -> Slot {
    Slot { checkpoint: Checkpoint { state: 0x0506_0708, ..checkpoint() }, ..slot() }
}

pub fn state() -> StateHeader {
    StateHeader {
        journal: 0xaaaa_bbbb_cccc_dddd,
        page: 18,
        seq: 0x0506_0708,
        bytes: 1000,
        content_check: 0x2468_ace0,
    }
}

pub fn group() -> GroupHeader {
    GroupHeader {
        journal: 0xaaaa_bbbb_cccc_dddd,
        start_page: 6161,
        pages: 3,
        records: 2,
        content_check: 0x1357_9bdf,
        segment_seq: 14,
        group_seq: 951,
        slots: 41,
        checkpoint: checkpoint(),
    }
}

/// A message as it goes over the wire.
pub fn wire(message: &Message) -> Vec<u8> {
    let (header, payload) = biplex_format::encode(PAIR, message);
    let mut bytes = header.to_vec();
    bytes.extend_from_slice(&payload.unwrap_or_default());
    bytes
}

fn nexus(host: u64, isid: u64, site: SiteId) -> Nexus {
    Nexus { host: HostId(host), isid, site }
}

fn registrant(host: u64, name: &str) -> Registrant {
    Registrant { nexus: nexus(host, 0x4000_0137_0001, SiteId::B), name: Arc::from(name) }
}

fn extents(id: u8) -> Extents {
    let claim = |kind, lba, blocks| Claim { kind, extent: Extent::new(Lba(lba), blocks).expect("not empty") };
    Extents {
        id,
        claims: vec![claim(ExtentKind::WriteExclusive, 8, 16), claim(ExtentKind::ReadShared, 1 << 33, 1)],
    }
}

/// One of every kind of request, the longer ones with all that they can have.
pub fn requests() -> Vec<(&'static str, Request)> {
    let third_party = Some(HostId(0x1112_1314_1516_1718));
    let (key, kind) = (0x2122_2324_2526_2728, PersistentKind::ExclusiveAccessRegistrants);
    let new_key = 0x3132_3334_3536_3738;
    vec![
        ("request-reserve", Request::Reserve { third_party: None, extents: None }),
        ("request-reserve-extents", Request::Reserve { third_party, extents: Some(extents(0)) }),
        ("request-release", Request::Release { third_party, extents: None }),
        ("request-release-extents", Request::Release { third_party: None, extents: Some(7) }),
        (
            "request-register",
            Request::Register {
                key: Some(0),
                new_key,
                aptpl: true,
                all_ports: true,
                name: Arc::from("iqn.2026-11.example:a"),
                also: vec![registrant(5, "iqn.2026-11.example:b"), registrant(6, "")],
            },
        ),
        (
            "request-register-and-ignore",
            Request::Register {
                key: None,
                new_key,
                aptpl: false,
                all_ports: false,
                name: Arc::from("iqn.2026-11.example:ü"),
                also: Vec::new(),
            },
        ),
        ("request-reserve-persistent", Request::ReservePersistent { key, kind }),
        ("request-release-persistent", Request::ReleasePersistent { key, kind }),
        ("request-clear", Request::Clear { key }),
        ("request-preempt", Request::Preempt { key, victim: new_key, kind, abort: true }),
        (
            "request-move",
            Request::Move {
                key,
                new_key,
                unregister: true,
                aptpl: true,
                to: registrant(5, "iqn.2026-11.example:b"),
            },
        ),
        ("request-reset", Request::Reset(Reset::TargetCold)),
        ("request-set-modes", Request::SetModes(ModeBits { descriptor_sense: true, write_protected: true })),
        ("request-nexus-lost", Request::NexusLost),
        ("request-site-started", Request::SiteStarted { run: 3, peer_run: 0x0102_0304 }),
    ]
}

/// A volume with SCSI-2 reservations, one with a persistent reservation, one that all registrants hold, and a fresh one.
pub fn tables() -> Vec<(VolumeId, ReservationState)> {
    let owner = nexus(9, 0x4000_0137_0002, SiteId::B);
    let registration = |host, name: &str| Registration {
        registrant: registrant(host, name),
        key: host << 8,
        all_ports: host == 5,
    };
    let registrations = vec![
        registration(5, "iqn.2026-11.example:b"),
        registration(6, "iqn.2026-11.example:a"),
        registration(7, "iqn.2026-11.example:b"),
    ];
    let scsi2 = ReservationState {
        unit: Some(UnitReservation { since: b(77), owner, third_party: Some(HostId(0x1112_1314_1516_1718)) }),
        extents: vec![
            ExtentReservation { since: a(78), owner, third_party: None, extents: extents(1) },
            ExtentReservation { since: a(79), owner, third_party: Some(HostId(0)), extents: extents(2) },
        ],
        modes: ModeBits { descriptor_sense: false, write_protected: true },
        runs: Some([3, 4]),
        ..ReservationState::default()
    };
    let holder = Some(nexus(6, 0x4000_0137_0001, SiteId::B));
    let persistent = ReservationState {
        registrations: registrations.clone(),
        persistent: Some(PersistentReservation {
            since: b(80),
            kind: PersistentKind::WriteExclusiveRegistrants,
            holder,
        }),
        generation: 0xfedc_ba98,
        aptpl: true,
        ..ReservationState::default()
    };
    let all_hold = ReservationState {
        registrations,
        persistent: Some(PersistentReservation {
            since: a(81),
            kind: PersistentKind::ExclusiveAccessAll,
            holder: None,
        }),
        runs: Some([0, 0]),
        ..ReservationState::default()
    };
    vec![
        (VolumeId(0xcafe_0001), scsi2),
        (VolumeId(0xcafe_0002), persistent),
        (VolumeId(0xcafe_0003), all_hold),
        (VolumeId(0xcafe_0004), ReservationState::default()),
    ]
}
