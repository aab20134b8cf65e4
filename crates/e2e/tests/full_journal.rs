//! Promise (E1.8, "bounded"): a full journal slows hosts down, with BUSY where they would wait too long, and loses
//! nothing; when a cut frees it, they go on. It never grows and never drops anything.

use biplex_e2e::{Host, HostError, Load, Pair, Settings, wait_until};
use biplex_front::iscsi::initiator::{Payload, write16};
use bytes::Bytes;

/// Blocks of one write; 64 KiB.
const BLOCKS: u64 = 128;

fn content(turn: u64) -> Bytes {
    Bytes::from(vec![1 + (turn % 253) as u8; (BLOCKS * 512) as usize])
}

/// Writes until the site says BUSY; gives the number of writes done.
fn fill(host: &mut Host) -> u64 {
    for turn in 0..4000 {
        match host.command(write16(turn * BLOCKS, BLOCKS as u32, false), Payload::Out(content(turn))) {
            Ok(_) => {}
            Err(HostError::Status { status: 0x08, .. }) => return turn,
            Err(error) => panic!("write {turn}: {error:?}"),
        }
    }
    panic!("250 MiB went into a journal of 64 MiB while nothing may be destaged");
}

fn assert_bounded(pair: &Pair) {
    for site in &pair.sites {
        let journal = site.status().expect("a status").journal;
        assert!(journal.used <= journal.bytes, "{journal:?}");
        let bytes = std::fs::metadata(site.journal()).expect("a journal").len();
        assert!(bytes <= 64 << 20, "{bytes}");
    }
}

fn fill_and_drain(mode: &'static str) {
    // Nothing is old enough for a cut until the hosts have met the limit and the line is cut or not: 25 s.
    let settings = Settings {
        mode,
        hold_time: "25s",
        hold_every: "1s",
        volume: "128MiB",
        wait: "2s",
        ..Settings::default()
    };
    let mut pair = Pair::start(settings);
    let mut host = Host::at(&pair.sites[0], "host");
    let done = fill(&mut host);
    assert!(done > 50, "only {done} writes went in");
    let status = pair.sites[0].status().expect("a status");
    assert!(status.journal.full, "{status:?}");
    assert!(pair.sites[0].ask(&["status"]).expect_good().contains("FULL"));
    assert_bounded(&pair);
    // Reads are not slowed.
    assert_eq!(host.read(0, BLOCKS as u32), content(0));
    // The host that retries gets in once a cut has freed some of it, at the latest after hold time and interval.
    for turn in done..done + 50 {
        host.write(turn * BLOCKS, &content(turn));
    }
    assert_bounded(&pair);
    pair.wait_converged();
    for site in &pair.sites {
        let mut host = Host::at(site, "reader");
        for turn in 0..done + 50 {
            assert!(host.read(turn * BLOCKS, BLOCKS as u32) == content(turn), "write {turn}");
        }
    }
    pair.wait_destaged();
    for site in &pair.sites {
        wait_until("room again", || match site.status()?.journal {
            journal if journal.full => Err(format!("{journal:?}")),
            _ => Ok(()),
        });
    }
    pair.stop();
    pair.assert_stores_equal();
}

#[test]
fn a_full_journal_slows_the_hosts_of_a_sync_volume_until_a_cut_frees_it() {
    fill_and_drain("sync");
}

#[test]
fn a_full_journal_slows_the_hosts_of_an_async_volume_until_a_cut_frees_it() {
    fill_and_drain("async");
}

#[test]
fn a_backlog_that_fills_the_journal_while_the_line_is_cut_is_all_there_afterwards() {
    let settings = Settings { mode: "async", volume: "128MiB", wait: "2s", ..Settings::default() };
    let mut pair = Pair::start(settings);
    pair.line.cut();
    for site in &mut pair.sites {
        site.wait_status("the line to be down", |status| !status.link.up);
    }
    let done = fill(&mut Host::at(&pair.sites[0], "host"));
    assert_bounded(&pair);
    // A crash with a full journal loses nothing either.
    pair.sites[0].kill();
    pair.sites[0].start();
    pair.sites[0].wait_answers();
    pair.line.mend();
    pair.wait_converged();
    for site in &pair.sites {
        let mut host = Host::at(site, "reader");
        for turn in 0..done {
            assert!(host.read(turn * BLOCKS, BLOCKS as u32) == content(turn), "write {turn}");
        }
    }
    pair.wait_destaged();
    pair.stop();
    pair.assert_stores_equal();
}

#[test]
fn load_far_beyond_the_journals_size_flows_through_it() {
    let mut pair = Pair::start(Settings { hold_time: "100ms", hold_every: "100ms", ..Settings::default() });
    let running = [0, 1].map(|index| Load::new(index as u64).run(pair.sites[index].iscsi));
    for (index, running) in running.iter().enumerate() {
        wait_until("three journals full of load", || {
            let status = pair.sites[index].status()?;
            let written = status.journal.written;
            if written > 3 * status.journal.bytes && running.acknowledged() > 0 {
                Ok(())
            } else {
                Err(format!("{written} bytes written"))
            }
        });
    }
    let loads = running.map(|running| running.stop());
    assert_bounded(&pair);
    for site in &pair.sites {
        let mut host = Host::at(site, "verifier");
        loads.iter().for_each(|load| load.verify(&mut host, site.name.letter()));
    }
    pair.wait_destaged();
    pair.stop();
    pair.assert_stores_equal();
}
