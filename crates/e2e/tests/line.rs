//! Promise: the line may be cut, cut in the middle of a frame, or fall silent in one direction, under load, and come
//! back: nothing is lost, nothing is applied twice, both copies end up equal. Meanwhile hosts of a sync volume are
//! answered so that they retry, and hosts of an async volume go on.

use biplex_e2e::load::Running;
use biplex_e2e::{Direction, Host, HostError, Load, Pair, Settings, wait_until};
use biplex_front::iscsi::initiator::{Payload, read16, write16};
use bytes::Bytes;

const WRITES: u64 = 150;

#[track_caller]
fn wait_acknowledged(running: &[Running; 2], more: u64, what: &str) {
    let from = running.each_ref().map(Running::acknowledged);
    wait_until(what, || {
        let counts = [0, 1].map(|index| running[index].acknowledged() - from[index]);
        if counts.iter().all(|count| *count >= more) {
            Ok(())
        } else {
            Err(format!("{counts:?} of {more} writes"))
        }
    });
}

/// Load at both sites, `disturb`, and then all that can be said about the copies.
fn survive(settings: Settings, disturb: impl FnOnce(&mut Pair, &[Running; 2])) -> [Load; 2] {
    let mut pair = Pair::start(settings);
    let running = [0, 1].map(|index| Load::new(index as u64).run(pair.sites[index].iscsi));
    wait_acknowledged(&running, WRITES, "load before the disturbance");
    disturb(&mut pair, &running);
    pair.line.mend();
    pair.wait_paired();
    wait_acknowledged(&running, WRITES, "load after the disturbance");
    let loads = running.map(Running::stop);
    pair.wait_converged();
    for site in &pair.sites {
        let mut host = Host::at(site, "verifier");
        loads.iter().for_each(|load| load.verify(&mut host, site.name.letter()));
    }
    pair.wait_destaged();
    pair.stop();
    pair.assert_stores_equal();
    loads
}

fn cut_and_mend_repeatedly(pair: &mut Pair, running: &[Running; 2]) {
    for _ in 0..4 {
        pair.line.cut();
        for site in &mut pair.sites {
            site.wait_status("the line to be down", |status| !status.link.up);
        }
        pair.line.mend();
        pair.wait_paired();
        wait_acknowledged(running, WRITES, "load between two cuts");
    }
}

fn cut_within_frames(pair: &mut Pair, running: &[Running; 2]) {
    for (turn, bytes) in [1u64, 5_003, 17, 40_001, 333, 12_345].into_iter().enumerate() {
        let direction = if turn % 2 == 0 { Direction::AToB } else { Direction::BToA };
        pair.line.cut_after(direction, bytes);
        wait_until(
            "the line to cut itself",
            || if pair.line.is_cut() { Ok(()) } else { Err("whole".into()) },
        );
        pair.line.mend();
        pair.wait_paired();
        wait_acknowledged(running, WRITES, "load between two cuts");
    }
}

fn fall_silent(pair: &mut Pair, running: &[Running; 2]) {
    for direction in [Direction::AToB, Direction::BToA] {
        pair.line.silence(direction);
        for site in &mut pair.sites {
            site.wait_status("silence to be noticed", |status| !status.link.in_step);
        }
        pair.line.mend();
        pair.wait_paired();
        wait_acknowledged(running, WRITES, "load after silence");
    }
}

fn settings(mode: &'static str) -> Settings {
    Settings { mode, ..Settings::default() }
}

#[test]
fn a_sync_volume_survives_cuts() {
    survive(settings("sync"), cut_and_mend_repeatedly);
}

#[test]
fn a_sync_volume_survives_cuts_within_frames() {
    survive(settings("sync"), cut_within_frames);
}

#[test]
fn a_sync_volume_survives_cuts_within_frames_of_plain_tcp() {
    survive(Settings { tls: false, ..settings("sync") }, cut_within_frames);
}

#[test]
fn a_sync_volume_survives_silence_in_one_direction() {
    survive(settings("sync"), fall_silent);
}

#[test]
fn an_async_volume_survives_cuts_within_frames_and_silence() {
    survive(settings("async"), |pair, running| {
        cut_within_frames(pair, running);
        fall_silent(pair, running);
    });
}

#[test]
fn hosts_of_an_async_volume_do_not_notice_a_cut() {
    // Large enough that the backlog does not fill it.
    let roomy = Settings { journal: "256MiB", ..settings("async") };
    let loads = survive(roomy, |pair, running| {
        pair.line.cut();
        wait_acknowledged(running, 10 * WRITES, "load while the line is cut");
        for site in &mut pair.sites {
            let status =
                site.wait_status("the lag to show", |status| !status.link.up && status.link.unacked > 0);
            assert!(status.link.unacked_bytes > 0 && status.link.unacked_age > 0, "{status:?}");
            assert!(status.volumes[0].serving);
        }
    });
    assert!(loads.iter().all(|load| load.refused == 0 && load.lost == 0), "{loads:?}");
}

#[test]
fn hosts_of_a_sync_volume_are_told_to_retry_while_the_line_is_cut() {
    let mut pair = Pair::start(settings("sync"));
    let mut hosts = [0, 1].map(|index| Host::at(&pair.sites[index], "host"));
    let block = Bytes::from(vec![0x5a; 512]);
    for host in &mut hosts {
        host.write(0, &block);
    }
    pair.line.cut();
    for site in &mut pair.sites {
        let status = site.wait_status("the volume to stop serving", |status| !status.volumes[0].serving);
        assert_eq!(status.state, "waiting for the line");
    }
    let not_ready = |result: Result<Bytes, HostError>| {
        let error = result.expect_err("a site alone must not serve a sync volume");
        assert!(matches!(error, HostError::Status { status: 2, sense: (2, 4, _) }), "{error:?}");
        assert!(error.asks_for_retry());
    };
    for host in &mut hosts {
        not_ready(host.command(write16(8, 1, false), Payload::Out(block.clone())));
        not_ready(host.command(read16(0, 1, false), Payload::In(512)));
    }
    pair.line.mend();
    pair.wait_paired();
    for host in &mut hosts {
        host.write(8, &block);
        assert_eq!(host.read(0, 1), block);
    }
}
