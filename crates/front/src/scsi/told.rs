//! What a unit tells of its persistent reservations: PERSISTENT RESERVE IN's data (SPC-4 6.15), read. Total: bytes that
//! contradict themselves are nothing told; what does not fit into the answer any more is left out.

use super::transport_id;
use biplex_engine::reserve::PersistentKind;

/// Bytes of PRGENERATION and ADDITIONAL LENGTH.
const HEAD: usize = 8;
/// Bytes of a full status descriptor before its TransportID.
const DESCRIPTOR: usize = 24;

/// What a unit has of persistent reservations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Told {
    /// PRGENERATION.
    pub generation: u32,
    /// The reservation's type.
    pub reservation: Option<PersistentKind>,
    /// Who is registered, in the unit's order.
    pub registrations: Vec<Registered>,
}

/// A registered nexus as its unit tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registered {
    /// Its key.
    pub key: u64,
    /// It holds the reservation.
    pub holder: bool,
    /// Registered through all target ports.
    pub all_ports: bool,
    /// Its initiator's name, and its session's ISID. `None`: the unit tells only of keys.
    pub port: Option<(String, Option<u64>)>,
}

/// READ FULL STATUS (SPC-4 6.15.5).
pub fn full_status(data: &[u8]) -> Option<Told> {
    let (generation, mut rows) = head(data)?;
    let mut told = Told { generation, ..Told::default() };
    while let Some((row, rest)) = rows.split_first_chunk::<DESCRIPTOR>() {
        let id_bytes = usize::try_from(number(row.get(20..24)?)).ok()?;
        let Some((id, rest)) = rest.split_at_checked(id_bytes) else { break };
        let holder = row[12] & 1 != 0;
        if holder {
            told.reservation = PersistentKind::from_ordinal(row[13] & 0x0f);
        }
        // Another transport's, perhaps.
        let port = transport_id::decode(id, 0).ok().map(|(id, _)| (id.name, id.isid));
        told.registrations.push(Registered {
            key: number(row.get(..8)?),
            holder,
            all_ports: row[12] & 2 != 0,
            port,
        });
        rows = rest;
    }
    Some(told)
}

/// READ KEYS and READ RESERVATION (SPC-4 6.15.2, 6.15.3), of a unit that does not know READ FULL STATUS. Of several with
/// the holder's key, each may be the holder, and is taken for it.
pub fn keys_and_reservation(keys: &[u8], reservation: &[u8]) -> Option<Told> {
    let (generation, keys) = head(keys)?;
    let (_, held) = head(reservation)?;
    let held =
        held.first_chunk::<16>().map(|row| (number(&row[..8]), PersistentKind::from_ordinal(row[13] & 0x0f)));
    let (holders_key, kind) = held.map_or((None, None), |(key, kind)| (Some(key), kind));
    let all = kind.is_some_and(PersistentKind::all_hold);
    let registered = |key: &[u8; 8]| {
        let key = u64::from_be_bytes(*key);
        Registered { key, holder: all || holders_key == Some(key), all_ports: false, port: None }
    };
    let registrations = keys.as_chunks::<8>().0.iter().map(registered).collect();
    Some(Told { generation, reservation: kind, registrations })
}

/// PRGENERATION, and as much of the rest as there is of what ADDITIONAL LENGTH announces.
fn head(data: &[u8]) -> Option<(u32, &[u8])> {
    let (head, rest) = data.split_first_chunk::<HEAD>()?;
    let (generation, length) = head.split_at(4);
    let length = usize::try_from(number(length)).ok()?;
    Some((u32::try_from(number(generation)).ok()?, rest.get(..length).unwrap_or(rest)))
}

/// Big-endian, at most 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn descriptor(key: u64, flags: u8, kind: u8, id: &[u8]) -> Vec<u8> {
        let mut row = key.to_be_bytes().to_vec();
        row.extend_from_slice(&[0, 0, 0, 0, flags, kind, 0, 0, 0, 0, 0, 1]);
        row.extend_from_slice(&(id.len() as u32).to_be_bytes());
        row.extend_from_slice(id);
        row
    }

    fn listed(rows: &[u8]) -> Vec<u8> {
        [&7u32.to_be_bytes()[..], &(rows.len() as u32).to_be_bytes(), rows].concat()
    }

    #[test]
    fn full_status_names_who_registered_and_who_holds() {
        let one = transport_id::encode("iqn.a", 0x4001_3700_0001);
        let rows =
            [descriptor(1, 2, 0, &one), descriptor(2, 1, 5, b"sas, say"), descriptor(3, 0, 0, &[])].concat();
        let told = full_status(&listed(&rows)).expect("it is in order");
        let registered = |key, holder, all_ports, port| Registered { key, holder, all_ports, port };
        let kind = PersistentKind::WriteExclusiveRegistrants;
        assert_eq!((told.generation, told.reservation), (7, Some(kind)));
        let port = Some(("iqn.a".to_owned(), Some(0x4001_3700_0001)));
        let all = [
            registered(1, false, true, port),
            registered(2, true, false, None),
            registered(3, false, false, None),
        ];
        assert_eq!(told.registrations, all);
        // Cut off: what is whole counts.
        let cut = full_status(&listed(&rows)[..8 + 24 + one.len() + 30]).expect("in order as far as it goes");
        assert_eq!(cut.registrations, all[..1]);
        assert_eq!(full_status(&[0; 7]), None);
    }

    #[test]
    fn keys_tell_the_holder_by_its_key() {
        let keys = [[0, 0, 0, 0, 0, 0, 0, 9], [0, 0, 0, 0, 0, 0, 0, 4]].concat();
        let held = |key: u64, kind| [&key.to_be_bytes()[..], &[0, 0, 0, 0, 0, kind, 0, 0]].concat();
        let holders = |reservation: &[u8]| {
            let told = keys_and_reservation(&listed(&keys), &listed(reservation)).expect("in order");
            (told.reservation, told.registrations.iter().map(|one| one.holder).collect::<Vec<_>>())
        };
        assert_eq!(holders(&[]), (None, vec![false, false]));
        assert_eq!(holders(&held(4, 3)), (Some(PersistentKind::ExclusiveAccess), vec![false, true]));
        assert_eq!(holders(&held(0, 7)), (Some(PersistentKind::WriteExclusiveAll), vec![true, true]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), length in prop::option::of(0u32..250)) {
            let mut bytes = bytes;
            if let (Some(length), Some(field)) = (length, bytes.get_mut(4..8)) {
                field.copy_from_slice(&length.to_be_bytes());
            }
            if let Some(told) = full_status(&bytes) {
                prop_assert!(told.registrations.len() * DESCRIPTOR <= bytes.len());
            }
            if let Some(told) = keys_and_reservation(&bytes, &bytes) {
                prop_assert!(told.registrations.len() * 8 <= bytes.len());
            }
        }
    }
}
