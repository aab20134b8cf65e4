//! Answers for how a site's status, hold table and state map look to people.

pub mod locks;

use crate::calm::shape;
use crate::config::quantity::{show_size, show_time};
use biplex_site::{ConflictRow, MapRun, Status, TableRow};
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use std::fmt::Write;

/// A moment, in UTC to the microsecond.
pub fn show_moment(nanoseconds: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(nanoseconds)) {
        Ok(moment) => format!("{:.6}", moment),
        Err(_) => format!("{nanoseconds} ns"),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    table
}

/// The site at a glance.
pub fn status(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: String| {
        writeln!(text, "{key:<9} {value}").expect("a String takes all that is written to it");
    };
    line("site", format!("{}  {}", status.site, status.target));
    line("state", status.state.to_uppercase());
    line("", status.why.clone());
    let link = &status.link;
    let up = match (link.up, link.in_step) {
        (true, true) => "up, in step".to_owned(),
        (true, false) => "up, resuming".to_owned(),
        (false, _) => "DOWN".to_owned(),
    };
    let rtt = link.rtt.map_or_else(String::new, |rtt| format!(", round trip {}", show_time(rtt)));
    let offset = link.offset.map_or_else(String::new, |offset| {
        let ahead = if offset < 0 { "behind" } else { "ahead" };
        format!(", peer's clock {} {ahead}", show_time(offset.unsigned_abs()))
    });
    line("link", format!("{up}{rtt}{offset}, {} sessions so far", link.sessions));
    if let Some(refused) = &link.refused {
        line("", format!("REFUSED: {refused}"));
    }
    line(
        "at risk",
        if link.unacked == 0 {
            "nothing: the peer has all that was written here".to_owned()
        } else {
            let (entries, bytes) = (link.unacked, show_size(link.unacked_bytes));
            format!("{entries} writes, {bytes}, are not yet at the peer; lag {}", show_time(link.unacked_age))
        },
    );
    let journal = &status.journal;
    let percent = (journal.used as f64 * 100.0) / (journal.bytes.max(1) as f64);
    let full = if journal.full { "; FULL: hosts are being slowed down" } else { "" };
    line("journal", format!("{percent:.0} % of {} used{full}", show_size(journal.bytes)));
    let grouped = journal.entries as f64 / journal.groups.max(1) as f64;
    let written = show_size(journal.written);
    line(
        "",
        format!("{} entries in {} groups ({grouped:.1} each), {written}", journal.entries, journal.groups),
    );
    line("held", format!("{} of {} in memory", show_size(status.hold_bytes), show_size(status.hold_limit)));
    let cut = if status.destaged == 0 { "none yet".to_owned() } else { show_moment(status.destaged) };
    line("last cut", format!("{cut}, {} in this run", status.cuts));
    let digest = &status.digest;
    let verdict = match (digest.compared, digest.different) {
        (_, 1..) => format!("{} ROWS DIFFER: the copies are not equal", digest.different),
        (None, _) => "none compared yet".to_owned(),
        (Some(cut), 0) => {
            format!("equal at both sites up to {} ({} compared)", show_moment(cut), digest.equal)
        }
    };
    line("digest", verdict);
    line("clock", show_moment(status.clock));
    let mut volumes = table(&[
        "volume",
        "lun",
        "size",
        "mode",
        "serving",
        "held",
        "reads",
        "writes",
        "conflicts",
        "errors",
        "reservations",
    ]);
    for volume in &status.volumes {
        volumes.add_row([
            volume.name.clone(),
            volume.lun.to_string(),
            show_size(volume.bytes),
            volume.mode.clone(),
            if volume.serving { "yes" } else { "NO" }.to_owned(),
            format!("{} / {}", volume.records, show_size(volume.held_blocks * biplex_engine::BLOCK_BYTES)),
            format!("{} / {}", volume.reads, show_size(volume.read_bytes)),
            format!("{} / {}", volume.writes, show_size(volume.written_bytes)),
            volume.conflicts.to_string(),
            volume.errors.to_string(),
            locks::short(volume),
        ]);
    }
    writeln!(text, "\n{volumes}").expect("a String takes all that is written to it");
    for volume in &status.volumes {
        if let Some(unit) = &volume.unit {
            writeln!(text, "  {}: its store is {unit}", volume.name).expect("a String takes all");
        }
        if let Some(error) = &volume.last_error {
            writeln!(text, "  {}: last error: {error}", volume.name).expect("a String takes all");
        }
    }
    if !status.hosts.is_empty() {
        let mut hosts = table(&["host", "initiator", "from"]);
        for host in &status.hosts {
            hosts.add_row([&host.id, &host.name, &host.remote]);
        }
        writeln!(text, "\n{hosts}").expect("a String takes all that is written to it");
    }
    for (alarm, count) in newest_of_each_shape(&status.alarms) {
        let often = if count > 1 { format!(" ({count} like this)") } else { String::new() };
        writeln!(text, "ALARM {alarm}{often}").expect("a String takes all that is written to it");
    }
    text
}

/// Alarms that differ only in numbers stand together, as the newest of them: a store that is full for a night must not
/// hide what else is wrong.
fn newest_of_each_shape(alarms: &[String]) -> Vec<(&str, usize)> {
    let mut rows: Vec<(String, &str, usize)> = Vec::new();
    for alarm in alarms {
        let shape = shape(alarm);
        match rows.iter_mut().find(|(known, _, _)| *known == shape) {
            Some(row) => (row.1, row.2) = (alarm, row.2 + 1),
            None => rows.push((shape, alarm, 1)),
        }
    }
    rows.into_iter().map(|(_, newest, count)| (newest, count)).collect()
}

/// The hold table with the seven columns of E1.3, and the volume.
pub fn hold_table(rows: &[TableRow]) -> String {
    let mut table =
        table(&["number", "reception time", "host id", "start block", "blocks", "site", "data", "volume"]);
    for row in rows {
        table.add_row([
            row.number.to_string(),
            show_moment(row.time),
            row.host.clone(),
            row.start.to_string(),
            row.blocks.to_string(),
            row.site.clone(),
            row.data.clone(),
            row.volume.clone(),
        ]);
    }
    table.to_string()
}

/// What a state of the block state map means (E3.2).
pub fn show_state(state: u8) -> &'static str {
    match state {
        0 => "free, on the backing store",
        1 => "free, held",
        2 => "reserved, on the backing store",
        3 => "reserved, held",
        _ => "unknown to this release",
    }
}

/// The block state map (E1.6, E3.2).
pub fn state_map(runs: &[MapRun]) -> String {
    let mut table = table(&["start block", "blocks", "state", "meaning"]);
    for run in runs {
        table.add_row([
            run.start.to_string(),
            run.blocks.to_string(),
            run.state.to_string(),
            show_state(run.state).to_owned(),
        ]);
    }
    table.to_string()
}

/// Overlaps between the two sites' writes.
pub fn conflicts(rows: &[ConflictRow]) -> String {
    let mut table = table(&["number", "volume", "start block", "blocks", "won", "by", "lost", "by"]);
    for row in rows {
        table.add_row([
            row.number.to_string(),
            row.volume.clone(),
            row.start.to_string(),
            row.blocks.to_string(),
            show_moment(row.winner.0),
            row.winner.1.clone(),
            show_moment(row.loser.0),
            row.loser.1.clone(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alarm_that_repeats_does_not_hide_the_others() {
        let mut alarms: Vec<String> = (0..60).map(|n| format!("vol0: no space at byte {n}")).collect();
        alarms.insert(30, "digests differ".to_owned());
        let rows = newest_of_each_shape(&alarms);
        assert_eq!(rows, [("vol0: no space at byte 59", 60), ("digests differ", 1)]);
    }
}
