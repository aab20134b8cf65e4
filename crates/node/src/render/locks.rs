//! Answers for how reservations, registrations and undone writes look to people.

use super::{show_moment, show_state, table};
use biplex_site::{DiscardRow, Explanation, LockRow, Locks, UnitSight, VolumeLocks, VolumeStatus};
use std::fmt::Write;

const TAKES_ALL: &str = "a String takes all that is written to it";

/// A volume's reservations in a table's cell.
pub fn short(volume: &VolumeStatus) -> String {
    match volume.registrations {
        0 => volume.reserved.clone(),
        1 => format!("{}, 1 registration", volume.reserved),
        count => format!("{}, {count} registrations", volume.reserved),
    }
}

/// The reservation table with the five columns of E3.3 and what else there is, then the registrations of each volume.
pub fn locks(locks: &Locks) -> String {
    let mut text = String::new();
    let rows: Vec<&LockRow> = locks.volumes.iter().flat_map(|volume| &volume.rows).collect();
    let known = |volume: &VolumeLocks| {
        volume.unit.as_ref().is_none_or(|unit| unit.trouble.is_none() && !unit.by_stranger)
    };
    if rows.is_empty() && locks.volumes.iter().all(known) {
        text += "nothing is reserved\n";
    } else if !rows.is_empty() {
        writeln!(text, "{}", lock_table(&rows)).expect(TAKES_ALL);
    }
    locks.volumes.iter().for_each(|volume| registrations(volume, &mut text));
    for volume in &locks.volumes {
        let name = &volume.volume;
        if volume.write_protected {
            writeln!(text, "\n{name}: write protected by a host (MODE SELECT, SWP)").expect(TAKES_ALL);
        }
        if let Some(unit) = &volume.unit {
            writeln!(text, "\n{name}: {}", kept_by_unit(unit)).expect(TAKES_ALL);
        }
        if volume.waiting {
            let why =
                "requests are known here that are not decided yet: they wait for the line or for each other";
            writeln!(text, "\n{name}: {why}").expect(TAKES_ALL);
        }
    }
    if !locks.left_out.is_empty() {
        writeln!(text, "\nleft out, ask for each by its name: {}", locks.left_out.join(" "))
            .expect(TAKES_ALL);
    }
    text
}

/// That a unit keeps the reservations, and what it said when it was asked.
fn kept_by_unit(unit: &UnitSight) -> String {
    let kept = "its reservations are kept by the units that are its stores (reservations = \"disk\")";
    match unit {
        UnitSight { trouble: Some(why), .. } => format!(
            "{kept}, and this site's did not say all of them now: {why}. What is listed here went through the pair, and may \
             have been preempted since"
        ),
        UnitSight { by_stranger: true, .. } => {
            format!(
                "{kept}; this site's is reserved (RESERVE) by an initiator that is not one of the pair's hosts"
            )
        }
        UnitSight { asked, .. } => {
            format!(
                "{kept}; this site's said so at {}, and extents are those that it granted through the pair",
                show_moment(*asked)
            )
        }
    }
}

/// When a reservation began. A unit does not tell, and what it kept over a restart of the site nobody else knows.
fn show_start(time: u64) -> String {
    match time {
        0 => "not known".to_owned(),
        time => show_moment(time),
    }
}

fn lock_table(rows: &[&LockRow]) -> String {
    let mut table = table(&[
        "number",
        "start time",
        "host id",
        "start block",
        "blocks",
        "volume",
        "kind",
        "site",
        "session",
        "for",
        "id",
    ]);
    for row in rows {
        table.add_row([
            row.number.to_string(),
            show_start(row.time),
            row.host.clone(),
            row.start.to_string(),
            row.blocks.to_string(),
            row.volume.clone(),
            row.kind.clone(),
            row.site.clone(),
            row.isid.clone(),
            row.third_party.clone().unwrap_or_else(|| "itself".to_owned()),
            row.id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        ]);
    }
    table.to_string()
}

fn registrations(volume: &VolumeLocks, text: &mut String) {
    let VolumeLocks { volume: name, registrations, generation, .. } = volume;
    // A generation without registrations: there were some.
    if registrations.is_empty() && *generation == 0 {
        return;
    }
    let count = match registrations.len() {
        1 => "1 registration".to_owned(),
        count => format!("{count} registrations"),
    };
    let reservation = match &volume.reservation {
        None => "no persistent reservation",
        Some(kind) => kind,
    };
    let power = if volume.aptpl { "kept over power loss (APTPL)" } else { "lost with power" };
    let unsaid = |unit: &UnitSight| unit.trouble.is_some();
    let unsaid = volume.unit.as_ref().is_some_and(unsaid);
    match (&volume.unit, unsaid) {
        (Some(_), true) => writeln!(text, "\n{name}: {count} through the pair"),
        (Some(_), false) => writeln!(text, "\n{name}: {count}, {reservation}; generation {generation}"),
        (None, _) => writeln!(text, "\n{name}: {count}, {reservation}; generation {generation}, {power}"),
    }
    .expect(TAKES_ALL);
    if registrations.is_empty() {
        return;
    }
    let mut table = table(&["registered host", "site", "session", "key", "holder", "ports"]);
    for row in registrations {
        table.add_row([
            row.host.clone(),
            row.site.clone(),
            row.isid.clone(),
            row.key.clone(),
            match (unsaid, row.holder) {
                (true, _) => "not known",
                (false, true) => "yes",
                (false, false) => "no",
            }
            .to_owned(),
            if row.all_ports { "both sites'" } else { "this one" }.to_owned(),
        ]);
    }
    writeln!(text, "{table}").expect(TAKES_ALL);
}

/// Who holds a block, since when, through which site.
pub fn explanation(told: &Explanation) -> String {
    let mut text = String::new();
    let Explanation { volume, lba, state, .. } = told;
    writeln!(text, "block {lba} of {volume}: state {state}, {}", show_state(*state)).expect(TAKES_ALL);
    match &told.unit {
        Some(UnitSight { trouble: Some(why), .. }) => {
            writeln!(text, "  the unit that is its store knows who holds it, and did not say so now: {why}")
                .expect(TAKES_ALL);
        }
        Some(UnitSight { by_stranger: true, .. }) => {
            text += "  held, at the unit that is its store, by an initiator that is not one of the pair's hosts\n";
        }
        Some(_) | None if told.rows.is_empty() => text += "  nobody holds it\n",
        Some(_) | None => {}
    }
    for row in &told.rows {
        let LockRow { number, host, kind, site, start, blocks, isid, .. } = row;
        let whom = row.third_party.as_ref().map_or(String::new(), |other| format!(", for {other}"));
        writeln!(
            text,
            "  held by {host} since {}, through site {site}{whom}\n    row {number} of the reservation table: {kind}, \
             blocks {start} to {}, session {isid}",
            show_start(row.time),
            (start + blocks).saturating_sub(1)
        )
        .expect(TAKES_ALL);
    }
    if told.registrations > 0 {
        let count = told.registrations;
        writeln!(text, "  {count} registered: `biplex locks {volume}` names them").expect(TAKES_ALL);
    }
    match &told.data {
        None => text += "  its newest data is on the backing store\n",
        Some(row) => writeln!(
            text,
            "  its newest data was written by {} at {}, at site {}, and is held: {}",
            row.host,
            show_moment(row.time),
            row.site,
            row.data
        )
        .expect(TAKES_ALL),
    }
    text
}

/// Writes that a reservation undid (E4.1).
pub fn discards(rows: &[DiscardRow]) -> String {
    if rows.is_empty() {
        return "no write was undone since this site was started".to_owned();
    }
    let mut table = table(&[
        "number",
        "volume",
        "host id",
        "start block",
        "blocks",
        "written",
        "at",
        "reserved since",
        "at",
        "stamp",
        "recoverable",
    ]);
    for row in rows {
        let (since, at) =
            row.reserved.as_ref().map_or(("-".to_owned(), "-"), |(time, site)| (show_moment(*time), site));
        table.add_row([
            row.number.to_string(),
            row.volume.clone(),
            row.host.clone(),
            row.start.to_string(),
            row.blocks.to_string(),
            show_moment(row.written.0),
            row.written.1.clone(),
            since,
            at.to_owned(),
            row.stamp.clone(),
            if row.kept { "yes" } else { "perhaps: destaged past it" }.to_owned(),
        ]);
    }
    format!(
        "{table}\n\nTo get an undone write's bytes back: biplex inspect STATE_DIR/journal --extract STAMP --to FILE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use biplex_site::{RegistrationRow, TableRow};

    fn row(number: u64, start: u64, blocks: u64, kind: &str) -> LockRow {
        LockRow {
            number,
            time: 1_764_057_731_123_456_789,
            host: "iqn.2026-11.io:one".into(),
            start,
            blocks,
            volume: "vol0".into(),
            kind: kind.into(),
            site: "b".into(),
            isid: "00023d000001".into(),
            third_party: None,
            id: None,
        }
    }

    fn free(volume: &str) -> VolumeLocks {
        VolumeLocks {
            volume: volume.into(),
            rows: Vec::new(),
            generation: 0,
            aptpl: false,
            reservation: None,
            registrations: Vec::new(),
            write_protected: false,
            unit: None,
            waiting: false,
        }
    }

    #[test]
    fn the_reservation_table_begins_with_the_five_columns_of_the_patent() {
        let extents = VolumeLocks {
            rows: vec![
                LockRow { id: Some(3), ..row(1, 8, 16, "write exclusive") },
                LockRow { third_party: Some("iqn.2026-11.io:two".into()), ..row(2, 64, 8, "read shared") },
            ],
            ..free("vol0")
        };
        let text = locks(&Locks { volumes: vec![extents, free("vol1")], left_out: Vec::new() });
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect())
            .collect();
        assert_eq!(lines[0][..5], ["number", "start time", "host id", "start block", "blocks"]);
        assert_eq!(lines[0][5..8], ["volume", "kind", "site"]);
        let moment = "2025-11-25T08:02:11.123456Z";
        assert_eq!(
            lines[1],
            [
                "1",
                moment,
                "iqn.2026-11.io:one",
                "8",
                "16",
                "vol0",
                "write exclusive",
                "b",
                "00023d000001",
                "itself",
                "3"
            ]
        );
        assert_eq!(lines[2][9..], ["iqn.2026-11.io:two", "-"]);
        assert_eq!(lines.len(), 3, "a free volume takes no line:\n{text}");
    }

    #[test]
    fn registrations_stand_below_with_their_generation() {
        let registered = |host: &str, holder| RegistrationRow {
            host: host.into(),
            site: "a".into(),
            isid: "00023d000001".into(),
            key: "000000000000abcd".into(),
            holder,
            all_ports: holder,
        };
        let volume = VolumeLocks {
            rows: vec![row(1, 0, 100, "persistent, write exclusive")],
            generation: 7,
            aptpl: true,
            reservation: Some("persistent, write exclusive".into()),
            registrations: vec![registered("iqn.a:one", true), registered("iqn.a:two", false)],
            waiting: true,
            ..free("vol0")
        };
        let left_out = vec!["vol8".to_owned(), "vol9".to_owned()];
        let text = locks(&Locks { volumes: vec![volume], left_out });
        for words in [
            "vol0: 2 registrations, persistent, write exclusive; generation 7, kept over power loss (APTPL)",
            "registered host",
            "000000000000abcd",
            "both sites'",
            "not decided yet",
            "ask for each by its name: vol8 vol9",
        ] {
            assert!(text.contains(words), "no \"{words}\" in\n{text}");
        }
        assert_eq!(
            locks(&Locks { volumes: vec![free("vol0")], left_out: Vec::new() }),
            "nothing is reserved\n"
        );
    }

    #[test]
    fn what_a_unit_said_is_told_from_what_it_did_not_say() {
        let sight = |trouble: Option<&str>, by_stranger| {
            let trouble = trouble.map(str::to_owned);
            Some(UnitSight { asked: 1_764_057_731_123_456_789, trouble, by_stranger })
        };
        let (host, site, isid) = ("iqn.a:one".into(), "a".into(), "00023d000001".into());
        let key = "000000000000abcd".into();
        let registration = RegistrationRow { host, site, isid, key, holder: true, all_ports: false };
        let mut volume = VolumeLocks {
            rows: vec![LockRow { time: 0, ..row(1, 0, 100, "unit") }],
            registrations: vec![registration],
            unit: sight(None, false),
            ..free("vol0")
        };
        let shown =
            |volume: &VolumeLocks| locks(&Locks { volumes: vec![volume.clone()], left_out: Vec::new() });
        let check = |text: String, there: &[&str], missing: &[&str]| {
            for words in there {
                assert!(text.contains(words), "no \"{words}\" in\n{text}");
            }
            for words in missing {
                assert!(!text.contains(words), "\"{words}\" in\n{text}");
            }
        };
        let moment = "said so at 2025-11-25T08:02:11.123456Z";
        check(shown(&volume), &["vol0: its", moment, "yes", "not known"], &["nothing is reserved"]);
        volume.rows.clear();
        check(shown(&volume), &["nothing is reserved", moment], &["not known"]);
        volume.unit = sight(Some("connection refused"), false);
        let unsaid = ["connection refused", "1 registration through the pair", "not known"];
        check(shown(&volume), &unsaid, &["nothing is reserved", "yes"]);
        volume.unit = sight(None, true);
        check(shown(&volume), &["not one of the pair's hosts"], &["nothing is reserved"]);
    }

    #[test]
    fn an_explanation_says_who_since_when_and_through_which_site() {
        let data = TableRow {
            number: 4,
            time: 1_764_057_731_123_456_789,
            host: "iqn.a:writer".into(),
            start: 8,
            blocks: 8,
            site: "a".into(),
            data: "memory".into(),
            volume: "vol0".into(),
        };
        let mut told = Explanation {
            volume: "vol0".into(),
            lba: 9,
            state: 3,
            rows: vec![row(1, 0, 64, "unit")],
            registrations: 0,
            unit: None,
            data: Some(data),
        };
        let text = explanation(&told);
        for words in [
            "block 9 of vol0: state 3, reserved, held",
            "held by iqn.2026-11.io:one since 2025-11-25T08:02:11.123456Z, through site b",
            "unit, blocks 0 to 63, session 00023d000001",
            "written by iqn.a:writer",
        ] {
            assert!(text.contains(words), "no \"{words}\" in\n{text}");
        }
        let unit = UnitSight { asked: 1, trouble: Some("it is away".into()), by_stranger: false };
        told.rows.clear();
        told.unit = Some(unit.clone());
        assert!(explanation(&told).contains("did not say so now: it is away"));
        told.unit = Some(UnitSight { trouble: None, by_stranger: true, ..unit.clone() });
        assert!(explanation(&told).contains("not one of the pair's hosts"));
        told.unit = Some(UnitSight { trouble: None, ..unit });
        assert!(explanation(&told).contains("nobody holds it"));
        told.unit = None;
        (told.state, told.data, told.registrations) = (0, None, 2);
        let text = explanation(&told);
        for words in ["state 0, free, on the backing store", "nobody holds it", "2 registered"] {
            assert!(text.contains(words), "no \"{words}\" in\n{text}");
        }
    }

    #[test]
    fn an_undone_write_is_shown_with_how_to_get_it_back() {
        let row = DiscardRow {
            number: 1,
            volume: "vol0".into(),
            host: "iqn.a:writer".into(),
            start: 8,
            blocks: 16,
            written: (1_764_057_731_123_456_789, "b".into()),
            reserved: Some((1_764_057_731_000_000_000, "a".into())),
            stamp: "1764057731.123456789b".into(),
            journal: Some(8192),
            kept: true,
        };
        let text = discards(&[row]);
        for words in
            ["iqn.a:writer", "1764057731.123456789b", "2025-11-25T08:02:11.000000Z", "yes", "--extract STAMP"]
        {
            assert!(text.contains(words), "no \"{words}\" in\n{text}");
        }
        assert!(discards(&[]).contains("no write was undone"));
    }
}
