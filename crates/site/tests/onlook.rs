//! Looks at units that keep the reservations, for operators: each ends, and shows what the unit says now.

mod back_to_back;

use back_to_back::{Lane, MS, Pair, SECOND, nexus, register};
use biplex_engine::SiteId;
use biplex_engine::reserve::{PersistentKind, Request};
use biplex_front::Command;
use biplex_site::{Mode, Rules, UnitSight, VolumeLocks};

fn pair() -> Pair {
    Pair::paired(Rules { disk: true, ..Rules::of(Mode::Sync) })
}

fn seen(pair: &Pair) -> (VolumeLocks, UnitSight) {
    let mut locks = pair.places[0].site.locks(None).expect("all volumes");
    let volume = locks.volumes.remove(0);
    let sight = volume.unit.clone().expect("a unit keeps them");
    (volume, sight)
}

fn look(pair: &mut Pair) {
    let now = pair.at();
    pair.places[0].site.look(now, None);
    assert!(pair.places[0].site.looking());
    pair.tick(1);
}

#[test]
fn a_silent_unit_is_given_up_and_what_it_says_late_counts_for_no_other_look() {
    let mut pair = pair();
    assert_eq!(seen(&pair).1.trouble.as_deref(), Some("it was not asked"));
    look(&mut pair);
    let begun = pair.now;
    while pair.places[0].site.looking() {
        assert!(pair.now < begun + 6 * SECOND, "no look takes so long");
        pair.tick(100 * MS);
        while let Some(lane) = pair.lanes().into_iter().find(|lane| matches!(lane, Lane::Peer(_))) {
            pair.deliver(lane);
        }
    }
    let trouble = seen(&pair).1.trouble;
    assert!(trouble.as_deref().is_some_and(|why| why.contains("5 s")), "{trouble:?}");
    // Two are asked now, of which the first was given up.
    look(&mut pair);
    pair.pass(SECOND);
    assert!(!pair.places[0].site.looking());
    let (volume, sight) = seen(&pair);
    assert_eq!((sight.trouble, sight.by_stranger), (None, false));
    assert!(volume.rows.is_empty() && volume.registrations.is_empty());
}

#[test]
fn what_the_unit_says_now_is_shown_and_not_what_was_granted_once() {
    let mut pair = pair();
    let (one, two) = (nexus(SiteId::A, 1), nexus(SiteId::B, 2));
    let asked = |pair: &mut Pair, host, request| {
        pair.submit(host, Command::Control { request });
        pair.pass(SECOND / 10);
        look(pair);
        pair.pass(SECOND / 10);
        let (volume, sight) = seen(pair);
        assert_eq!(sight.trouble, None);
        let rows = volume.rows.iter().map(|row| (row.kind.clone(), row.site.clone(), row.time > 0));
        let holders = volume.registrations.iter().filter(|one| one.holder).map(|one| one.key.clone());
        (rows.collect::<Vec<_>>(), holders.collect::<Vec<_>>(), volume.registrations.len())
    };
    let nothing = (Vec::new(), Vec::new(), 0);
    let reserve = Request::Reserve { third_party: None, extents: None };
    let held = ("unit".to_owned(), "b".to_owned(), true);
    assert_eq!(asked(&mut pair, two, reserve), (vec![held], Vec::new(), 0));
    let release = Request::Release { third_party: None, extents: None };
    assert_eq!(asked(&mut pair, two, release), nothing);
    asked(&mut pair, one, register(1));
    assert_eq!(asked(&mut pair, two, register(2)), (Vec::new(), Vec::new(), 2));
    let kind = PersistentKind::WriteExclusive;
    let held = |site: &str| ("persistent, write exclusive".to_owned(), site.to_owned(), true);
    let key = |key: u64| format!("{key:016x}");
    let reserve = Request::ReservePersistent { key: 1, kind };
    assert_eq!(asked(&mut pair, one, reserve), (vec![held("a")], vec![key(1)], 2));
    let preempt = Request::Preempt { key: 2, victim: 1, kind, abort: false };
    assert_eq!(asked(&mut pair, two, preempt), (vec![held("b")], vec![key(2)], 1));
    assert_eq!(asked(&mut pair, two, Request::Clear { key: 2 }), nothing);
}
