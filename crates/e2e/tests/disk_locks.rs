//! Promise (E5.1, E5.2): with `reservations = "disk"` the SCSI units that are the stores hold hosts' reservations, each
//! site's its own, one nexus per host; what the units say admits every command, at both sites. Shown on Debian's tgt
//! and on our own target.

use biplex_e2e::host::{BLOCK, HostError, Identity};
use biplex_e2e::{Host, Pair, Settings, SiteName, Tgt, wait_until};
use biplex_engine::HostId;
use biplex_front::iscsi::initiator::{
    Payload, extent_element, persistent_parameters, persistent_reserve_out, read16, release6,
    release6_extents, reserve6, reserve6_extents, reserve10, test_unit_ready, write16,
};
use biplex_site::{Locks, MapRun};
use std::time::Duration;

const BYTES: u64 = 32 << 20;
const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const REGISTER_AND_IGNORE: u8 = 6;
const REGISTER_AND_MOVE: u8 = 7;
/// Write exclusive, registrants only.
const WERO: u8 = 5;
/// Exclusive access.
const EA: u8 = 3;
const CONFLICT: HostError = HostError::Status { status: 0x18, sense: (0, 0, 0) };

fn settings() -> Settings {
    Settings { volume: "32MiB", hold_time: "300ms", hold_every: "500ms", ..Settings::default() }
}

fn keep_on_disk(pair: &Pair, site: usize, url: &str) {
    let store = format!("store = \"{url}\"\nreservations = \"disk\"");
    pair.sites[site].edit_config(|text| text.replace("store = \"vol0.img\"", &store));
}

fn on_tgt() -> Option<(Pair, [Tgt; 2])> {
    if !Tgt::is_installed() {
        eprintln!("SKIPPED: tgt is not installed");
        return None;
    }
    let mut pair = Pair::make(settings());
    let tgts = ["a", "b"].map(|name| Tgt::start(pair.directory(), name, BYTES));
    tgts.iter().enumerate().for_each(|(site, tgt)| keep_on_disk(&pair, site, &tgt.url()));
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    Some((pair, tgts))
}

/// Two pairs of ours are the disks.
fn on_own_targets() -> (Pair, [Pair; 2]) {
    let disks = [Pair::start(settings()), Pair::start(settings())];
    let mut pair = Pair::make(settings());
    disks.iter().enumerate().for_each(|(site, disk)| keep_on_disk(&pair, site, &disk.sites[0].url("")));
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    (pair, disks)
}

fn write_once(host: &mut Host, lba: u64, value: u8) -> Result<(), HostError> {
    retried(|| host.once(write16(lba, 1, false), &[value; BLOCK]).map(drop))
}

fn read_once(host: &mut Host, lba: u64) -> Result<u8, HostError> {
    retried(|| host.command(read16(lba, 1, false), Payload::In(BLOCK as u32)).map(|data| data[0]))
}

/// BUSY is an answer that a host repeats: the command met a request that was with the unit.
fn retried<T>(mut ask: impl FnMut() -> Result<T, HostError>) -> Result<T, HostError> {
    for _ in 0..200 {
        match ask() {
            Err(HostError::Status { status: 8, .. }) => std::thread::sleep(Duration::from_millis(5)),
            other => return other,
        }
    }
    ask()
}

/// Takes the attentions that wait for a host, if any.
fn hear(host: &mut Host) -> Vec<(u8, u8)> {
    let mut heard = Vec::new();
    loop {
        match host.once(test_unit_ready(), &[]) {
            Err(HostError::Status { status: 2, sense: (6, code, qualifier) }) => {
                heard.push((code, qualifier));
            }
            _ => return heard,
        }
    }
}

/// Both hosts are logged in and have nothing to hear.
fn hosts(pair: &Pair) -> [Host; 2] {
    let mut hosts = [Host::at(&pair.sites[0], "one"), Host::at(&pair.sites[1], "two")];
    hosts.iter_mut().for_each(|host| drop(hear(host)));
    hosts
}

/// What `biplex locks` shows at both sites alike, each of its own unit: the reservation table without its times, and who is
/// registered with which key, the holder marked.
fn shown(pair: &Pair) -> (Vec<String>, Vec<String>) {
    let [at_a, at_b] = [&pair.sites[0], &pair.sites[1]].map(|site| {
        let text = site.ask(&["locks", "--json"]).expect_good();
        let locks: Locks = serde_json::from_str(&text).expect("locks");
        let [volume] = locks.volumes.as_slice() else { panic!("one volume: {text}") };
        let unit = volume.unit.as_ref().expect("a unit keeps them");
        assert_eq!((&unit.trouble, unit.by_stranger), (&None, false), "{text}");
        let rows = volume.rows.iter().map(|row| {
            assert!(row.time > 0, "since when: {text}");
            let whom = row.third_party.as_deref().unwrap_or("itself");
            let (end, host, site, kind) = (row.start + row.blocks, short(&row.host), &row.site, &row.kind);
            format!("{}..{end} {kind}, {host} at {site} for {}", row.start, short(whom))
        });
        let registered = volume.registrations.iter().map(|one| {
            let mark = if one.holder { "*" } else { "" };
            format!("{} at {} {}{mark}", short(&one.host), one.site, one.key.trim_start_matches('0'))
        });
        let mut registered: Vec<String> = registered.collect();
        registered.sort();
        (rows.collect::<Vec<_>>(), registered)
    });
    assert_eq!(at_a, at_b, "both sites show the same");
    at_a
}

/// A host's name without what all have in common.
fn short(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

/// Whole-unit reservations of SCSI-2, from both sites.
fn judge_scsi2(pair: &Pair) {
    let [mut one, mut two] = hosts(pair);
    let none = (Vec::new(), Vec::new());
    assert_eq!(shown(pair), none);
    one.once(reserve6(), &[]).expect("free");
    assert_eq!(shown(pair).0, ["0..65536 unit, one at a for itself"]);
    for site in &pair.sites {
        let text = site.ask(&["locks", "--explain", "77"]).expect_good();
        assert!(text.contains("through site a") && text.contains(":one since"), "{text}");
    }
    one.once(reserve6(), &[]).expect("the holder may again");
    assert_eq!(write_once(&mut one, 0, 1), Ok(()));
    assert_eq!(write_once(&mut two, 0, 2), Err(CONFLICT));
    assert_eq!(read_once(&mut two, 0), Err(CONFLICT));
    assert_eq!(two.once(test_unit_ready(), &[]).map(drop), Err(CONFLICT));
    assert_eq!(two.once(reserve6(), &[]).map(drop), Err(CONFLICT));
    assert_eq!(write_once(&mut two, 0, 2), Err(CONFLICT), "another's failed reserve changed nothing");
    one.once(release6(), &[]).expect("its own");
    assert_eq!(shown(pair), none);
    assert_eq!(write_once(&mut two, 0, 2), Ok(()));
    assert_eq!(read_once(&mut one, 0), Ok(2));
    // Gone with the session that reserved.
    one.once(reserve6(), &[]).expect("free");
    assert_eq!(write_once(&mut two, 0, 3), Err(CONFLICT));
    one.logout();
    assert_eq!(write_once(&mut two, 0, 3), Ok(()), "released before the logout was answered");
    two.once(reserve6(), &[]).expect("free");
    two.vanish();
    let mut one = Host::at(&pair.sites[0], "one");
    wait_until("the release of a host that is gone", || {
        hear(&mut one);
        write_once(&mut one, 0, 4).map_err(|error| format!("{error:?}"))
    });
    one.logout();
}

/// Extents and third parties, from both sites.
fn judge_parts(pair: &Pair) {
    let [mut one, mut two] = hosts(pair);
    let mut three = Host::at(&pair.sites[1], "three");
    hear(&mut three);
    // Exclusive access to 50 blocks, read shared to 10 more, under one id.
    let list = [extent_element(3, 100, 50), extent_element(0, 200, 10)].concat();
    one.once(reserve10(false, Some(7), false, 16), &list).expect("free");
    two.once(reserve6_extents(7, 8), &extent_element(3, 150, 50)).expect("free");
    let taken = two.once(reserve6_extents(8, 8), &extent_element(1, 149, 1)).map(drop);
    assert_eq!(taken, Err(CONFLICT));
    assert_eq!(three.once(reserve6(), &[]).map(drop), Err(CONFLICT));
    let both: &[u8] = &[1; 2 * BLOCK];
    for (lba, of_one, of_two, reads) in [
        (99, true, true, true),
        (149, true, false, false),
        (150, false, true, false),
        (205, false, false, true),
    ] {
        for (host, may) in [(&mut one, of_one), (&mut two, of_two), (&mut three, lba == 99)] {
            let expected = if may { Ok(()) } else { Err(CONFLICT) };
            assert_eq!(write_once(host, lba, lba as u8), expected, "{lba}");
            let expected = if may || reads { Ok(()) } else { Err(CONFLICT) };
            assert_eq!(read_once(host, lba).map(drop), expected, "{lba}");
        }
    }
    let extents = [
        "100..150 exclusive access, one at a for itself",
        "200..210 read shared, one at a for itself",
        "150..200 exclusive access, two at b for itself",
    ];
    let mut rows = shown(pair).0;
    rows.sort_by_key(|row| !row.contains("one"));
    assert_eq!(rows, extents);
    for site in &pair.sites {
        let text = site.ask(&["map", "vol0", "--json"]).expect_good();
        let runs: Vec<MapRun> = serde_json::from_str(&text).expect("a map");
        let reserved: u64 = runs.iter().filter(|run| run.state >= 2).map(|run| run.blocks).sum();
        assert_eq!(reserved, 110, "{text}");
    }
    // A write that spans what two hosts hold is neither's.
    for host in [&mut one, &mut two] {
        let spans = retried(|| host.once(write16(149, 2, false), both).map(drop));
        assert_eq!(spans, Err(CONFLICT));
    }
    wait_destaged(pair);
    assert_eq!(read_once(&mut one, 149), Ok(149));
    assert_eq!(read_once(&mut two, 150), Ok(150));
    one.once(release6_extents(7), &[]).expect("its own");
    two.logout();
    for lba in [149, 150, 205] {
        assert_eq!(write_once(&mut three, lba, 3), Ok(()), "{lba}: released");
    }
    // The unit, for a host that comes later.
    let name = Identity::named("guest").name;
    let guest = HostId::of_name(&name).0.to_be_bytes();
    one.once(reserve10(false, None, true, 8), &guest).expect("free");
    assert_eq!(write_once(&mut one, 0, 1), Err(CONFLICT), "it is not for who asked");
    // No site has heard its name yet.
    let third_party = HostId::of_name(&name);
    assert_eq!(shown(pair).0, [format!("0..65536 unit, one at a for {third_party}")]);
    assert_eq!(write_once(&mut three, 0, 1), Err(CONFLICT));
    for site in &pair.sites {
        let mut guest = Host::at(site, "guest");
        hear(&mut guest);
        assert_eq!(write_once(&mut guest, 0, 5), Ok(()));
        guest.once(release6(), &[]).expect("of no effect");
        let text = site.ask(&["locks"]).expect_good();
        assert_eq!(text.matches("one").count(), 1, "a row, whoever is there: {text}");
        assert_eq!(write_once(&mut three, 0, 1), Err(CONFLICT));
        guest.logout();
    }
    wait_destaged(pair);
    one.once(reserve10(true, None, true, 8), &guest).expect("its own");
    assert_eq!(read_once(&mut three, 0), Ok(5));
    one.logout();
}

/// A host's initiator port as a host spells it (SPC-4 7.6.4.6).
fn transport_id(name: &str) -> Vec<u8> {
    let mut text = format!("{},i,0x800000000001\0", Identity::named(name).name).into_bytes();
    text.resize(text.len().next_multiple_of(4), 0);
    [&[0x45, 0, 0, text.len() as u8], &text[..]].concat()
}

fn persistent_out(host: &mut Host, action: u8, list: &[u8]) -> Result<(), HostError> {
    let mut cdb = persistent_reserve_out(action, 0);
    cdb[5..9].copy_from_slice(&(list.len() as u32).to_be_bytes());
    host.once(cdb, list).map(drop)
}

/// Registering another host along, and moving a reservation to the other site.
fn judge_ports(pair: &Pair) {
    let [mut one, mut two] = hosts(pair);
    let mut three = Host::at(&pair.sites[0], "three");
    hear(&mut three);
    let mut list = persistent_parameters(0, 0x11, false).to_vec();
    list[20] |= 0x08; // SPEC_I_PT
    let id = transport_id("three");
    list.extend_from_slice(&(id.len() as u32).to_be_bytes());
    persistent_out(&mut one, REGISTER, &[list, id].concat()).expect("register");
    assert_eq!(two.keys().1, [0x11, 0x11]);
    one.persistent(RESERVE, WERO, 0x11, 0, false).expect("reserve");
    assert_eq!(write_once(&mut three, 8, 3), Ok(()));
    assert_eq!(write_once(&mut two, 8, 2), Err(CONFLICT));
    // To host two, at the port of site b, and host one leaves.
    let id = transport_id("two");
    let mut list = persistent_parameters(0x11, 0x22, false).to_vec();
    list[17] = 0x02; // UNREG
    list[18..20].copy_from_slice(&257u16.to_be_bytes());
    list[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
    persistent_out(&mut one, REGISTER_AND_MOVE, &[list, id].concat()).expect("move");
    assert_eq!(three.reservation(), Some((0x22, WERO)));
    assert_eq!(write_once(&mut two, 8, 2), Ok(()));
    assert_eq!(write_once(&mut one, 8, 1), Err(CONFLICT));
    two.persistent(CLEAR, 0, 0x22, 0, false).expect("clear");
    hear(&mut three);
    assert_eq!(write_once(&mut one, 8, 1), Ok(()));
    one.logout();
}

/// What a unit would not know is refused, and where.
fn judge_no_parts(pair: &Pair) {
    let [mut one, mut two] = hosts(pair);
    let refused = Err(HostError::Status { status: 2, sense: (5, 0x24, 0) });
    let list = extent_element(1, 100, 50);
    assert_eq!(one.once(reserve6_extents(7, 8), &list).map(drop), refused);
    assert_eq!(one.once(reserve10(false, Some(7), false, 8), &list).map(drop), refused);
    assert_eq!(one.once(reserve10(false, None, true, 8), &[1; 8]).map(drop), refused);
    assert_eq!(one.once(release6_extents(7), &[]).map(drop), refused);
    assert_eq!(write_once(&mut two, 100, 2), Ok(()), "nothing is reserved");
    one.logout();
}

/// Persistent reservations, from both sites.
fn judge_persistent(pair: &Pair) {
    let [mut one, mut two] = hosts(pair);
    let mut stranger = Host::at(&pair.sites[1], "stranger");
    hear(&mut stranger);
    one.persistent(REGISTER_AND_IGNORE, 0, 0, 0x11, false).expect("register");
    two.persistent(REGISTER, 0, 0, 0x22, false).expect("register");
    assert_eq!(two.persistent(REGISTER, 0, 0, 0x33, false).map(drop), Err(CONFLICT), "the wrong key");
    assert_eq!(shown(pair), (Vec::new(), vec!["one at a 11".to_owned(), "two at b 22".to_owned()]));
    one.persistent(RESERVE, WERO, 0x11, 0, false).expect("reserve");
    let row = "0..65536 persistent, write exclusive, registrants only".to_owned();
    let held =
        (vec![row + ", one at a for itself"], vec!["one at a 11*".to_owned(), "two at b 22".to_owned()]);
    assert_eq!(shown(pair), held);
    assert_eq!(two.persistent(RESERVE, WERO, 0x22, 0, false).map(drop), Err(CONFLICT));
    for host in [&mut one, &mut two, &mut stranger] {
        let mut keys = host.keys().1;
        keys.sort_unstable();
        assert_eq!(keys, [0x11, 0x22]);
        assert_eq!(host.reservation(), Some((0x11, WERO)));
    }
    assert_eq!(write_once(&mut two, 8, 2), Ok(()), "registrants may write under this type");
    assert_eq!(write_once(&mut stranger, 8, 9), Err(CONFLICT));
    assert_eq!(read_once(&mut stranger, 8), Ok(2));
    // Preempted, told, and out.
    two.persistent(PREEMPT, WERO, 0x22, 0x11, false).expect("preempt");
    assert_eq!(two.reservation(), Some((0x22, WERO)));
    assert_eq!(shown(pair).1, ["two at b 22*"], "who was preempted is no registrant any more");
    wait_until("the preempted host is out", || match write_once(&mut one, 8, 1) {
        Err(CONFLICT) => Ok(()),
        Err(HostError::Status { status: 2, sense: (6, ..) }) => Err("it is told first".to_owned()),
        other => panic!("it was preempted: {other:?}"),
    });
    assert_eq!(read_once(&mut one, 8), Ok(2));
    two.persistent(RELEASE, WERO, 0x22, 0, false).expect("release");
    wait_until("nobody is kept out", || {
        write_once(&mut stranger, 8, 5).map_err(|error| format!("{error:?}"))
    });
    // Exclusive access: data moves to the store through the holder's own nexus.
    two.persistent(RESERVE, EA, 0x22, 0, false).expect("reserve");
    assert_eq!(read_once(&mut stranger, 8), Err(CONFLICT));
    assert_eq!(write_once(&mut two, 16, 7), Ok(()));
    wait_destaged(pair);
    assert_eq!(read_once(&mut two, 16), Ok(7), "read back from the store");
    two.persistent(CLEAR, 0, 0x22, 0, false).expect("clear");
    assert_eq!(shown(pair), (Vec::new(), Vec::new()));
    wait_until("nobody is kept out", || {
        hear(&mut stranger);
        write_once(&mut stranger, 8, 5).map_err(|error| format!("{error:?}"))
    });
}

fn wait_destaged(pair: &Pair) {
    for site in &pair.sites {
        wait_until("the destage of all that is held", || {
            let status = site.status()?;
            let held = status.volumes.iter().any(|volume| volume.records > 0);
            if held { Err(format!("{status:?}")) } else { Ok(()) }
        });
    }
}

/// FIG. 22/23, and reserves at the same moment.
fn judge_races(pair: &Pair, rounds: u32) {
    let mut hosts = hosts(pair);
    hosts[0].once(reserve6(), &[]).expect("free");
    for round in 0..rounds {
        let (holder, taker) = ((round % 2) as usize, 1 - (round % 2) as usize);
        let release = hosts[holder].submit(release6(), Payload::None);
        hosts[holder].send().expect("sent");
        std::thread::sleep(Duration::from_micros(2_000 + u64::from(round % 29) * 200));
        let reserved = hosts[taker].once(reserve6(), &[]).map(drop);
        assert_eq!(reserved, Ok(()), "round {round}");
        let done = hosts[holder].next_done(Duration::from_secs(5)).expect("an answer");
        assert_eq!((done.tag, done.result.map(drop)), (release, Ok(())));
    }
    hosts[(rounds % 2) as usize].once(release6(), &[]).expect("its own");
    for round in 0..rounds {
        let tags = hosts.each_mut().map(|host| {
            let tag = host.submit(reserve6(), Payload::None);
            host.send().expect("sent");
            tag
        });
        let results = [0, 1].map(|at: usize| {
            let done = hosts[at].next_done(Duration::from_secs(5)).expect("an answer");
            assert_eq!(done.tag, tags[at]);
            done.result.map(drop)
        });
        let winner = match results {
            [Ok(()), Err(CONFLICT)] => 0,
            [Err(CONFLICT), Ok(())] => 1,
            other => panic!("round {round}: {other:?}"),
        };
        assert_eq!(write_once(&mut hosts[1 - winner], 0, 1), Err(CONFLICT));
        assert_eq!(write_once(&mut hosts[winner], 0, 1), Ok(()));
        hosts[winner].once(release6(), &[]).expect("its own");
    }
}

fn judge_calm(pair: &Pair) {
    for site in &pair.sites {
        assert_eq!(site.status().expect("a status").alarms, Vec::<String>::new());
    }
}

#[test]
fn tgt_units_hold_the_reservations_of_hosts_at_both_sites() {
    let Some((mut pair, tgts)) = on_tgt() else { return };
    judge_scsi2(&pair);
    judge_persistent(&pair);
    judge_no_parts(&pair);
    judge_races(&pair, 40);
    // It is the unit that holds it: whoever comes to it past the pair is kept out, too.
    let [mut one, _two] = hosts(&pair);
    one.once(reserve6(), &[]).expect("free");
    for tgt in &tgts {
        let mut past =
            Host::login_to(tgt.portal, &Identity::named("past"), &tgt.target(), 1).expect("logged in");
        hear(&mut past);
        assert_eq!(past.once(reserve6(), &[]).map(drop), Err(CONFLICT));
    }
    one.once(release6(), &[]).expect("its own");
    // And who reserves it past the pair is seen.
    let mut past =
        Host::login_to(tgts[0].portal, &Identity::named("past"), &tgts[0].target(), 1).expect("logged in");
    hear(&mut past);
    past.once(reserve6(), &[]).expect("free");
    let text = pair.sites[0].ask(&["locks"]).expect_good();
    assert!(text.contains("not one of the pair's hosts"), "{text}");
    let text = pair.sites[0].ask(&["locks", "--explain", "5"]).expect_good();
    assert!(text.contains("state 2, reserved") && text.contains("not one of the pair's hosts"), "{text}");
    let text = pair.sites[1].ask(&["locks"]).expect_good();
    assert!(text.contains("nothing is reserved"), "site b's unit is another: {text}");
    past.once(release6(), &[]).expect("its own");
    judge_calm(&pair);
    pair.stop();
}

#[test]
fn our_own_targets_hold_the_reservations_of_hosts_at_both_sites() {
    let (mut pair, mut disks) = on_own_targets();
    judge_scsi2(&pair);
    judge_parts(&pair);
    judge_persistent(&pair);
    judge_ports(&pair);
    judge_races(&pair, 40);
    judge_calm(&pair);
    pair.stop();
    disks.iter_mut().for_each(Pair::stop);
}

#[test]
fn a_unit_that_dies_releases_at_both_sites_and_grants_nothing_meanwhile() {
    let Some((mut pair, mut tgts)) = on_tgt() else { return };
    let [mut one, mut two] = hosts(&pair);
    one.once(reserve6(), &[]).expect("free");
    assert_eq!(write_once(&mut two, 0, 2), Err(CONFLICT));
    tgts[1].kill();
    let text = pair.sites[1].ask(&["locks"]).expect_good();
    assert!(text.contains("did not say all of them now"), "{text}");
    // Site b cannot ask its unit: nothing is let in there, and nothing is granted.
    match write_once(&mut two, 0, 2) {
        Err(CONFLICT | HostError::Status { status: 2, sense: (2 | 6, ..) }) => {}
        other => panic!("without the unit: {other:?}"),
    }
    tgts[1].restart();
    wait_until("the reservation went with the unit, at both sites", || {
        hear(&mut two);
        write_once(&mut two, 0, 3).map_err(|error| format!("{error:?}"))
    });
    wait_until("its holder is told", || {
        let heard = hear(&mut one);
        if heard.contains(&(0x29, 0x03)) { Ok(()) } else { Err(format!("{heard:?}")) }
    });
    one.once(reserve6(), &[]).expect("free, and both units stand");
    assert_eq!(write_once(&mut two, 0, 4), Err(CONFLICT));
    pair.stop();
}

/// In step, and what the start of a site releases is released at both: hosts that log in now are not told of it later.
fn wait_started(pair: &mut Pair) {
    pair.wait_paired();
    for site in &pair.sites {
        wait_until("a site's start is executed", || {
            let text = site.ask(&["locks", "--json"]).expect_good();
            let locks: Locks = serde_json::from_str(&text).expect("locks");
            if locks.volumes.iter().any(|volume| volume.waiting) { Err(text) } else { Ok(()) }
        });
    }
}

#[test]
fn a_site_that_restarts_finds_persistent_reservations_at_its_unit() {
    // tgt takes a registrant that comes back in a new session for another one, so it cannot show this.
    let (mut pair, mut disks) = on_own_targets();
    let mut one = Host::at(&pair.sites[0], "one");
    one.persistent(REGISTER_AND_IGNORE, 0, 0, 0x11, false).expect("register");
    one.persistent(RESERVE, EA, 0x11, 0, false).expect("reserve");
    for victim in SiteName::BOTH {
        pair.site_mut(victim).kill();
        pair.site_mut(victim).start();
        wait_started(&mut pair);
        let mut two;
        [one, two] = hosts(&pair);
        assert_eq!(read_once(&mut two, 8), Err(CONFLICT), "after {victim:?}");
        assert_eq!(write_once(&mut one, 8, 3), Ok(()), "the same initiator port is the same registrant");
        assert_eq!(two.keys().1, [0x11]);
        wait_destaged(&pair);
    }
    one.persistent(CLEAR, 0, 0x11, 0, false).expect("clear");
    // Who was fenced off stays so, though all of this is still in the journal of the site that starts again.
    for victim in SiteName::BOTH {
        let mut two;
        [one, two] = hosts(&pair);
        two.persistent(REGISTER_AND_IGNORE, 0, 0, 0x22, false).expect("register");
        one.persistent(REGISTER_AND_IGNORE, 0, 0, 0x11, false).expect("register");
        one.persistent(RESERVE, EA, 0x11, 0, false).expect("reserve");
        two.persistent(PREEMPT, EA, 0x22, 0x11, false).expect("preempt");
        two.persistent(REGISTER, 0, 0x22, 0, false).expect("unregister");
        pair.site_mut(victim).kill();
        pair.site_mut(victim).start();
        wait_started(&mut pair);
        for site in 0..2 {
            let mut host = Host::at(&pair.sites[site], "three");
            hear(&mut host);
            assert_eq!(host.keys().1, [0; 0], "at site {site} after {victim:?}");
            assert_eq!(host.reservation(), None, "at site {site} after {victim:?}");
            assert_eq!(write_once(&mut host, 8, 4), Ok(()));
            host.logout();
        }
    }
    // Extents and third parties end with any site's restart, at both units, and their owner is told.
    for victim in SiteName::BOTH {
        let mut two;
        [one, two] = hosts(&pair);
        let reserve = |host: &mut Host| {
            host.once(reserve6_extents(7, 8), &extent_element(3, 100, 50)).expect("free");
            host.once(reserve10(false, Some(8), true, 16), &[[9; 8], extent_element(1, 200, 5)].concat())
                .expect("free");
        };
        reserve(&mut one);
        assert_eq!(write_once(&mut two, 120, 2), Err(CONFLICT));
        pair.site_mut(victim).kill();
        pair.site_mut(victim).start();
        wait_started(&mut pair);
        let mut two = Host::at(&pair.sites[1], "two");
        wait_until("all is released", || {
            hear(&mut two);
            let wrote = [120, 200].map(|lba| write_once(&mut two, lba, 2));
            if wrote == [Ok(()), Ok(())] { Ok(()) } else { Err(format!("{wrote:?}")) }
        });
        if victim == SiteName::B {
            assert!(hear(&mut one).contains(&(0x29, 0x03)));
        }
        reserve(&mut two);
        two.logout();
    }
    pair.stop();
    disks.iter_mut().for_each(Pair::stop);
}
