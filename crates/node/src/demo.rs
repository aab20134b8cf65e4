//! `biplex demo`: the product in half a minute, on one machine and for real. Two daemons, a TLS line between them that
//! can be pulled, a host at each over iSCSI, both writing the same blocks; ends with the checksums of both disks.
//!
//! Everything shown is read from the daemons or from the disks; nothing is made up here.

mod host;
mod line;
mod site;

use crate::admin::Question;
use crate::config::quantity::{show_size, show_time};
use crate::{keys, render};
use anyhow::{Context, bail};
use biplex_site::{ConflictRow, Status};
use bytes::Bytes;
use host::Host;
use line::Line;
use site::{Addresses, DemoSite};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const TARGET: &str = "iqn.2026-11.io.biplex:demo";
const LEDGER: u16 = 0;
const ARCHIVE: u16 = 1;
/// Both hosts write within so many blocks, so that they meet often.
const ARENA_BLOCKS: u64 = 4096;
/// Blocks of one write.
const WRITE_BLOCKS: u64 = 8;
/// Writes of one host under way at a time.
const DEPTH: usize = 8;

const PICTURE: &str = "
   host 1 ──iSCSI──▶ site a ◀═══ TLS 1.3 ═══▶ site b ◀──iSCSI── host 2
                       │                        │
                  a/ledger.img  one disk   b/ledger.img     (sync: done when both sites have it)
                  a/archive.img at two     b/archive.img    (async: done when the own site has it)
                                places
";

/// What a host wrote.
#[derive(Default)]
struct Tally {
    done: u64,
    told_to_retry: u64,
    slowest: Duration,
}

/// Runs the demo; with `keep` the pair stays up.
pub fn run(keep: bool, directory: Option<PathBuf>) -> anyhow::Result<()> {
    let directory = match directory {
        Some(directory) => directory,
        None => std::env::temp_dir().join(format!("biplex-demo-{}", std::process::id())),
    };
    std::fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    println!("Biplex demo: one disk at two places\n{PICTURE}");
    println!("files, configs and logs are in {}", directory.display());
    keys::make(&directory.join("keys"))?;

    let ends = Ends::claim()?;
    let portals = ends.portals;
    let direct = ends.direct()?;
    let (mut sites, lines) = ends.connect(&directory)?;
    println!("two daemons: site a is process {}, site b is process {}", sites[0].pid(), sites[1].pid());
    for site in &mut sites {
        site.wait_until("paired", |status| status.state == "paired")?;
    }
    let status: Status = sites[0].ask(&Question::Status)?;
    let measured = status.link.rtt.map_or_else(|| "not measured yet".into(), show_time);
    println!("the line is up, both sites are in step, round trip {measured}\n");

    println!(
        "1. Both hosts write the same {} at once, through their own site, for 4 s:",
        show_size(ARENA_BLOCKS * 512)
    );
    write_for(&sites, portals, LEDGER, Duration::from_secs(4), |_| {})?;
    show_conflicts(&sites)?;
    show_equal(portals, "host 1 at a and host 2 at b read the ledger")?;

    println!("\n2. The line is pulled for 4 s while both hosts go on writing.");
    let mut step = 0;
    let mut pull = |elapsed: Duration| {
        if step == 0 && elapsed > Duration::from_secs(1) {
            println!("   ---- line pulled ----");
            lines.iter().for_each(Line::pull);
            step = 1;
        } else if step == 1 && elapsed > Duration::from_secs(5) {
            println!("   ---- line mended ----");
            lines.iter().for_each(Line::mend);
            step = 2;
        }
    };
    println!(
        "   The ledger (sync) must wait: a host is told to retry rather than told \"done\" for one copy."
    );
    write_for(&sites, portals, LEDGER, Duration::from_secs(8), &mut pull)?;
    for site in &mut sites {
        site.wait_until("back in step", |status| status.link.in_step)?;
    }
    step = 0;
    let mut pull = |elapsed: Duration| {
        if step == 0 && elapsed > Duration::from_secs(1) {
            println!("   ---- line pulled ----");
            lines.iter().for_each(Line::pull);
            step = 1;
        } else if step == 1 && elapsed > Duration::from_secs(3) {
            println!("   ---- line mended ----");
            lines.iter().for_each(Line::mend);
            step = 2;
        }
    };
    println!("   The archive (async) goes on at both sites; each keeps what the other lacks in its journal:");
    write_for(&sites, portals, ARCHIVE, Duration::from_secs(5), &mut pull)?;
    for site in &mut sites {
        site.wait_until("back in step", |status| status.link.in_step)?;
    }

    println!("\n3. The writes are older than the hold time now; both sites destage at the same cuts.");
    for site in &mut sites {
        let settled = |status: &Status| {
            let held: u64 = status.volumes.iter().map(|volume| volume.records).sum();
            held == 0 && status.link.unacked == 0 && status.digest.compared == Some(status.destaged)
        };
        let status = site.wait_until("destaged and compared", settled)?;
        println!(
            "   site {}: {} cuts, newest at {}; digests compared with the peer: {} equal, {} different",
            site.name,
            status.cuts,
            render::show_moment(status.destaged),
            status.digest.equal,
            status.digest.different
        );
    }
    for site in &mut sites {
        site.stop()?;
    }
    println!("\n4. The disks themselves (SHA-256 of the backing files):");
    let (a, b) = (sites[0].checksums()?, sites[1].checksums()?);
    for (volume, (a, b)) in ["ledger ", "archive"].iter().zip(a.iter().zip(&b)) {
        println!("   {volume} a {a}\n           b {b}  {}", if a == b { "equal" } else { "DIFFERENT" });
    }
    if a != b {
        bail!("the two copies differ; the daemons' logs are in {}", directory.display());
    }
    println!("\nBoth copies are equal.");
    if keep {
        // The line that could be pulled ends with this process: the kept sites reach each other without it.
        let start = |name, at: usize| DemoSite::start(&directory, name, TARGET, direct[at], true);
        let mut sites = [start("a", 0)?, start("b", 1)?];
        for site in &mut sites {
            site.wait_until("paired again", |status| status.state == "paired")?;
        }
        return stay(&sites, portals, &directory);
    }
    std::fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// Sockets that hold the demo's ports until the daemons take them.
struct Ends {
    links: [TcpListener; 2],
    hosts: [TcpListener; 2],
    lines: [TcpListener; 2],
    portals: [SocketAddr; 2],
}

impl Ends {
    fn claim() -> anyhow::Result<Ends> {
        let listen = || TcpListener::bind("127.0.0.1:0").context("no free port on loopback");
        let hosts = [listen()?, listen()?];
        let portals = [hosts[0].local_addr()?, hosts[1].local_addr()?];
        Ok(Ends { links: [listen()?, listen()?], hosts, lines: [listen()?, listen()?], portals })
    }

    /// The sites' addresses without the line in between.
    fn direct(&self) -> anyhow::Result<[Addresses; 2]> {
        let [a, b] = [self.links[0].local_addr()?, self.links[1].local_addr()?];
        let [portal_a, portal_b] = self.portals;
        Ok([
            Addresses { listen: a, peer: b, portal: portal_a },
            Addresses { listen: b, peer: a, portal: portal_b },
        ])
    }

    fn connect(self, directory: &std::path::Path) -> anyhow::Result<([DemoSite; 2], [Line; 2])> {
        let links = [self.links[0].local_addr()?, self.links[1].local_addr()?];
        let near = [self.lines[0].local_addr()?, self.lines[1].local_addr()?];
        // Freed only now, so that the six ports are different ones.
        drop((self.links, self.hosts));
        let [to_b, to_a] = self.lines;
        let lines = [Line::lay(to_b, links[1]), Line::lay(to_a, links[0])];
        let start = |name, at: usize| {
            let addresses = Addresses { listen: links[at], peer: near[at], portal: self.portals[at] };
            DemoSite::start(directory, name, TARGET, addresses, false)
        };
        Ok(([start("a", 0)?, start("b", 1)?], lines))
    }
}

/// Both hosts write random places of the arena for a while; each second what happened is shown.
fn write_for(
    sites: &[DemoSite; 2],
    portals: [SocketAddr; 2],
    unit: u16,
    time: Duration,
    mut meanwhile: impl FnMut(Duration),
) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = [1u64, 2]
        .into_iter()
        .map(|number| {
            let (stop, portal) = (stop.clone(), portals[number as usize - 1]);
            thread::spawn(move || write_until(&stop, portal, unit, number))
        })
        .collect();
    let started = Instant::now();
    let mut shown = 0;
    while started.elapsed() < time {
        thread::sleep(Duration::from_millis(50));
        meanwhile(started.elapsed());
        if started.elapsed().as_secs() > shown {
            shown = started.elapsed().as_secs();
            let [a, b]: [Status; 2] = [sites[0].ask(&Question::Status)?, sites[1].ask(&Question::Status)?];
            let of = |status: &Status| {
                status
                    .volumes
                    .get(usize::from(unit))
                    .map_or((0, 0, 0), |v| (v.writes, v.conflicts, v.records))
            };
            let ((a_writes, conflicts, held), (b_writes, _, _)) = (of(&a), of(&b));
            println!(
                "   {shown} s  line {}  writes a {a_writes} b {b_writes}  conflicts {conflicts}  held {held}  not at the peer: a {} b {}",
                if a.link.in_step { "up  " } else { "DOWN" },
                a.link.unacked,
                b.link.unacked
            );
        }
    }
    stop.store(true, Ordering::SeqCst);
    for (number, writer) in writers.into_iter().enumerate() {
        let tally = writer.join().map_err(|_| anyhow::anyhow!("a host's thread broke"))??;
        let retries = match tally.told_to_retry {
            0 => String::new(),
            count => format!(", {count} times told to retry"),
        };
        println!(
            "   host {}: {} writes done{retries}, the slowest took {}",
            number + 1,
            tally.done,
            show_time(tally.slowest.as_nanos() as u64)
        );
    }
    Ok(())
}

fn write_until(stop: &AtomicBool, portal: SocketAddr, unit: u16, number: u64) -> anyhow::Result<Tally> {
    let mut host = Host::log_in(portal, &format!("iqn.2026-11.io.biplex:host{number}"), TARGET)?;
    let mut tally = Tally::default();
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ number;
    let mut begun = std::collections::BTreeMap::new();
    loop {
        while host.under_way() < DEPTH && !stop.load(Ordering::SeqCst) {
            // xorshift: places only have to be scattered.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let lba = state % (ARENA_BLOCKS - WRITE_BLOCKS);
            let line = format!("host {number} write {:>12} ", tally.done).into_bytes();
            let data: Vec<u8> = line.iter().copied().cycle().take((WRITE_BLOCKS * 512) as usize).collect();
            begun.insert(host.write(unit, lba, Bytes::from(data)), Instant::now());
        }
        if host.under_way() == 0 {
            return Ok(tally);
        }
        let done = host.next_done()?;
        let took = begun.remove(&done.tag).map_or(Duration::ZERO, |at| at.elapsed());
        tally.slowest = tally.slowest.max(took);
        match done.status {
            0 => tally.done += 1,
            _ => tally.told_to_retry += 1,
        }
    }
}

fn show_conflicts(sites: &[DemoSite; 2]) -> anyhow::Result<()> {
    let rows: Vec<ConflictRow> = sites[0].ask(&Question::Conflicts { after: 0 })?;
    println!("   The newest conflicts as site a saw them; the later stamp won, block by block:");
    for row in rows.iter().rev().take(3) {
        println!(
            "     blocks {:>4} to {:>4}: {}'s write of {} covers {}'s of {}",
            row.start,
            row.start + row.blocks - 1,
            row.winner.1,
            render::show_moment(row.winner.0),
            row.loser.1,
            render::show_moment(row.loser.0)
        );
    }
    Ok(())
}

/// Reads the arena at both sites and compares.
fn show_equal(portals: [SocketAddr; 2], what: &str) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    for (number, portal) in portals.into_iter().enumerate() {
        let mut host = Host::log_in(portal, &format!("iqn.2026-11.io.biplex:host{}", number + 1), TARGET)?;
        host.read(LEDGER, 0, ARENA_BLOCKS as u32);
        let done = host.next_done()?;
        if done.status != 0 {
            bail!("host {} could not read: status {}", number + 1, done.status);
        }
        seen.push(done.data);
    }
    if seen[0] != seen[1] {
        bail!("{what}: the bytes DIFFER");
    }
    println!("   {what}: {} bytes, equal.", seen[0].len());
    Ok(())
}

fn stay(sites: &[DemoSite; 2], portals: [SocketAddr; 2], directory: &std::path::Path) -> anyhow::Result<()> {
    let [a, b] = portals;
    println!(
        "
The pair stays up. Attach real initiators, one at each site:
  qemu-io -t none -f raw -c 'write -P 0x5a 1M 256k' iscsi://{a}/{TARGET}/0
  qemu-io -t none -f raw -c 'read -P 0x5a 1M 256k'  iscsi://{b}/{TARGET}/0
  iscsiadm -m discovery -t sendtargets -p {a} && iscsiadm -m node -T {TARGET} -p {a} --login
Look at it:
  biplex status --config {0}    (table, conflicts, map ledger likewise)
  biplex status --config {1}
Stop it:
  kill {2} {3}    and then    rm -r {4}",
        sites[0].config.display(),
        sites[1].config.display(),
        sites[0].pid(),
        sites[1].pid(),
        directory.display()
    );
    Ok(())
}
