//! Promise: an operator can see what a live pair holds and why: the hold table with its seven columns (E1.3), the block
//! state map (E1.6), lag and risk while the line is down, and the journal explained. And held data that does not fit
//! the memory limit is read back from the journal.

use biplex_e2e::pair::biplex;
use biplex_e2e::{Host, Pair, Settings, SiteName};
use biplex_site::{MapRun, TableRow};

fn holding() -> Settings {
    Settings { hold_time: "10m", hold_every: "1s", journal: "128MiB", mode: "async", ..Settings::default() }
}

#[test]
fn the_hold_table_shows_seven_columns_and_the_map_shows_what_is_held() {
    let mut pair = Pair::start(holding());
    let mut a = Host::at(&pair.sites[0], "host-a");
    let mut b = Host::at(&pair.sites[1], "host-b");
    a.write(100, &[1; 20 * 512]);
    pair.wait_converged();
    // Later, and from the other site: splits the first.
    b.write(105, &[2; 5 * 512]);
    b.write(1000, &[3; 512]);
    pair.wait_converged();
    for site in &pair.sites {
        let rows: Vec<TableRow> =
            serde_json::from_str(&site.ask(&["table", "--json"]).expect_good()).expect("rows");
        let shown: Vec<(u64, &str, u64, u64)> =
            rows.iter().map(|row| (row.number, row.site.as_str(), row.start, row.blocks)).collect();
        assert_eq!(shown, [(1, "a", 100, 5), (2, "a", 110, 10), (3, "b", 105, 5), (4, "b", 1000, 1)]);
        assert!(rows.is_sorted_by_key(|row| row.time), "{rows:?}");
        assert_eq!(rows[0].host, rows[1].host);
        assert!(rows[0].host.contains("host-a") && rows[2].host.contains("host-b"), "by name: {rows:?}");
        assert!(rows.iter().all(|row| row.data == "memory" && row.volume == "vol0"), "{rows:?}");
        let table = site.ask(&["table"]).expect_good();
        let header = table.lines().next().expect("a header");
        for column in ["number", "reception time", "host id", "start block", "blocks", "site", "data"] {
            assert!(header.contains(column), "{header}");
        }
        assert_eq!(site.ask(&["table", "--limit", "2"]).expect_good().lines().count(), 3);

        let runs: Vec<MapRun> =
            serde_json::from_str(&site.ask(&["map", "vol0", "--json"]).expect_good()).expect("runs");
        let shown: Vec<(u64, u64, u8)> = runs.iter().map(|run| (run.start, run.blocks, run.state)).collect();
        let last = (32 << 11) - 1001;
        assert_eq!(shown, [(0, 100, 0), (100, 20, 1), (120, 880, 0), (1000, 1, 1), (1001, last, 0)]);
        let map = site.ask(&["map", "vol0"]).expect_good();
        assert!(map.contains("held") && map.contains("on the backing store"), "{map}");
        assert!(!site.ask(&["map", "nothing"]).good());
    }
}

#[test]
fn status_tells_the_lag_and_who_is_logged_in() {
    let mut pair = Pair::start(holding());
    let mut host = Host::at(&pair.sites[0], "host");
    let text = pair.sites[0].ask(&["status"]).expect_good();
    for words in
        ["PAIRED", "up, in step", "round trip", "nothing: the peer has all", "iqn.2026-11.io.biplex.e2e:host"]
    {
        assert!(text.contains(words), "no \"{words}\" in\n{text}");
    }
    pair.line.cut();
    pair.sites[0].wait_status("the line to be down", |status| !status.link.up);
    for turn in 0..10u64 {
        host.write(turn * 8, &[turn as u8; 4096]);
    }
    let status = pair.sites[0].status().expect("a status");
    assert_eq!((status.link.unacked, status.link.unacked_bytes), (10, 10 * 4096));
    assert!(status.link.unacked_age > 0);
    assert_eq!((status.volumes[0].writes, status.volumes[0].written_bytes), (10, 10 * 4096));
    let text = pair.sites[0].ask(&["status"]).expect_good();
    for words in ["WAITING FOR THE LINE", "DOWN", "10 writes", "are not yet at the peer"] {
        assert!(text.contains(words), "no \"{words}\" in\n{text}");
    }
    pair.line.mend();
    pair.wait_converged();
    assert!(pair.sites[0].ask(&["status"]).expect_good().contains("nothing: the peer has all"));
    host.logout();
    pair.sites[0].wait_status("the host to leave", |status| status.hosts.is_empty());
}

#[test]
fn a_live_journal_can_be_inspected() {
    let mut pair = Pair::start(holding());
    Host::at(&pair.sites[0], "host").write(64, &[5; 4096]);
    pair.wait_converged();
    for site in &pair.sites {
        let journal = site.journal().display().to_string();
        let told = biplex(&["inspect", &journal]).expect_good();
        for words in ["vol0", "state      sound", "3 records", "checkpoint", "segment"] {
            assert!(told.contains(words), "no \"{words}\" in\n{told}");
        }
        let told = biplex(&["inspect", "--records", &journal]).expect_good();
        assert!(told.lines().any(|line| line.starts_with("record ")), "{told}");
    }
}

#[test]
fn without_a_daemon_the_tools_say_so() {
    let pair = Pair::make(Settings::default());
    for words in [&["status"][..], &["table"], &["map", "vol0"]] {
        let ended = pair.site(SiteName::A).ask(words);
        assert_eq!(ended.code(), Some(1), "{ended}");
        assert!(ended.said().contains("biplex serve"), "{ended}");
    }
    let nothing = biplex(&["inspect", "/nonexistent/journal"]);
    assert_eq!(nothing.code(), Some(1), "{nothing}");
}

#[test]
fn held_data_beyond_the_memory_limit_is_read_back_from_the_journal() {
    const WRITES: u64 = 256;
    const BLOCKS: u64 = 64;
    for mode in ["sync", "async"] {
        let mut pair = Pair::start(Settings { hold_memory: "1MiB", mode, ..holding() });
        let mut hosts = [0, 1].map(|index| Host::at(&pair.sites[index], "host"));
        let content = |turn: u64| vec![1 + (turn % 251) as u8; (BLOCKS * 512) as usize];
        for turn in 0..WRITES {
            hosts[(turn % 2) as usize].write(turn * BLOCKS, &content(turn));
        }
        pair.wait_converged();
        for (site, host) in pair.sites.iter_mut().zip(&mut hosts) {
            let status = site.wait_status("memory to be within its limit", |s| s.hold_bytes <= s.hold_limit);
            assert_eq!(status.hold_limit, 1 << 20);
            assert_eq!(status.volumes[0].held_blocks, WRITES * BLOCKS, "all is still held");
            let rows: Vec<TableRow> =
                serde_json::from_str(&site.ask(&["table", "--json", "--limit", "1000"]).expect_good())
                    .expect("rows");
            assert!(rows.iter().filter(|row| row.data.starts_with("journal@")).count() > 200, "{rows:?}");
            for turn in 0..WRITES {
                assert!(host.read(turn * BLOCKS, BLOCKS as u32)[..] == content(turn)[..], "write {turn}");
            }
            // Across the seams of records, in the middle of them.
            let data = host.read(BLOCKS / 2, 2 * BLOCKS as u32);
            assert_eq!((data[0], data[data.len() - 1]), (1, 3));
        }
        pair.stop();
    }
}
