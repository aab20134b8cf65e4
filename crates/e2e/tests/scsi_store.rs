//! Promise (E5.1): a volume's store may be a SCSI unit reached over iSCSI. What hosts write at both sites, over each
//! other, is on both units in the end, whatever the units do meanwhile. Shown on Debian's tgt and on our own target.

use biplex_e2e::host::BLOCK;
use biplex_e2e::load::WRITER_BLOCKS;
use biplex_e2e::{Host, Load, Pair, Settings, SiteName, Tgt, wait_until};
use biplex_front::iscsi::initiator::{Payload, write16};
use biplex_site::Status;
use bytes::Bytes;
use std::time::{Duration, Instant};

const BYTES: u64 = 32 << 20;
/// Behind the blocks of the two verified writers.
const CONTESTED: u64 = 2 * WRITER_BLOCKS;

fn settings() -> Settings {
    Settings { volume: "32MiB", hold_time: "300ms", hold_every: "500ms", ..Settings::default() }
}

fn use_store(pair: &Pair, site: usize, url: &str) {
    pair.sites[site].edit_config(|text| text.replace("store = \"vol0.img\"", &format!("store = \"{url}\"")));
}

/// Two hosts write over each other, one at each site, for so long.
fn contest(pair: &Pair, time: Duration) {
    let mut hosts = [0, 1].map(|site| Host::at(&pair.sites[site], "contester"));
    let (begun, mut turn) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        turn += 1;
        for (site, host) in hosts.iter_mut().enumerate() {
            let (lba, blocks) = (CONTESTED + turn * 37 % 500, 1 + turn * 11 % 90);
            let data = Bytes::from(vec![(turn * 2 + site as u64) as u8; blocks as usize * BLOCK]);
            match host.command(write16(lba, blocks as u32, false), Payload::Out(data)) {
                Ok(_) => {}
                // A store that is away for long fills the journal: the host is told to come again.
                Err(error) if error.asks_for_retry() => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => *host = Host::at(&pair.sites[site], "contester"),
            }
        }
    }
}

fn load_both(pair: &Pair, middle: impl FnOnce(&Pair)) -> [Load; 2] {
    let running = [0, 1].map(|site| Load::new(site as u64).run(pair.sites[site].iscsi));
    middle(pair);
    running.map(|running| running.stop())
}

/// All that a host sees, and all that is on the stores, is the same.
fn judge(pair: &mut Pair, loads: &[Load], store: &dyn Fn(usize) -> Vec<u8>) {
    pair.wait_converged();
    for site in &mut pair.sites {
        let settled = |status: &Status| status.volumes.iter().all(|volume| volume.records == 0);
        let status = site.wait_status("the destage of all that is held", settled);
        assert_eq!(status.digest.different, 0, "{status:?}");
        assert!(!status.why.contains("away") && !status.why.contains("FAILS"), "{}", status.why);
    }
    let mut seen = Vec::new();
    for site in &pair.sites {
        let mut host = Host::at(site, "verifier");
        loads.iter().for_each(|load| load.verify(&mut host, site.name.letter()));
        let all: Vec<Bytes> = (0..BYTES / 512 / 128).map(|part| host.read(part * 128, 128)).collect();
        seen.push(all.concat());
    }
    assert!(seen[0] == seen[1], "hosts see different bytes at the two sites");
    assert!(seen[0].iter().any(|byte| *byte != 0));
    for site in [0, 1] {
        let held = store(site);
        let first = held.chunks(512).zip(seen[0].chunks(512)).position(|(store, host)| store != host);
        assert_eq!(
            (held.len(), first),
            (seen[0].len(), None),
            "store of site {site} differs from hosts' view"
        );
    }
}

#[test]
fn hosts_writes_at_both_sites_end_on_two_tgt_units_byte_for_byte() {
    if !Tgt::is_installed() {
        eprintln!("SKIPPED: tgt is not installed");
        return;
    }
    let mut pair = Pair::make(settings());
    let tgts = ["a", "b"].map(|name| Tgt::start(pair.directory(), name, BYTES));
    tgts.iter().enumerate().for_each(|(site, tgt)| use_store(&pair, site, &tgt.url()));
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    pair.sites[0].wait_log(&["unit iscsi://", "is IET VIRTUAL-DISK"]);
    let loads = load_both(&pair, |pair| {
        contest(pair, Duration::from_secs(4));
        // WRITE SAME(16) with UNMAP: zeros go their own way to the unit.
        let mut cdb = write16(CONTESTED + 100, 200, false);
        (cdb[0], cdb[1]) = (0x93, 0x08);
        let mut host = Host::at(&pair.sites[1], "contester");
        host.patient(cdb, Payload::Out(vec![0; BLOCK].into())).expect("unmapped");
    });
    judge(&mut pair, &loads, &|site| std::fs::read(&tgts[site].file).expect("the unit's file"));
    for site in &pair.sites {
        assert_eq!(site.status().expect("a status").alarms, Vec::<String>::new());
    }
    pair.stop();
}

#[test]
fn a_unit_that_dies_and_comes_back_costs_nothing_and_is_told() {
    if !Tgt::is_installed() {
        eprintln!("SKIPPED: tgt is not installed");
        return;
    }
    let mut pair = Pair::make(settings());
    let mut tgts = ["a", "b"].map(|name| Tgt::start(pair.directory(), name, BYTES));
    tgts.iter().enumerate().for_each(|(site, tgt)| use_store(&pair, site, &tgt.url()));
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    let loads = load_both(&pair, |pair| {
        for tgt in &mut tgts {
            contest(pair, Duration::from_secs(1));
            tgt.kill();
            contest(pair, Duration::from_secs(2));
            let site = pair.site(if tgt.url().contains("tgt-a") { SiteName::A } else { SiteName::B });
            wait_until("the alarm", || {
                let status = site.status()?;
                let told = status.why.contains("THE STORE of volume vol0 is away")
                    && status.alarms.iter().any(|alarm| alarm.contains("is away"));
                if told { Ok(()) } else { Err(format!("{status:?}")) }
            });
            tgt.restart();
            wait_until("the end of the alarm", || {
                let status = site.status()?;
                if status.why.contains("away") { Err(status.why) } else { Ok(()) }
            });
            site.wait_log(&["is back"]);
        }
        contest(pair, Duration::from_secs(1));
    });
    judge(&mut pair, &loads, &|site| std::fs::read(&tgts[site].file).expect("the unit's file"));
    pair.stop();
}

#[test]
fn a_unit_of_the_wrong_size_is_never_written() {
    if !Tgt::is_installed() {
        eprintln!("SKIPPED: tgt is not installed");
        return;
    }
    let pair = Pair::make(settings());
    let small = Tgt::start(pair.directory(), "small", BYTES / 2);
    use_store(&pair, 0, &small.url());
    let ended = pair.sites[0].start_refused();
    assert!(ended.code() == Some(1) && ended.said().contains("correct the size"), "{ended}");
}

#[test]
fn our_own_target_is_a_store_and_outlives_its_restart() {
    // Two sites that stand alone with async volumes are the disks of a pair.
    let alone = Settings { mode: "async", journal: "512MiB", lease: "30s", wait: "40s", ..settings() };
    let mut disks = [Pair::make(alone.clone()), Pair::make(alone)];
    disks.iter_mut().for_each(|disk| disk.sites[0].start());
    for disk in &mut disks {
        disk.sites[0].wait_answers();
    }
    let mut pair = Pair::make(settings());
    disks.iter().enumerate().for_each(|(site, disk)| use_store(&pair, site, &disk.sites[0].url("")));
    pair.sites.iter_mut().for_each(|site| site.start());
    pair.wait_paired();
    let loads = load_both(&pair, |pair| {
        contest(pair, Duration::from_secs(1));
        disks[1].sites[0].kill();
        contest(pair, Duration::from_secs(1));
        disks[1].sites[0].start();
        contest(pair, Duration::from_secs(1));
    });
    let read = |site: usize| {
        let mut host = Host::at(&disks[site].sites[0], "reader");
        (0..BYTES / 512 / 128).map(|part| host.read(part * 128, 128)).collect::<Vec<_>>().concat()
    };
    judge(&mut pair, &loads, &read);
    pair.stop();
}
