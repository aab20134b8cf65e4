//! Promise: `kill -9` of a daemon under load loses no acknowledged write, tears none, and shows none that was never
//! sent. Sync: at both sites, whichever daemon dies, or both. Async: at the writer's own site at once, at the other
//! when the stream has caught up.

use biplex_e2e::load::Running;
use biplex_e2e::{Host, Load, Pair, Settings, SiteName, wait_until};

/// Acknowledged writes before the blow and after the return.
const WRITES_BEFORE: u64 = 300;
const WRITES_AFTER: u64 = 100;

#[track_caller]
fn wait_acknowledged(running: &Running, more: u64, what: &str) {
    let from = running.acknowledged();
    wait_until(what, || {
        let count = running.acknowledged() - from;
        if count >= more { Ok(()) } else { Err(format!("{count} of {more} writes acknowledged")) }
    });
}

fn verify_everywhere(pair: &mut Pair, loads: &[Load; 2]) {
    for site in &pair.sites {
        let place = format!("site {}", site.name.letter());
        let mut host = Host::at(site, "verifier");
        loads.iter().for_each(|load| load.verify(&mut host, &place));
    }
}

/// One round: load at both sites, the victims die, return, and everything is looked at.
fn round(pair: &mut Pair, loads: [Load; 2], victims: &[SiteName]) -> [Load; 2] {
    let [a, b] = loads;
    let running = [a.run(pair.sites[0].iscsi), b.run(pair.sites[1].iscsi)];
    running.iter().for_each(|running| wait_acknowledged(running, WRITES_BEFORE, "load before the kill"));
    victims.iter().for_each(|victim| pair.site_mut(*victim).kill());
    victims.iter().for_each(|victim| pair.site_mut(*victim).start());
    pair.wait_paired();
    running.iter().for_each(|running| wait_acknowledged(running, WRITES_AFTER, "load after the restart"));
    let loads = running.map(Running::stop);
    if pair.settings.mode != "sync" {
        for (site, load) in pair.sites.iter().zip(&loads) {
            load.verify(&mut Host::at(site, "verifier"), "its own site");
        }
        pair.wait_converged();
    }
    verify_everywhere(pair, &loads);
    loads
}

fn kill_in_turn(mode: &'static str) {
    let mut pair = Pair::start(Settings { mode, ..Settings::default() });
    let mut loads = [Load::new(0), Load::new(1)];
    let (a, b) = (SiteName::A, SiteName::B);
    for victims in [&[a][..], &[b], &[a, b], &[b], &[a]] {
        loads = round(&mut pair, loads, victims);
    }
    pair.wait_destaged();
    verify_everywhere(&mut pair, &loads);
    pair.stop();
    pair.assert_stores_equal();
}

#[test]
fn no_acknowledged_write_is_lost_by_kills_in_sync_mode() {
    kill_in_turn("sync");
}

#[test]
fn no_acknowledged_write_is_lost_by_kills_in_async_mode() {
    kill_in_turn("async");
}

#[test]
fn no_acknowledged_write_is_lost_by_kills_in_flush_mode() {
    kill_in_turn("flush");
}

#[test]
fn a_killed_async_site_serves_alone_what_it_acknowledged() {
    // Large enough that the backlog does not fill it.
    let mut pair = Pair::start(Settings { mode: "async", journal: "256MiB", ..Settings::default() });
    let running = Load::new(0).run(pair.sites[0].iscsi);
    wait_acknowledged(&running, WRITES_BEFORE, "load before the cut");
    pair.line.cut();
    wait_acknowledged(&running, WRITES_BEFORE, "load while the line is cut");
    pair.sites[0].kill();
    pair.sites[0].start();
    wait_acknowledged(&running, WRITES_AFTER, "load after the restart, the line still cut");
    let load = running.stop();
    load.verify(&mut Host::at(&pair.sites[0], "verifier"), "site a, alone");
    pair.line.mend();
    pair.wait_converged();
    load.verify(&mut Host::at(&pair.sites[1], "verifier"), "site b, after the line is back");
}
