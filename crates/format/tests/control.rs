//! Requests and reservation tables: what is spelt is read, what is read is spelt the same, and no bytes make a panic.

use biplex_engine::reserve::{
    ALSO_MAX, CLAIMS_MAX, Claim, ExtentKind, ExtentReservation, Extents, INITIATOR_NAME_BYTES_MAX, ModeBits,
    PersistentKind, PersistentReservation, REGISTRATIONS_MAX, Registrant, Registration, Request,
    ReservationState, Reset, UnitReservation,
};
use biplex_engine::{Extent, HostId, Lba, Nexus, SiteId, Stamp, VolumeId};
use biplex_format::{FormatError, decode_request, decode_reservations, encode_request, encode_reservations};
use proptest::prelude::*;
use std::sync::Arc;

fn any_site() -> impl Strategy<Value = SiteId> {
    prop_oneof![Just(SiteId::A), Just(SiteId::B)]
}

fn any_nexus() -> impl Strategy<Value = Nexus> {
    (any::<u64>(), any::<u64>(), any_site()).prop_map(|(host, isid, site)| Nexus {
        host: HostId(host),
        isid,
        site,
    })
}

fn any_stamp() -> impl Strategy<Value = Stamp> {
    (any::<u64>(), any_site()).prop_map(|(time, site)| Stamp { time, site })
}

fn any_name() -> impl Strategy<Value = Arc<str>> {
    prop_oneof!["[a-z.:ü-]{0,20}".prop_map(Arc::from), Just(Arc::from("n".repeat(INITIATOR_NAME_BYTES_MAX))),]
}

fn any_registrant() -> impl Strategy<Value = Registrant> {
    (any_nexus(), any_name()).prop_map(|(nexus, name)| Registrant { nexus, name })
}

fn any_claim() -> impl Strategy<Value = Claim> {
    (prop::sample::select(ExtentKind::ALL.to_vec()), 0..u64::MAX >> 10, 1..u64::MAX >> 10).prop_map(
        |(kind, lba, blocks)| Claim { kind, extent: Extent::new(Lba(lba), blocks).expect("within bounds") },
    )
}

fn any_extents() -> impl Strategy<Value = Extents> {
    let claims = prop_oneof![
        9 => prop::collection::vec(any_claim(), 1..6),
        1 => prop::collection::vec(any_claim(), CLAIMS_MAX),
    ];
    (any::<u8>(), claims).prop_map(|(id, claims)| Extents { id, claims })
}

fn any_kind() -> impl Strategy<Value = PersistentKind> {
    prop::sample::select(PersistentKind::ALL.to_vec())
}

fn any_modes() -> impl Strategy<Value = ModeBits> {
    (any::<bool>(), any::<bool>())
        .prop_map(|(descriptor_sense, write_protected)| ModeBits { descriptor_sense, write_protected })
}

fn any_request() -> impl Strategy<Value = Request> {
    let third_party = || prop::option::of(any::<u64>().prop_map(HostId));
    let also = prop_oneof![
        9 => prop::collection::vec(any_registrant(), 0..4),
        1 => prop::collection::vec(any_registrant(), ALSO_MAX),
    ];
    prop_oneof![
        (third_party(), prop::option::of(any_extents()))
            .prop_map(|(third_party, extents)| Request::Reserve { third_party, extents }),
        (third_party(), any::<Option<u8>>())
            .prop_map(|(third_party, extents)| Request::Release { third_party, extents }),
        (any::<Option<u64>>(), any::<u64>(), any::<bool>(), any::<bool>(), any_name(), also).prop_map(
            |(key, new_key, aptpl, all_ports, name, also)| Request::Register {
                key,
                new_key,
                aptpl,
                all_ports,
                name,
                also
            }
        ),
        (any::<u64>(), any_kind()).prop_map(|(key, kind)| Request::ReservePersistent { key, kind }),
        (any::<u64>(), any_kind()).prop_map(|(key, kind)| Request::ReleasePersistent { key, kind }),
        any::<u64>().prop_map(|key| Request::Clear { key }),
        (any::<u64>(), any::<u64>(), any_kind(), any::<bool>())
            .prop_map(|(key, victim, kind, abort)| Request::Preempt { key, victim, kind, abort }),
        (any::<u64>(), any::<u64>(), any::<bool>(), any::<bool>(), any_registrant()).prop_map(
            |(key, new_key, unregister, aptpl, to)| Request::Move { key, new_key, unregister, aptpl, to }
        ),
        prop::sample::select(Reset::ALL.to_vec()).prop_map(Request::Reset),
        any_modes().prop_map(Request::SetModes),
        Just(Request::NexusLost),
        (any::<u32>(), any::<u32>()).prop_map(|(run, peer_run)| Request::SiteStarted { run, peer_run }),
    ]
}

/// Any tables, also such that no unit ever comes to: the format does not know.
fn any_state() -> impl Strategy<Value = ReservationState> {
    let third_party = || prop::option::of(any::<u64>().prop_map(HostId));
    let unit = (any_stamp(), any_nexus(), third_party())
        .prop_map(|(since, owner, third_party)| UnitReservation { since, owner, third_party });
    let extents =
        (any_stamp(), any_nexus(), third_party(), prop::collection::vec(any_claim(), 1..4), any::<u8>())
            .prop_map(|(since, owner, third_party, claims, id)| ExtentReservation {
                since,
                owner,
                third_party,
                extents: Extents { id, claims },
            });
    let registration = (any_registrant(), any::<u64>(), any::<bool>())
        .prop_map(|(registrant, key, all_ports)| Registration { registrant, key, all_ports });
    let persistent = (any_stamp(), any_kind(), prop::option::of(any_nexus()))
        .prop_map(|(since, kind, holder)| PersistentReservation { since, kind, holder });
    let rest = (any::<u32>(), any::<bool>(), any_modes(), any::<Option<[u32; 2]>>());
    (
        prop::option::of(unit),
        prop::collection::vec(extents, 0..4),
        prop::collection::vec(registration, 0..6),
        prop::option::of(persistent),
        rest,
    )
        .prop_map(|(unit, extents, registrations, persistent, (generation, aptpl, modes, runs))| {
            ReservationState { unit, extents, registrations, persistent, generation, aptpl, modes, runs }
        })
}

fn any_tables() -> impl Strategy<Value = Vec<(VolumeId, ReservationState)>> {
    prop::collection::btree_map(any::<u32>().prop_map(VolumeId), any_state(), 0..5)
        .prop_map(|volumes| volumes.into_iter().collect())
}

/// Changes some bytes, and perhaps the length.
fn mangle(
    mut bytes: Vec<u8>,
    changes: &[(prop::sample::Index, u8)],
    cut: Option<prop::sample::Index>,
) -> Vec<u8> {
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn request_is_read_as_it_was_spelt_and_takes_as_many_bytes_as_it_says(request in any_request()) {
        prop_assert!(request.within_limits());
        let bytes = encode_request(&request);
        prop_assert_eq!(bytes.len(), request.stored_bytes());
        prop_assert_eq!(decode_request(&bytes), Ok(request));
    }

    #[test]
    fn tables_are_read_as_they_were_spelt(tables in any_tables()) {
        let bytes = encode_reservations(&tables);
        let weights: u64 = tables.iter().map(|(_, state)| state.weight()).sum();
        prop_assert!(bytes.len() as u64 <= 16 + weights, "what the limit on tables counts is never too little");
        prop_assert_eq!(decode_reservations(&bytes), Ok(tables));
    }

    #[test]
    fn mangled_request_is_refused_or_has_this_one_spelling(
        request in any_request(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let bytes = mangle(encode_request(&request), &changes, cut);
        if let Ok(read) = decode_request(&bytes) {
            prop_assert_eq!(encode_request(&read), bytes);
        }
    }

    #[test]
    fn mangled_tables_are_refused_or_have_this_one_spelling(
        tables in any_tables(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let bytes = mangle(encode_reservations(&tables), &changes, cut);
        if let Ok(read) = decode_reservations(&bytes) {
            prop_assert_eq!(encode_reservations(&read), bytes);
        }
    }

    #[test]
    fn no_bytes_make_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in 0..14u8,
    ) {
        let _ = decode_request(&bytes);
        let _ = decode_reservations(&bytes);
        let mut request = vec![1, kind];
        request.extend_from_slice(&bytes);
        if let Ok(read) = decode_request(&request) {
            prop_assert_eq!(encode_request(&read), request);
        }
        let mut tables = b"BPXV\x01\0\0\0".to_vec();
        tables.extend_from_slice(&bytes);
        if let Ok(read) = decode_reservations(&tables) {
            prop_assert_eq!(encode_reservations(&read), tables);
        }
    }
}

#[test]
fn every_prefix_of_a_request_and_of_tables_is_refused() {
    let request = Request::Move {
        key: 1,
        new_key: 2,
        unregister: true,
        aptpl: true,
        to: registrant(3, "iqn.2026-11.example:c"),
    };
    let bytes = encode_request(&request);
    for len in 0..bytes.len() {
        assert!(decode_request(&bytes[..len]).is_err(), "{len}");
    }
    let bytes = encode_reservations(&[(VolumeId(1), full(3, |_| "iqn.2026-11.example:c".to_owned()))]);
    for len in 0..bytes.len() {
        assert!(decode_reservations(&bytes[..len]).is_err(), "{len}");
    }
}

#[test]
fn every_bit_of_a_request_means_something_or_is_refused() {
    let request = Request::NexusLost;
    let bytes = encode_request(&request);
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(decode_request(&changed), Ok(Request::NexusLost), "bit {bit}");
    }
}

fn registrant(host: u64, name: &str) -> Registrant {
    Registrant {
        nexus: Nexus { host: HostId(host), isid: 0x4000_0137_0000, site: SiteId::A },
        name: Arc::from(name),
    }
}

fn full(registrations: u64, name: impl Fn(u64) -> String) -> ReservationState {
    let registrations = (0..registrations)
        .map(|host| Registration {
            registrant: registrant(host, &name(host)),
            key: host + 1,
            all_ports: false,
        })
        .collect();
    ReservationState { registrations, ..ReservationState::default() }
}

#[test]
fn counts_beyond_the_limits_are_refused() {
    let tables = |state: ReservationState| encode_reservations(&[(VolumeId(1), state)]);
    let names_at = 12;
    let mut bytes = tables(ReservationState::default());
    bytes[8..12].copy_from_slice(&257u32.to_le_bytes());
    let expected = FormatError::Length { what: "volumes of reservation tables", expected: 256, found: 257 };
    assert_eq!(decode_reservations(&bytes), Err(expected));
    let mut bytes = tables(ReservationState::default());
    bytes[names_at..names_at + 4].copy_from_slice(&65537u32.to_le_bytes());
    let expected = FormatError::Length { what: "names of reservation tables", expected: 65536, found: 65537 };
    assert_eq!(decode_reservations(&bytes), Err(expected));
    let mut bytes = tables(full(256, |_| "n".to_owned()));
    let registrations_at = 16 + 2 + 20;
    bytes[registrations_at..registrations_at + 2].copy_from_slice(&257u16.to_le_bytes());
    let expected = FormatError::Length { what: "registrations of a volume", expected: 256, found: 257 };
    assert_eq!(decode_reservations(&bytes), Err(expected));
    let claim = Claim { kind: ExtentKind::ReadShared, extent: Extent::new(Lba(0), 1).unwrap() };
    let request = Request::Reserve {
        third_party: None,
        extents: Some(Extents { id: 0, claims: vec![claim; CLAIMS_MAX] }),
    };
    let mut bytes = encode_request(&request);
    bytes[4..6].copy_from_slice(&257u16.to_le_bytes());
    bytes.extend_from_slice(&[0; 24]);
    let expected = FormatError::Length { what: "claims of a request", expected: 256, found: 257 };
    assert_eq!(decode_request(&bytes), Err(expected));
    bytes[4..6].copy_from_slice(&0u16.to_le_bytes());
    let expected = FormatError::Length { what: "claims of a request", expected: 256, found: 0 };
    assert_eq!(decode_request(&bytes), Err(expected));
}

#[test]
fn volumes_that_do_not_ascend_are_refused() {
    let state = ReservationState::default();
    let mut bytes = encode_reservations(&[(VolumeId(1), &state), (VolumeId(2), &state)]);
    bytes[16..20].copy_from_slice(&2u32.to_le_bytes());
    let expected = FormatError::Field { what: "volume of reservation tables", expected: 3, found: 2 };
    assert_eq!(decode_reservations(&bytes), Err(expected));
}

#[test]
fn tables_of_6400_registrations_take_less_than_700_kib() {
    // Every host registers on every volume, with the longest name that there may be.
    let name = |host: u64| format!("{host:0>width$}", width = INITIATOR_NAME_BYTES_MAX);
    let state = full(REGISTRATIONS_MAX as u64, name);
    let volumes: Vec<(VolumeId, &ReservationState)> =
        (0..25).map(|volume| (VolumeId(volume), &state)).collect();
    assert_eq!(volumes.iter().map(|(_, state)| state.registrations.len()).sum::<usize>(), 6400);
    assert!(encode_reservations(&volumes).len() < 700 << 10);
    // And where all are different, with names as hosts have them.
    let volumes: Vec<(VolumeId, ReservationState)> = (0..25)
        .map(|volume| {
            (VolumeId(volume), full(256, |host| format!("iqn.1994-05.com.redhat:{volume:08x}{host:04x}")))
        })
        .collect();
    assert!(encode_reservations(&volumes).len() < 700 << 10);
}
