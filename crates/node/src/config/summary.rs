//! Answers for `biplex config check`: what a config means, in words, and which of its settings are risky.

use super::quantity::{show_size, show_time};
use super::{Config, Volume, rules};
use biplex_site::{Mode, TableKind};
use biplex_store::Layout;
use std::fmt::Write;

/// Bytes of writes that one site may have in the journals: half of what is usable of it; the other half is the peer's.
fn room_per_site(config: &Config) -> f64 {
    Layout::for_bytes(config.journal_bytes).map_or(0.0, |layout| layout.usable_bytes() as f64 / 2.0)
}

/// Rate of large writes, bytes per second from both sites together, that the journal carries for ever: each write
/// stays in it for the hold time and up to one destage interval more. Writes of 4 KiB count twice: room is counted by
/// the worst case, each write's header and data in whole pages.
pub fn sustained_rate(config: &Config) -> f64 {
    let stay = (config.hold_time + config.hold_every) as f64 / 1e9;
    room_per_site(config) / stay * 2.0
}

/// The config in words.
pub fn describe(config: &Config) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        writeln!(text, "  {key:<9} {value}").expect("a String takes all that is written to it");
    };
    line("site", format!("{}, state in {}", config.site, config.state_dir.display()));
    line("target", format!("{} at {}", config.target, config.iscsi_listen));
    line(
        "hosts",
        match &config.chap {
            None => "any host may log in".to_owned(),
            Some(chap) if chap.mutual.is_some() => format!("CHAP as \"{}\", both ways", chap.user),
            Some(chap) => format!("CHAP as \"{}\"", chap.user),
        },
    );
    let tls = if config.tls.is_some() {
        "TLS 1.3, both sides prove who they are"
    } else {
        "NOT encrypted, NOT proven"
    };
    line("link", format!("listens at {}, peer at {}, {tls}", config.link_listen, config.link_peer));
    line(
        "",
        format!("lease {}, commands wait up to {}", show_time(config.lease), show_time(config.wait_max)),
    );
    let table = match config.table {
        TableKind::Indexed => "indexed",
        TableKind::Plain => "plain",
    };
    let (time, every) = (show_time(config.hold_time), show_time(config.hold_every));
    line(
        "hold",
        format!("{time}, destaged every {every}, {table} table, {} in memory", show_size(config.hold_memory)),
    );
    line("clock", format!("the sites' clocks may differ by {}", show_time(config.max_offset)));
    line("journal", format!("{} at {}", show_size(config.journal_bytes), config.journal_path().display()));
    line(
        "",
        format!(
            "this journal sustains about {:.1} MB/s of large writes from both sites together, {:.1} MB/s of 4 KiB ones",
            sustained_rate(config) / 1e6,
            sustained_rate(config) / 2e6
        ),
    );
    line(
        "",
        format!(
            "  (room for {} of each site's writes, kept for hold time + interval = {})",
            show_size(room_per_site(config) as u64),
            show_time(config.hold_time + config.hold_every)
        ),
    );
    line("admin", config.admin_socket.display().to_string());
    for Volume { name, lun, bytes, rules: of, store, unit: _, serial } in &config.volumes {
        let (own_serial, naa) = super::identity::unit_identity(&config.target, name, serial.as_deref());
        line(
            "volume",
            format!(
                "{name}: lun {lun}, {}, {}, on {}",
                show_size(*bytes),
                describe_mode(of.mode),
                store.display()
            ),
        );
        if of.disk {
            line("", "reservations of hosts are kept by the store's SCSI unit".to_owned());
        }
        line("", format!("serial {own_serial}, naa.{naa:016x} (both sites must show the same)"));
        if let Some(words) = rules::describe_discard(*of) {
            line("", words.to_owned());
        }
        line("", rules::describe_swaps(*of).to_owned());
    }
    text
}

fn describe_mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Sync => "sync",
        Mode::Async => "async",
        Mode::Flush => "flush",
    }
}

/// Settings that are allowed and that an operator should know the price of.
pub fn risks(config: &Config) -> Vec<String> {
    let mut risks = Vec::new();
    if config.tls.is_none() {
        risks.push(
            "link.tls is off: whoever reaches the link's port can read and write the volumes. Use it on loopback \
             only; `biplex keys DIR` makes certificates."
                .to_owned(),
        );
    }
    if config.chap.is_none() && !config.iscsi_listen.ip().is_loopback() {
        risks.push(format!("no CHAP: any host that reaches {} may use the volumes", config.iscsi_listen));
    }
    if let Some(chap) = &config.chap
        && [Some(&chap.secret), chap.mutual.as_ref().map(|(_, secret)| secret)]
            .iter()
            .flatten()
            .any(|s| s.len() > 16)
    {
        risks.push("a CHAP secret is longer than 16 characters: some initiators refuse that".to_owned());
    }
    if sustained_rate(config) < 1e6 {
        risks.push(
            "the journal sustains less than 1 MB/s: hosts will be slowed down; make it larger or hold less"
                .to_owned(),
        );
    }
    if config.hold_time < config.max_offset {
        risks.push(
            "hold.time is shorter than clock.max_offset: harmless for the data, but cuts wait for the slower clock".to_owned(),
        );
    }
    if config.table == TableKind::Plain {
        risks.push(
            "the plain hold table searches from the newest write back: slow with many held writes".to_owned(),
        );
    }
    if config.wait_max > 25_000_000_000 {
        risks.push("link.wait is close to the 30 s after which Linux hosts give a command up".to_owned());
    }
    if !config.volumes.iter().any(|volume| volume.lun == 0) {
        risks.push("no volume has lun 0: some hosts look there first".to_owned());
    }
    for volume in &config.volumes {
        risks.extend(rules::risks(&volume.name, volume.rules));
    }
    risks
}
