//! What shares a journal group, and what waits for none.

mod back_to_back;

use back_to_back::{MS, Pair, block, nexus, write};
use biplex_engine::SiteId;
use biplex_front::{Command, Completion};
use biplex_site::{Mode, Rules};

#[test]
fn the_peers_async_writes_share_groups_and_all_others_have_one_at_once() {
    for (mode, shared) in [(Mode::Async, true), (Mode::Flush, false), (Mode::Sync, false)] {
        let mut pair = Pair::paired(Rules::of(mode));
        let before = [pair.places[0].groups, pair.places[1].groups];
        for number in 0..100 {
            assert_eq!(pair.ask(nexus(SiteId::A, 1), write(number, 1)), Some(Completion::Done), "{mode:?}");
            pair.pass(MS / 10);
        }
        pair.pass(5 * MS);
        let [own, peers] = [0, 1].map(|site| pair.places[site].groups - before[site]);
        assert!(own >= 100, "{mode:?}: {own} groups: each write of a host is durable when it is done");
        match shared {
            // 10 ms of writes, 2 ms a group, and a few for what else is going on.
            true => assert!((5..20).contains(&peers), "{mode:?}: {peers} groups at the peer"),
            false => assert!(peers >= 100, "{mode:?}: {peers} groups at the peer"),
        }
        let status = pair.places[0].site.status(pair.at());
        assert_eq!(status.link.unacked, 0, "{mode:?}: all of it is durable at the peer");
    }
}

#[test]
fn a_read_that_meets_what_waits_for_company_does_not_wait_with_it() {
    let mut pair = Pair::paired(Rules::of(Mode::Async));
    assert_eq!(pair.ask(nexus(SiteId::A, 1), write(5, 9)), Some(Completion::Done));
    let read = Command::Read { extent: block(5), fua: false };
    let Some(Completion::Data(data)) = pair.ask(nexus(SiteId::B, 2), read) else {
        panic!("answered at once")
    };
    assert_eq!(data.concat(), [9; 512]);
}
