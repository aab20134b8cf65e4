//! Promise: an operator sees at either site the same reservations and registrations, the four states of the block state
//! map (E3.2, E3.3) and who holds a block; and a write that a reservation undid (E4.1) is listed at both sites and can
//! be had back from either journal.

use biplex_e2e::host::{BLOCK, HostError};
use biplex_e2e::pair::biplex;
use biplex_e2e::{Direction, Host, Pair, Settings, Site, wait_until};
use biplex_front::iscsi::initiator::{
    Payload, compare_and_write, extent_element, release6, release6_extents, reserve6, reserve6_extents,
    write16,
};
use biplex_site::{DiscardRow, Explanation, LockRow, Locks, MapRun};
use bytes::Bytes;

const CONFLICT: HostError = HostError::Status { status: 0x18, sense: (0, 0, 0) };
const REGISTER_AND_IGNORE: u8 = 6;
const RESERVE: u8 = 1;
/// Write exclusive, registrants only.
const WERO: u8 = 5;
/// Blocks of the volume.
const BLOCKS: u64 = 32 << 11;

fn holding() -> Settings {
    Settings { hold_time: "10m", hold_every: "1s", journal: "128MiB", ..Settings::default() }
}

fn told<T: serde::de::DeserializeOwned>(site: &Site, words: &[&str]) -> T {
    let said = site.ask(&[words, &["--json"][..]].concat()).expect_good();
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error} in {said}"))
}

/// The locks that both sites tell, which must soon be the same and decided, as JSON and as text.
#[track_caller]
fn locks_at_both(pair: &Pair) -> Locks {
    let locks = wait_until("the same locks at both sites", || {
        let [a, b] = pair.sites.each_ref().map(|site| told::<Locks>(site, &["locks"]));
        let decided = a.volumes.iter().all(|volume| !volume.waiting);
        if a == b && decided { Ok(a) } else { Err(format!("{a:?}\n{b:?}")) }
    });
    let [text, other] = pair.sites.each_ref().map(|site| site.ask(&["locks"]).expect_good());
    assert_eq!(text, other);
    locks
}

fn columns(rows: &[LockRow]) -> Vec<(u64, u64, u64, &str, &str)> {
    rows.iter().map(|row| (row.number, row.start, row.blocks, row.kind.as_str(), row.site.as_str())).collect()
}

fn states(site: &Site) -> Vec<(u64, u64, u8)> {
    let runs: Vec<MapRun> = told(site, &["map", "vol0"]);
    runs.iter().map(|run| (run.start, run.blocks, run.state)).collect()
}

#[test]
fn both_sites_tell_the_same_reservations_and_the_map_has_four_states() {
    let mut pair = Pair::start(holding());
    let [mut one, mut two] = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    let free = locks_at_both(&pair);
    assert!(free.volumes.len() == 1 && free.volumes[0].rows.is_empty(), "{free:?}");
    one.write(100, &[1; 20 * BLOCK]);
    let list = [extent_element(1, 110, 50), extent_element(3, 1000, 8)].concat();
    one.once(reserve6_extents(7, 16), &list).expect("free");
    two.once(reserve6_extents(2, 8), &extent_element(3, 2000, 4)).expect("free");
    pair.wait_converged();
    let locks = locks_at_both(&pair);
    let rows = &locks.volumes[0].rows;
    let expected = [
        (1, 110, 50, "write exclusive", "a"),
        (2, 1000, 8, "exclusive access", "a"),
        (3, 2000, 4, "exclusive access", "b"),
    ];
    assert_eq!(columns(rows), expected);
    assert!(rows[0].host.ends_with(":one") && rows[2].host.ends_with(":two"), "by name: {rows:?}");
    assert!(rows[0].time == rows[1].time && rows[1].time < rows[2].time, "{rows:?}");
    assert_eq!((rows[0].id, rows[2].id), (Some(7), Some(2)));
    let map = [
        (0, 100, 0),
        (100, 10, 1),
        (110, 10, 3),
        (120, 40, 2),
        (160, 840, 0),
        (1000, 8, 2),
        (1008, 992, 0),
        (2000, 4, 2),
        (2004, BLOCKS - 2004, 0),
    ];
    for site in &pair.sites {
        assert_eq!(states(site), map);
        let explained: Explanation = told(site, &["locks", "--explain", "115"]);
        assert_eq!((explained.state, explained.rows.as_slice()), (3, &rows[..1]));
        assert!(explained.data.is_some_and(|data| data.host.ends_with(":one") && data.start == 100));
        let text = site.ask(&["locks", "vol0", "--explain", "2003"]).expect_good();
        for words in ["state 2, reserved, on the backing store", ":two since ", "through site b", "row 3"] {
            assert!(text.contains(words), "no \"{words}\" in\n{text}");
        }
        let text = site.ask(&["locks", "--explain", "99"]).expect_good();
        assert!(text.contains("nobody holds it"), "{text}");
        for wrong in [&["locks", "nothing"][..], &["locks", "--explain", "65536"]] {
            assert_eq!(site.ask(wrong).code(), Some(1));
        }
        assert!(site.ask(&["status"]).expect_good().contains("3 extents reserved by"), "in status");
        let journal = site.journal().display().to_string();
        let records = biplex(&["inspect", "--records", &journal]).expect_good();
        assert!(
            records.contains("RESERVE extents, id 7: write exclusive 110+50, exclusive access 1000+8"),
            "{records}"
        );
    }
    one.once(release6_extents(7), &[]).expect("its own");
    two.once(release6_extents(2), &[]).expect("its own");
    one.once(reserve6(), &[]).expect("free");
    pair.wait_converged();
    let locks = locks_at_both(&pair);
    assert_eq!(columns(&locks.volumes[0].rows), [(1, 0, BLOCKS, "unit", "a")], "all of the volume");
    assert_eq!(states(&pair.sites[1]), [(0, 100, 2), (100, 20, 3), (120, BLOCKS - 120, 2)]);
    one.once(release6(), &[]).expect("its own");
}

#[test]
fn both_sites_tell_the_same_registrations() {
    let mut pair = Pair::start(holding());
    let [mut one, mut two] = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    one.persistent(REGISTER_AND_IGNORE, 0, 0, 0xabcd, true).expect("register");
    two.persistent(REGISTER_AND_IGNORE, 0, 0, 0x1234, true).expect("register");
    two.persistent(RESERVE, WERO, 0x1234, 0, false).expect("reserve");
    pair.wait_converged();
    let before = locks_at_both(&pair);
    let volume = &before.volumes[0];
    let wero = "persistent, write exclusive, registrants only";
    assert_eq!(columns(&volume.rows), [(1, 0, BLOCKS, wero, "b")]);
    assert_eq!((volume.generation, volume.aptpl, volume.reservation.as_deref()), (2, true, Some(wero)));
    let mut shown: Vec<(&str, &str, bool)> =
        volume.registrations.iter().map(|row| (row.key.as_str(), row.site.as_str(), row.holder)).collect();
    shown.sort_unstable();
    assert_eq!(shown, [("0000000000001234", "b", true), ("000000000000abcd", "a", false)]);
    let text = pair.sites[0].ask(&["locks"]).expect_good();
    assert!(text.contains("2 registrations") && text.contains("kept over power loss"), "{text}");
    let status = pair.sites[0].status().expect("a status");
    assert_eq!(status.volumes[0].registrations, 2);
    assert!(status.volumes[0].reserved.starts_with(wero), "{}", status.volumes[0].reserved);
    // The hosts are gone and the site has forgotten their names: registrations have them still.
    one.logout();
    two.logout();
    pair.sites[0].kill();
    pair.sites[0].start();
    pair.wait_converged();
    wait_until("the same after a restart", || {
        let [a, b] = pair.sites.each_ref().map(|site| told::<Locks>(site, &["locks"]));
        let same = a == b && a.volumes[0].rows == before.volumes[0].rows;
        if same { Ok(()) } else { Err(format!("{a:?}\n{b:?}")) }
    });
}

#[test]
fn an_undone_write_is_listed_at_both_sites_and_can_be_had_back() {
    let rules = "reserve_conflicting_writes = \"discard\"";
    let mut pair = Pair::start(Settings { mode: "async", rules, lease: "10s", wait: "20s", ..holding() });
    let [mut one, mut two] = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    one.write(100, &[1; 8 * BLOCK]);
    pair.wait_converged();
    // What a sends is held back on the line, so b lets a write in though a has stamped the reservation before it.
    pair.line.silence(Direction::AToB);
    let tag =
        one.submit(reserve6_extents(7, 8), Payload::Out(Bytes::from(extent_element(3, 100, 8).to_vec())));
    one.send().expect("sent");
    wait_until("the reservation to be stamped at a", || {
        let journal = pair.sites[0].journal().display().to_string();
        let records = biplex(&["inspect", "--records", &journal]).expect_good();
        if records.contains("RESERVE extents") { Ok(()) } else { Err(records) }
    });
    let undone = [[2u8; BLOCK], [3; BLOCK]].concat();
    two.once(write16(104, 2, false), &undone).expect("b knows of no reservation");
    pair.line.mend();
    let done = one.next_done(biplex_e2e::PATIENCE).expect("an answer");
    assert_eq!((done.tag, done.result.map(drop)), (tag, Ok(())));
    pair.wait_converged();
    assert_eq!(two.once(write16(104, 1, false), &[4; BLOCK]).map(drop), Err(CONFLICT));
    assert_eq!(one.read(104, 2)[..], [1; 2 * BLOCK], "what was written before shows again");
    let listed = pair.sites.each_ref().map(|site| told::<Vec<DiscardRow>>(site, &["discards"]));
    for (site, rows) in pair.sites.iter().zip(&listed) {
        let [row] = rows.as_slice() else { panic!("one row: {rows:?}") };
        assert!(row.host.ends_with(":two") && row.kept, "{row:?}");
        assert_eq!((row.number, row.start, row.blocks, row.written.1.as_str()), (1, 104, 2, "b"));
        let since = row.reserved.as_ref().expect("the reservation stands");
        assert!(since.1 == "a" && since.0 < row.written.0, "{row:?}");
        assert_eq!((&row.stamp, &row.written), (&listed[0][0].stamp, &listed[0][0].written));
        let text = site.ask(&["discards"]).expect_good();
        assert!(text.contains(&row.stamp) && text.contains("--extract"), "{text}");
        // From the journal of the running site, by the stamp as it is shown and by its parts.
        let journal = site.journal().display().to_string();
        for (name, stamp) in
            [("one", row.stamp.clone()), ("two", format!("{}{}", row.written.0, row.written.1))]
        {
            let out = site.directory.join(name);
            let to = out.display().to_string();
            let said = biplex(&["inspect", &journal, "--extract", &stamp, "--to", &to]).expect_good();
            assert!(said.contains("1024 bytes") && said.contains("blocks 104+2 of volume vol0"), "{said}");
            assert_eq!(std::fs::read(&out).expect("made"), undone);
            let again = biplex(&["inspect", &journal, "--extract", &stamp, "--to", &to]);
            assert!(again.code() == Some(1) && again.said().contains("nothing is written over"), "{again}");
        }
        let nothing = site.directory.join("nothing").display().to_string();
        let gone = biplex(&["inspect", &journal, "--extract", "1a", "--to", &nothing]);
        assert!(gone.code() == Some(1) && gone.said().contains("no write with the stamp"), "{gone}");
    }
}

#[test]
fn compare_and_write_on_an_async_volume_is_served_only_if_the_volume_says_so() {
    for (rules, served) in [("", false), ("compare_and_write = \"allow\"", true)] {
        let pair = Pair::start(Settings { mode: "async", rules, ..Settings::default() });
        let mut host = Host::at(&pair.sites[0], "host");
        if served {
            assert!(host.swap(7, &[0; BLOCK], &[1; BLOCK]));
            assert!(!host.swap(7, &[0; BLOCK], &[2; BLOCK]));
            assert_eq!(host.read(7, 1)[..], [1; BLOCK]);
        } else {
            let data = [[0u8; BLOCK], [1; BLOCK]].concat();
            let refused = host.once(compare_and_write(7, 1), &data).expect_err("refused");
            assert!(matches!(refused, HostError::Status { status: 2, sense: (5, 0x20, 0) }), "{refused:?}");
        }
    }
}
