//! The reservation tables of all volumes, as a checkpoint keeps them. Names are kept once each.
//!
//! ```text
//! head | names: length, bytes | volume: head, unit?, persistent?, extents (row, claims)…, registrations… | volume…
//! ```
//! Whether the tables make sense together is for [`biplex_engine::reserve::Reservations::from_parts`] to say.

use super::{
    FLAG_ALL_HOLD, FLAG_ALL_PORTS, FLAG_THIRD_PARTY, Reader, bounded, demand_spelling, flag, modes,
    modes_byte, persistent_kind, put_claims,
};
use crate::error::FormatError;
use crate::record::site;
use crate::volume::VOLUMES_MAX;
use biplex_engine::reserve::{
    CLAIMS_MAX, ExtentReservation, Extents, INITIATOR_NAME_BYTES_MAX, PersistentReservation,
    REGISTRATIONS_MAX, Registrant, Registration, ReservationState, UnitReservation,
};
use biplex_engine::{HostId, Nexus, Stamp, VolumeId};
use core::mem::offset_of;
use std::borrow::Borrow;
use std::sync::Arc;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Version of the layout of the reservation tables.
pub const RESERVATIONS_VERSION: u16 = 1;
/// How reservation tables start.
pub const RESERVATIONS_MAGIC: [u8; 4] = *b"BPXV";

/// Flag of a volume's row: APTPL.
pub const VOLUME_APTPL: u8 = 1;
/// Flag of a volume's row: the sites' runs are known.
pub const VOLUME_RUNS: u8 = 1 << 1;
/// Flag of a volume's row: a row follows for the SCSI-2 reservation of the unit.
pub const VOLUME_UNIT: u8 = 1 << 2;
/// Flag of a volume's row: a row follows for the persistent reservation.
pub const VOLUME_PERSISTENT: u8 = 1 << 3;

/// Bytes of the head of reservation tables.
pub const RESERVATIONS_HEAD_BYTES: usize = 16;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ReservationsHead {
    magic: [u8; 4],
    version: U16,
    zero: U16,
    volumes: U32,
    names: U32,
}

const _: () = assert!(size_of::<ReservationsHead>() == RESERVATIONS_HEAD_BYTES);

/// Names, offsets and lengths of the fields of the tables' head, for the drawing's test.
pub const RESERVATIONS_FIELDS: &[(&str, usize, usize)] = &[
    ("magic", offset_of!(ReservationsHead, magic), 4),
    ("version", offset_of!(ReservationsHead, version), 2),
    ("zero", offset_of!(ReservationsHead, zero), 2),
    ("volumes", offset_of!(ReservationsHead, volumes), 4),
    ("names", offset_of!(ReservationsHead, names), 4),
];

/// Bytes of a volume's head among reservation tables.
pub const VOLUME_TABLES_BYTES: usize = 24;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct VolumeTables {
    volume: U32,
    generation: U32,
    run_a: U32,
    run_b: U32,
    flags: u8,
    modes: u8,
    extents: U16,
    registrations: U16,
    zero: U16,
}

const _: () = assert!(size_of::<VolumeTables>() == VOLUME_TABLES_BYTES);

/// Names, offsets and lengths of the fields of a volume's head, for the drawing's test.
pub const VOLUME_TABLES_FIELDS: &[(&str, usize, usize)] = &[
    ("volume", offset_of!(VolumeTables, volume), 4),
    ("generation", offset_of!(VolumeTables, generation), 4),
    ("run of a", offset_of!(VolumeTables, run_a), 4),
    ("run of b", offset_of!(VolumeTables, run_b), 4),
    ("flags", offset_of!(VolumeTables, flags), 1),
    ("modes", offset_of!(VolumeTables, modes), 1),
    ("extents", offset_of!(VolumeTables, extents), 2),
    ("registrations", offset_of!(VolumeTables, registrations), 2),
    ("zero", offset_of!(VolumeTables, zero), 2),
];

/// Bytes of a reservation's row.
pub const RESERVATION_ROW_BYTES: usize = 40;

/// A reservation: of the unit, of extents (claims follow), or persistent.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ReservationRow {
    since: U64,
    host: U64,
    isid: U64,
    third_party: U64,
    since_site: u8,
    site: u8,
    flags: u8,
    kind: u8,
    id: u8,
    zero: u8,
    claims: U16,
}

const _: () = assert!(size_of::<ReservationRow>() == RESERVATION_ROW_BYTES);

/// Names, offsets and lengths of a reservation row's fields, for the drawing's test.
pub const RESERVATION_ROW_FIELDS: &[(&str, usize, usize)] = &[
    ("since", offset_of!(ReservationRow, since), 8),
    ("host", offset_of!(ReservationRow, host), 8),
    ("isid", offset_of!(ReservationRow, isid), 8),
    ("third party", offset_of!(ReservationRow, third_party), 8),
    ("by", offset_of!(ReservationRow, since_site), 1),
    ("site", offset_of!(ReservationRow, site), 1),
    ("flags", offset_of!(ReservationRow, flags), 1),
    ("kind", offset_of!(ReservationRow, kind), 1),
    ("id", offset_of!(ReservationRow, id), 1),
    ("zero", offset_of!(ReservationRow, zero), 1),
    ("claims", offset_of!(ReservationRow, claims), 2),
];

/// Bytes of a registration's row.
pub const REGISTRATION_ROW_BYTES: usize = 32;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RegistrationRow {
    host: U64,
    isid: U64,
    key: U64,
    name: U32,
    site: u8,
    flags: u8,
    zero: U16,
}

const _: () = assert!(size_of::<RegistrationRow>() == REGISTRATION_ROW_BYTES);

/// Names, offsets and lengths of a registration row's fields, for the drawing's test.
pub const REGISTRATION_ROW_FIELDS: &[(&str, usize, usize)] = &[
    ("host", offset_of!(RegistrationRow, host), 8),
    ("isid", offset_of!(RegistrationRow, isid), 8),
    ("key", offset_of!(RegistrationRow, key), 8),
    ("name", offset_of!(RegistrationRow, name), 4),
    ("site", offset_of!(RegistrationRow, site), 1),
    ("flags", offset_of!(RegistrationRow, flags), 1),
    ("zero", offset_of!(RegistrationRow, zero), 2),
];

/// Spells the reservation tables of volumes that ascend by id. A state may be given by value or by reference.
///
/// # Panics
/// With more volumes than a pair has, with volumes that do not ascend, or with a state that its
/// [`check`](ReservationState::check) would not let through for its size.
pub fn encode_reservations<S: Borrow<ReservationState>>(volumes: &[(VolumeId, S)]) -> Vec<u8> {
    assert!(volumes.len() <= VOLUMES_MAX, "a pair has at most {VOLUMES_MAX} volumes");
    assert!(volumes.is_sorted_by(|(one, _), (other, _)| one < other), "volumes ascend");
    let mut names: Vec<&str> = Vec::new();
    for (_, state) in volumes {
        names.extend(state.borrow().registrations.iter().map(|r| &*r.registrant.name));
    }
    names.sort_unstable();
    names.dedup();
    let head = ReservationsHead {
        magic: RESERVATIONS_MAGIC,
        version: U16::new(RESERVATIONS_VERSION),
        zero: U16::ZERO,
        volumes: U32::new(volumes.len() as u32),
        names: U32::new(names.len() as u32),
    };
    let mut bytes = head.as_bytes().to_vec();
    for name in &names {
        assert!(name.len() <= INITIATOR_NAME_BYTES_MAX, "no longer name is registered");
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name.as_bytes());
    }
    for (volume, state) in volumes {
        put_tables(*volume, state.borrow(), &names, &mut bytes);
    }
    bytes
}

fn put_tables(volume: VolumeId, state: &ReservationState, names: &[&str], bytes: &mut Vec<u8>) {
    assert!(state.claims() <= CLAIMS_MAX, "a unit has at most {CLAIMS_MAX} claims");
    assert!(
        state.registrations.len() <= REGISTRATIONS_MAX,
        "a unit has at most {REGISTRATIONS_MAX} registrations"
    );
    assert!(state.extents.len() <= CLAIMS_MAX, "every reservation of extents has a claim");
    let [run_a, run_b] = state.runs.unwrap_or_default();
    let head = VolumeTables {
        volume: U32::new(volume.0),
        generation: U32::new(state.generation),
        run_a: U32::new(run_a),
        run_b: U32::new(run_b),
        flags: flag(state.aptpl, VOLUME_APTPL)
            | flag(state.runs.is_some(), VOLUME_RUNS)
            | flag(state.unit.is_some(), VOLUME_UNIT)
            | flag(state.persistent.is_some(), VOLUME_PERSISTENT),
        modes: modes_byte(state.modes),
        extents: U16::new(state.extents.len() as u16),
        registrations: U16::new(state.registrations.len() as u16),
        zero: U16::ZERO,
    };
    bytes.extend_from_slice(head.as_bytes());
    if let Some(unit) = state.unit {
        let row = ReservationRow::of(unit.since, Some(unit.owner), unit.third_party);
        bytes.extend_from_slice(row.as_bytes());
    }
    if let Some(held) = state.persistent {
        let mut row = ReservationRow::of(held.since, held.holder, None);
        row.flags = flag(held.holder.is_none(), FLAG_ALL_HOLD);
        row.kind = held.kind as u8;
        bytes.extend_from_slice(row.as_bytes());
    }
    for reservation in &state.extents {
        let mut row = ReservationRow::of(reservation.since, Some(reservation.owner), reservation.third_party);
        row.id = reservation.extents.id;
        row.claims = U16::new(reservation.extents.claims.len() as u16);
        bytes.extend_from_slice(row.as_bytes());
        put_claims(&reservation.extents.claims, bytes);
    }
    for registration in &state.registrations {
        let Registrant { nexus, name } = &registration.registrant;
        let name = names.binary_search(&&**name).expect("every name is in the table");
        let row = RegistrationRow {
            host: U64::new(nexus.host.0),
            isid: U64::new(nexus.isid),
            key: U64::new(registration.key),
            name: U32::new(name as u32),
            site: nexus.site as u8,
            flags: flag(registration.all_ports, FLAG_ALL_PORTS),
            zero: U16::ZERO,
        };
        bytes.extend_from_slice(row.as_bytes());
    }
}

impl ReservationRow {
    fn of(since: Stamp, who: Option<Nexus>, third_party: Option<HostId>) -> ReservationRow {
        ReservationRow {
            since: U64::new(since.time),
            host: U64::new(who.map_or(0, |nexus| nexus.host.0)),
            isid: U64::new(who.map_or(0, |nexus| nexus.isid)),
            third_party: U64::new(third_party.map_or(0, |host| host.0)),
            since_site: since.site as u8,
            site: who.map_or(0, |nexus| nexus.site as u8),
            flags: flag(third_party.is_some(), FLAG_THIRD_PARTY),
            kind: 0,
            id: 0,
            zero: 0,
            claims: U16::ZERO,
        }
    }

    fn since(&self) -> Result<Stamp, FormatError> {
        Ok(Stamp { time: self.since.get(), site: site(self.since_site)? })
    }

    fn nexus(&self) -> Result<Nexus, FormatError> {
        Ok(Nexus { host: HostId(self.host.get()), isid: self.isid.get(), site: site(self.site)? })
    }

    fn third_party(&self) -> Option<HostId> {
        (self.flags & FLAG_THIRD_PARTY != 0).then(|| HostId(self.third_party.get()))
    }
}

/// Reads reservation tables.
pub fn decode_reservations(bytes: &[u8]) -> Result<Vec<(VolumeId, ReservationState)>, FormatError> {
    let what = "reservation tables";
    let mut reader = Reader { what, bytes, at: 0 };
    let head: ReservationsHead = reader.row()?;
    if head.magic != RESERVATIONS_MAGIC {
        return Err(FormatError::Magic {
            what,
            expected: u64::from(u32::from_le_bytes(RESERVATIONS_MAGIC)),
            found: u64::from(u32::from_le_bytes(head.magic)),
        });
    }
    if head.version.get() != RESERVATIONS_VERSION {
        return Err(FormatError::Version { what, expected: RESERVATIONS_VERSION, found: head.version.get() });
    }
    let volumes_max = VOLUMES_MAX as u32;
    let volumes = bounded("volumes of reservation tables", head.volumes.get(), volumes_max)?;
    let names_max = volumes_max * REGISTRATIONS_MAX as u32;
    let count = bounded("names of reservation tables", head.names.get(), names_max)?;
    // Each takes a byte at least, so no count makes more room than there are bytes.
    let mut names: Vec<Arc<str>> = Vec::with_capacity(count.min(bytes.len()));
    for _ in 0..count {
        let [name_bytes] = reader.row::<[u8; 1]>()?;
        names.push(reader.name(name_bytes)?);
    }
    let mut tables: Vec<(VolumeId, ReservationState)> = Vec::with_capacity(volumes);
    for _ in 0..volumes {
        let (volume, state) = reader.tables(&names)?;
        if let Some((last, _)) = tables.last()
            && *last >= volume
        {
            return Err(FormatError::Field {
                what: "volume of reservation tables",
                expected: u64::from(last.0.saturating_add(1)),
                found: u64::from(volume.0),
            });
        }
        tables.push((volume, state));
    }
    reader.end()?;
    demand_spelling("an unused field of reservation tables", &encode_reservations(&tables), bytes)?;
    Ok(tables)
}

impl Reader<'_> {
    fn tables(&mut self, names: &[Arc<str>]) -> Result<(VolumeId, ReservationState), FormatError> {
        let head: VolumeTables = self.row()?;
        let has = |flag: u8| head.flags & flag != 0;
        let unit = if has(VOLUME_UNIT) { Some(self.unit()?) } else { None };
        let persistent = if has(VOLUME_PERSISTENT) { Some(self.persistent()?) } else { None };
        let most = CLAIMS_MAX as u32;
        let mut extents = Vec::new();
        let mut claims_left = most;
        for _ in 0..bounded("extents of a volume", u32::from(head.extents.get()), most)? {
            let row: ReservationRow = self.row()?;
            let count = bounded("claims of a volume", u32::from(row.claims.get()), claims_left)?;
            claims_left -= count as u32;
            extents.push(ExtentReservation {
                since: row.since()?,
                owner: row.nexus()?,
                third_party: row.third_party(),
                extents: Extents { id: row.id, claims: self.claims(count)? },
            });
        }
        let most = REGISTRATIONS_MAX as u32;
        let count = bounded("registrations of a volume", u32::from(head.registrations.get()), most)?;
        let registrations =
            (0..count).map(|_| self.registration(names)).collect::<Result<Vec<_>, FormatError>>()?;
        let state = ReservationState {
            unit,
            extents,
            registrations,
            persistent,
            generation: head.generation.get(),
            aptpl: has(VOLUME_APTPL),
            modes: modes(head.modes),
            runs: has(VOLUME_RUNS).then(|| [head.run_a.get(), head.run_b.get()]),
        };
        Ok((VolumeId(head.volume.get()), state))
    }

    fn unit(&mut self) -> Result<UnitReservation, FormatError> {
        let row: ReservationRow = self.row()?;
        Ok(UnitReservation { since: row.since()?, owner: row.nexus()?, third_party: row.third_party() })
    }

    fn persistent(&mut self) -> Result<PersistentReservation, FormatError> {
        let row: ReservationRow = self.row()?;
        let nexus = row.nexus()?;
        Ok(PersistentReservation {
            since: row.since()?,
            kind: persistent_kind(row.kind)?,
            holder: (row.flags & FLAG_ALL_HOLD == 0).then_some(nexus),
        })
    }

    fn registration(&mut self, names: &[Arc<str>]) -> Result<Registration, FormatError> {
        let row: RegistrationRow = self.row()?;
        let name = names.get(row.name.get() as usize).ok_or(FormatError::Field {
            what: "name of a registration",
            expected: names.len() as u64,
            found: u64::from(row.name.get()),
        })?;
        let nexus = Nexus { host: HostId(row.host.get()), isid: row.isid.get(), site: site(row.site)? };
        Ok(Registration {
            registrant: Registrant { nexus, name: name.clone() },
            key: row.key.get(),
            all_ports: row.flags & FLAG_ALL_PORTS != 0,
        })
    }
}
