//! Answers for `biplex serve`: from a config to a running site, in the order that keeps data safe: lock, journal,
//! stores, recovery, and only then the ports.

use crate::admin::AdminSocket;
use crate::config::{Config, identity, quantity, summary};
use crate::core_loop::{Core, Ending, HOSTS, LINK, Progress, RING, SIGNALS, TOKENS_FROM, WAKER, now};
use crate::disks::Disks;
use crate::disks::file_disk::FileDisk;
use crate::disks::open::{JournalFile, StateLock, StoreFile, sync_directory};
use crate::fingerprint;
use crate::hosts::Hosts;
use crate::initiator::Session;
use crate::link::Link;
use crate::mailbox::mailbox;
use crate::path;
use crate::tls::Keys;
use crate::units::Units;
use anyhow::{Context, bail};
use biplex_engine::message::VolumeGeometry;
use biplex_site::Site;
use biplex_site::unit::Port;
use biplex_store::{Identity, Layout};
use mio::unix::SourceFd;
use mio::{Interest, Poll, Waker};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_mio::v1_0::Signals;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Serves until told to stop.
pub fn serve(config: &Config) -> anyhow::Result<Ending> {
    for risk in summary::risks(config) {
        tracing::warn!("{risk}");
    }
    let keys = match &config.tls {
        Some(files) => Some(Keys::load(files, config.site)?),
        None => {
            tracing::warn!(
                "!!! the link is NOT encrypted and NOT proven (link.tls = \"off\"); on loopback only !!!"
            );
            None
        }
    };
    let lock = StateLock::take(&config.state_dir)?;
    let journal_path = config.journal_path();
    let first_start = !journal_path.exists();
    let stores = open_stores(config, first_start)?;
    if first_start {
        make_journal(config, &journal_path)?;
    } else {
        tell_of_journal_size(config, &journal_path)?;
    }
    let mut site = recover(config, &journal_path)?;
    if site.first_meeting() {
        site.set_stores_fingerprint(fingerprint(config, &stores)?);
    }
    let journal = JournalFile::open(&journal_path)?;

    let poll = Poll::new()?;
    let registry = poll.registry();
    let waker = Waker::new(registry, WAKER)?;
    let wake = move || {
        if let Err(error) = waker.wake() {
            tracing::error!("cannot wake the core: {error}");
        }
    };
    let (sender, mailbox) = mailbox(Arc::new(wake));
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let mut core_registry = registry.try_clone()?;
    mio::Registry::register(&core_registry, &mut signals, SIGNALS, Interest::READABLE)?;
    let registry = &mut core_registry;
    let disks = Disks::start(config, journal, stores, sender.clone())?;
    if let Some(ring) = disks.ring() {
        registry.register(&mut SourceFd(&ring), RING, Interest::READABLE)?;
    }
    let hosts = Hosts::listen(config.iscsi_listen, registry, HOSTS)
        .with_context(|| format!("iscsi.listen: cannot listen at {}", config.iscsi_listen))?;
    let ends = (config.site, config.link_listen, config.link_peer.clone());
    let link = Link::listen(ends, keys, sender.clone(), (registry, LINK), now().mono)
        .with_context(|| format!("link.listen: cannot listen at {}", config.link_listen))?;
    let units = Units::new(sender.clone());
    let admin = AdminSocket::listen(&config.admin_socket, sender)?;
    tracing::info!(
        "site {} serves {} on {}, link {} (peer {}), admin {}",
        config.site,
        config.target,
        hosts.local_addr()?,
        link.local_addr()?,
        config.link_peer,
        config.admin_socket.display()
    );
    let (next_token, progress) = (TOKENS_FROM, Progress::default());
    let lookers = Vec::new();
    let mut core =
        Core { poll, site, hosts, link, disks, units, mailbox, signals, next_token, progress, lookers };
    path::begin();
    let ending = core.run()?;
    path::tell();
    drop(admin);
    if ending == Ending::Forced {
        // The threads may be stuck in a disk: not waited for.
        std::process::exit(1);
    }
    drop(core);
    drop(lock);
    Ok(ending)
}

fn open_stores(config: &Config, first_start: bool) -> anyhow::Result<Vec<StoreFile>> {
    let mut stores = Vec::with_capacity(config.volumes.len());
    for volume in config.volumes.iter().filter(|volume| volume.unit.is_none()) {
        if first_start && volume.store.exists() {
            tracing::warn!(
                "volume {}: {} exists already and this site starts for the first time: the sites pair only if both \
                 stores hold the same bytes",
                volume.name,
                volume.store.display()
            );
        }
        stores.push(StoreFile::open(volume, first_start)?);
    }
    Ok(stores)
}

/// What all stores hold together, for the sites' first meeting.
fn fingerprint(config: &Config, stores: &[StoreFile]) -> anyhow::Result<u64> {
    let (mut sum, mut stores) = (0u64, stores.iter());
    for volume in &config.volumes {
        let id = identity::volume_id(&volume.name);
        let part = if let Some(unit) = &volume.unit {
            let login = unit.login(&config.target, config.site, id, Port::Site);
            let mut session = Session::log_in(&unit.portal, login)
                .with_context(|| format!("volume {}: cannot reach unit {unit}", volume.name))?;
            let found = fingerprint::of_unit(id, &volume.name, unit, &mut session, volume.bytes)?;
            session.log_out();
            found
        } else if let Some(store) = stores.next() {
            fingerprint::of_store(id, &volume.name, store, volume.bytes)?
        } else {
            bail!("volume {}: its store was not opened", volume.name);
        };
        sum = sum.wrapping_add(part);
    }
    Ok(sum)
}

/// A journal keeps the size that it was made with; an operator who asks for another must hear of it.
fn tell_of_journal_size(config: &Config, path: &Path) -> anyhow::Result<()> {
    let wanted = Layout::for_bytes(config.journal_bytes)?.bytes();
    let found = std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?.len();
    if found != wanted {
        tracing::warn!(
            "journal.size = {} is not what {} was made with ({}): it keeps its size; docs/operations.md says how to \
             make another",
            quantity::show_size(config.journal_bytes),
            path.display(),
            quantity::show_size(found)
        );
    }
    Ok(())
}

/// Makes the journal under another name first, so that one half made is never taken for a journal.
fn make_journal(config: &Config, path: &Path) -> anyhow::Result<()> {
    let site = config.site_config();
    let volumes = site.volumes.iter().map(|volume| VolumeGeometry {
        id: volume.unit.volume,
        name: volume.unit.name.clone(),
        lun: volume.unit.lun,
        blocks: volume.unit.blocks,
        mode: volume.rules.ordinal(),
    });
    let journal = getrandom::u64().context("the kernel gives no random bytes")? | 1;
    let identity = Identity { site: config.site, pair: site.pair, journal, volumes: volumes.collect() };
    tracing::info!("making the journal {}: {}", path.display(), quantity::show_size(config.journal_bytes));
    let made = path.with_extension("new");
    let mut disk = FileDisk::make(&made)?;
    let mut shown = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    let mut progress = |done: u64, total: u64| {
        if terminal && (shown.elapsed() > Duration::from_millis(200) || done == total) {
            shown = Instant::now();
            let percent = done * 100 / total.max(1);
            let end = if done == total { '\n' } else { '\r' };
            eprint!("  {percent:3} % of {}{end}", quantity::show_size(total));
            drop(std::io::stderr().flush());
        }
    };
    biplex_store::create(&mut disk, config.journal_bytes, &identity, &mut progress)
        .with_context(|| format!("cannot make the journal {}", made.display()))?;
    drop(disk);
    std::fs::rename(&made, path).with_context(|| format!("cannot rename {}", made.display()))?;
    sync_directory(path)
}

fn recover(config: &Config, journal_path: &Path) -> anyhow::Result<Site> {
    let mut disk = FileDisk::open(journal_path)?;
    let entropy =
        Box::new(|bytes: &mut [u8]| getrandom::fill(bytes).expect("Linux gives random bytes once it is up"));
    let started = Instant::now();
    match Site::open(config.site_config(), &mut disk, entropy, now()) {
        Ok(site) => {
            tracing::info!(
                "recovered from {} in {} ms",
                journal_path.display(),
                started.elapsed().as_millis()
            );
            Ok(site)
        }
        Err(error) => bail!("cannot open the site from {}: {error}", journal_path.display()),
    }
}
