//! Every form of PERSISTENT RESERVE OUT and IN against exact bytes, and lists of any bytes.

use super::*;
use proptest::prelude::*;

const KEY: u64 = 0x1111_2222_3333_4444;
const OTHER_KEY: u64 = 0x5555_6666_7777_8888;

fn port(site: SiteId) -> PortConfig {
    let (group, relative) = if site == SiteId::A { (1, 1) } else { (2, 257) };
    PortConfig { site, target: "iqn.2026-11.io.biplex:pair1".into(), group, relative }
}

fn nexus(host: &str, isid: u64, site: SiteId) -> Nexus {
    Nexus { host: HostId::of_name(host), isid, site }
}

fn list(flags: u8) -> Vec<u8> {
    let mut list = [KEY.to_be_bytes(), OTHER_KEY.to_be_bytes(), [0; 8]].concat();
    list[20] = flags;
    list
}

fn ask(action: u8, kind: u8, list: &[u8]) -> Result<Request, Sense> {
    let mut cdb = [0x5f, action, kind, 0, 0, 0, 0, 0, 0, 0];
    cdb[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
    ask_as(&cdb, list)
}

fn ask_as(cdb: &[u8], list: &[u8]) -> Result<Request, Sense> {
    let name: Arc<str> = "iqn.a".into();
    let known = |name: &str| if name == "iqn.b" { vec![nexus("iqn.b", 7, SiteId::A)] } else { vec![] };
    let (own, peer) = (port(SiteId::A), port(SiteId::B));
    out(Cdb::new(cdb), list, &Asker { name: &name, known: &known, ports: [&own, &peer] })
}

#[test]
fn every_service_action_is_read() {
    let register = |key, aptpl, all_ports| Request::Register {
        key,
        new_key: OTHER_KEY,
        aptpl,
        all_ports,
        name: "iqn.a".into(),
        also: vec![],
    };
    let kind = PersistentKind::WriteExclusiveRegistrants;
    assert_eq!(ask(0, 0, &list(0x01)), Ok(register(Some(KEY), true, false)));
    assert_eq!(ask(6, 0, &list(0x04)), Ok(register(None, false, true)));
    assert_eq!(ask(1, 5, &list(0)), Ok(Request::ReservePersistent { key: KEY, kind }));
    assert_eq!(ask(2, 5, &list(0)), Ok(Request::ReleasePersistent { key: KEY, kind }));
    assert_eq!(ask(3, 0, &list(0)), Ok(Request::Clear { key: KEY }));
    for (action, abort) in [(4, false), (5, true)] {
        assert_eq!(
            ask(action, 5, &list(0)),
            Ok(Request::Preempt { key: KEY, victim: OTHER_KEY, kind, abort })
        );
    }
}

#[test]
fn wrong_lengths_types_and_scopes_are_refused_where_they_are() {
    let length = Err(Sense::PARAMETER_LIST_LENGTH);
    assert_eq!(ask(0, 0, &[]), length);
    assert_eq!(ask(0, 0, &list(0)[..23]), length);
    assert_eq!(ask(0, 0, &[&list(0)[..], &[0]].concat()), length);
    assert_eq!(ask_as(&[0x5f, 0, 0, 0, 0, 0, 0, 0, 25, 0], &list(0)), length);
    for kind in [0, 2, 4, 9, 15] {
        assert_eq!(ask(1, kind, &list(0)), Err(Sense::field_in_cdb(2, Some(3))), "{kind}");
    }
    assert_eq!(ask(1, 0x15, &list(0)), Err(Sense::field_in_cdb(2, Some(7))));
    assert_eq!(ask(6, 0, &list(0x08)), Err(Sense::field_in_parameters(20, Some(3))));
}

fn with_ids(ids: &[Vec<u8>]) -> Vec<u8> {
    let ids = ids.concat();
    [&list(0x08)[..], &(ids.len() as u32).to_be_bytes(), &ids].concat()
}

#[test]
fn spec_i_pt_names_ports_or_all_known_ports_of_an_initiator() {
    let device = [&[5, 0, 0, 20][..], b"iqn.b", &[0; 15]].concat();
    let ids = [super::transport_id::encode("iqn.c", 9), device.clone()];
    let Ok(Request::Register { also, .. }) = ask(0, 0, &with_ids(&ids)) else { panic!("it is in order") };
    let nexuses: Vec<Nexus> = also.iter().map(|one| one.nexus).collect();
    assert_eq!(nexuses, [nexus("iqn.c", 9, SiteId::A), nexus("iqn.b", 7, SiteId::A)]);
    let unknown = [&[5, 0, 0, 20][..], b"iqn.z", &[0; 15]].concat();
    assert_eq!(ask(0, 0, &with_ids(&[unknown])), Err(Sense::field_in_parameters(28, None)));
    let mut lying = with_ids(&[device]);
    lying[27] = 23;
    assert_eq!(ask(0, 0, &lying), Err(Sense::PARAMETER_LIST_LENGTH));
    let many = vec![super::transport_id::encode("iqn.c", 9); ALSO_MAX + 1];
    assert_eq!(ask(0, 0, &with_ids(&many)), Err(Sense::NO_ROOM_TO_REGISTER));
}

fn move_list(port: u16, ids: &[u8]) -> Vec<u8> {
    let mut list = list(0);
    list[17] = 0x03;
    list[18..20].copy_from_slice(&port.to_be_bytes());
    list[20..24].copy_from_slice(&(ids.len() as u32).to_be_bytes());
    [&list[..], ids].concat()
}

#[test]
fn register_and_move_names_a_port_of_either_site() {
    let id = super::transport_id::encode("iqn.c", 9);
    for (port, site) in [(1, SiteId::A), (257, SiteId::B)] {
        let to = Registrant { nexus: nexus("iqn.c", 9, site), name: "iqn.c".into() };
        let moved = Request::Move { key: KEY, new_key: OTHER_KEY, unregister: true, aptpl: true, to };
        assert_eq!(ask(7, 0, &move_list(port, &id)), Ok(moved));
    }
    assert_eq!(ask(7, 0, &move_list(2, &id)), Err(Sense::field_in_parameters(18, None)));
    let device = [&[5, 0, 0, 20][..], b"iqn.b", &[0; 15]].concat();
    assert_eq!(ask(7, 0, &move_list(1, &device)), Err(Sense::field_in_parameters(24, None)));
    let two = [id.clone(), id].concat();
    assert_eq!(ask(7, 0, &move_list(1, &two)), Err(Sense::field_in_parameters(24, None)));
}

fn view() -> PersistentView {
    let one = |name: &str, site, holder, all_ports| RegistrationView {
        registrant: Registrant { nexus: nexus(name, 0x4001_3700_0001, site), name: name.into() },
        key: KEY,
        holder,
        all_ports,
    };
    PersistentView {
        generation: 0x0102_0304,
        aptpl: true,
        reservation: Some((PersistentKind::WriteExclusive, KEY)),
        registrations: vec![one("iqn.a", SiteId::A, true, false), one("iqn.b", SiteId::B, false, true)],
    }
}

#[test]
fn reservations_and_registrations_are_told_as_the_standard_spells_them() {
    let (own, peer) = (port(SiteId::A), port(SiteId::B));
    let told = |action| parameters(Cdb::new(&[0x5e, action]), &view(), [&own, &peer]);
    let key = KEY.to_be_bytes();
    assert_eq!(told(0), [&[1, 2, 3, 4, 0, 0, 0, 16][..], &key, &key].concat());
    assert_eq!(told(1), [&[1, 2, 3, 4, 0, 0, 0, 16][..], &key, &[0, 0, 0, 0, 0, 1, 0, 0]].concat());
    assert_eq!(told(2), [0, 8, 0x1d, 0x91, 0xea, 0x01, 0, 0]);
    let id = |name: &str| [name.as_bytes(), b",i,0x400137000001\0\0"].concat();
    let first =
        [&key[..], &[0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 28, 0x45, 0, 0, 24], &id("iqn.a")].concat();
    let second =
        [&key[..], &[0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 28, 0x45, 0, 0, 24], &id("iqn.b")].concat();
    assert_eq!(told(3), [&[1, 2, 3, 4, 0, 0, 0, 104][..], &first, &second].concat());
    let none = PersistentView::default();
    assert_eq!(parameters(Cdb::new(&[0x5e, 1]), &none, [&own, &peer]), [0; 8]);
}

proptest! {
    #[test]
    fn any_list_is_read_or_refused(
        action in 0u8..32,
        kind in any::<u8>(),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        flags in prop::option::of(0u8..16),
    ) {
        let mut bytes = bytes;
        if let (Some(flags), Some(byte)) = (flags, bytes.get_mut(20)) {
            *byte = flags;
        }
        if let Ok(request) = ask(action, kind, &bytes) {
            prop_assert!(request.within_limits(), "{request:?}");
        }
    }
}
