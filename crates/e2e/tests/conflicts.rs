//! Promise (E1.5, E1.9, E2.1): two hosts write overlapping ranges at both sites at the same time, and the two backing
//! files end up equal byte for byte, in every mode and with either hold table.

use biplex_e2e::host::BLOCK;
use biplex_e2e::{Host, Pair, Settings};
use biplex_front::iscsi::initiator::{Payload, write16};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The hosts fight for so many blocks.
const ARENA_BLOCKS: u64 = 512;
const BLOCKS_MAX: u64 = 40;
const DEPTH: usize = 8;
const FIGHT: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(30);

/// SplitMix64: the fight is the same in each run, but for timing.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Writes random runs of blocks for a while; gives the number of writes. Now and then with FUA or a flush behind.
fn fight(address: SocketAddr, seed: u64) -> u64 {
    let identity =
        biplex_e2e::host::Identity { digests: seed == 2, ..biplex_e2e::host::Identity::named("fighter") };
    let mut host = Host::login(address, &identity).expect("a login");
    let (begun, mut state, mut written, mut under_way) = (Instant::now(), seed, 0u64, 0);
    loop {
        while under_way < DEPTH && begun.elapsed() < FIGHT {
            let blocks = 1 + draw(&mut state) % BLOCKS_MAX;
            let lba = draw(&mut state) % (ARENA_BLOCKS - blocks);
            let mut data = Vec::with_capacity(blocks as usize * BLOCK);
            while data.len() < blocks as usize * BLOCK {
                data.extend_from_slice(&draw(&mut state).to_be_bytes());
            }
            let fua = draw(&mut state).is_multiple_of(16);
            host.submit(write16(lba, blocks as u32, fua), Payload::Out(Bytes::from(data)));
            under_way += 1;
        }
        if under_way == 0 {
            host.flush();
            host.logout();
            return written;
        }
        host.next_done(PATIENCE).expect("an answer").result.expect("a paired site takes every write");
        (written, under_way) = (written + 1, under_way - 1);
    }
}

fn both_backing_files_are_equal_after_a_fight(mode: &'static str, table: &'static str) {
    let mut pair = Pair::start(Settings { mode, table, journal: "256MiB", ..Settings::default() });
    let [a, b] = [0, 1].map(|index| pair.sites[index].iscsi);
    let other = std::thread::spawn(move || fight(b, 2));
    let written = [fight(a, 1), other.join().expect("the other host did not fail")];
    assert!(written.iter().all(|count| *count > 100), "{written:?} writes are no fight");
    pair.wait_converged();
    // Through the front doors first: what hosts see is equal whether it is held or destaged.
    let seen = [0, 1].map(|index| Host::at(&pair.sites[index], "reader").read(0, ARENA_BLOCKS as u32));
    assert!(seen[0] == seen[1], "hosts at the two sites see different bytes");
    pair.wait_destaged();
    for site in &pair.sites {
        let status = site.status().expect("a status");
        assert!(status.volumes[0].conflicts > 0, "nobody fought: {status:?}");
        assert!(status.digest.equal > 0, "no cut was compared: {status:?}");
    }
    pair.stop();
    pair.assert_stores_equal();
    let stored = std::fs::read(pair.sites[0].store()).expect("a store");
    assert!(stored.starts_with(&seen[0]), "the stores do not hold what hosts saw last");
    println!("{mode}, {table}: {written:?} writes");
}

#[test]
fn sync_with_the_indexed_table() {
    both_backing_files_are_equal_after_a_fight("sync", "indexed");
}

#[test]
fn sync_with_the_plain_table() {
    both_backing_files_are_equal_after_a_fight("sync", "plain");
}

#[test]
fn async_with_the_indexed_table() {
    both_backing_files_are_equal_after_a_fight("async", "indexed");
}

#[test]
fn async_with_the_plain_table() {
    both_backing_files_are_equal_after_a_fight("async", "plain");
}

#[test]
fn flush_with_the_indexed_table() {
    both_backing_files_are_equal_after_a_fight("flush", "indexed");
}

#[test]
fn flush_with_the_plain_table() {
    both_backing_files_are_equal_after_a_fight("flush", "plain");
}
