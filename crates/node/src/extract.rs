//! Answers for `biplex inspect JOURNAL --extract STAMP --to OUT`: a held or undone write's bytes, out of a journal into
//! a file of their own. Only reads the journal, and never writes over anything.

use crate::disks::file_disk::FileDisk;
use crate::render::show_moment;
use anyhow::{Context, anyhow, bail};
use biplex_engine::{SiteId, Stamp};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// Finds the write with this stamp in a journal and writes its bytes to `out`; gives a sentence about it.
pub fn run(journal: &Path, stamp: &str, out: &Path) -> anyhow::Result<String> {
    let stamp = parse_stamp(stamp)?;
    let mut disk = FileDisk::open_to_read(journal)?;
    let found = biplex_store::extract(&mut disk, stamp)
        .with_context(|| format!("nothing is extracted from {}", journal.display()))?;
    let shown = out.display();
    let mut file = match OpenOptions::new().write(true).create_new(true).open(out) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{shown} exists; name a file that does not, nothing is written over")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot make {shown}")),
    };
    file.write_all(&found.bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {shown}; what is in it is not whole"))?;
    Ok(format!(
        "{} bytes to {shown}: {} of blocks {} of volume {} by host {} at site {}, {}; found at byte {} of the journal, \
         checksums right{}",
        found.bytes.len(),
        found.what,
        found.extent,
        found.volume,
        found.host,
        stamp.site,
        show_moment(stamp.time),
        found.offset,
        found.remark
    ))
}

/// A stamp as `biplex discards` and `inspect` show it, "1764057731.123456789b", or as `table --json` has its parts:
/// nanoseconds and the site's letter, "1764057731123456789b".
pub fn parse_stamp(text: &str) -> anyhow::Result<Stamp> {
    let wrong = || {
        anyhow!(
            "\"{text}\" is not a stamp; write it as `biplex discards` shows it, such as 1764057731.123456789b, or as \
             nanoseconds and the site's letter, such as 1764057731123456789b"
        )
    };
    let (time, site) = match (text.strip_suffix('a'), text.strip_suffix('b')) {
        (Some(time), _) => (time, SiteId::A),
        (None, Some(time)) => (time, SiteId::B),
        (None, None) => return Err(wrong()),
    };
    let number = |digits: &str| {
        let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        all.then(|| digits.parse::<u64>().ok()).flatten()
    };
    let time = match time.split_once('.') {
        None => number(time),
        Some((seconds, rest)) if rest.len() == 9 => number(seconds)
            .and_then(|seconds| seconds.checked_mul(SECOND))
            .and_then(|whole| whole.checked_add(number(rest)?)),
        Some(_) => None,
    };
    Ok(Stamp { time: time.ok_or_else(wrong)?, site })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_as_it_is_shown_and_as_nanoseconds() {
        for stamp in [
            Stamp { time: 1_764_057_731_000_000_009, site: SiteId::B },
            Stamp { time: 7, site: SiteId::A },
            Stamp { time: u64::MAX, site: SiteId::A },
        ] {
            assert_eq!(parse_stamp(&stamp.to_string()).expect("as shown"), stamp);
            assert_eq!(parse_stamp(&format!("{}{}", stamp.time, stamp.site)).expect("parts"), stamp);
        }
        for wrong in [
            "",
            "a",
            "12",
            "12c",
            "1.5a",
            "1.0000000000a",
            "+1a",
            "-1b",
            "1 a",
            "99999999999999999999a",
            ".1a",
        ] {
            let refused = parse_stamp(wrong).expect_err(wrong).to_string();
            assert!(refused.contains("biplex discards"), "{refused}");
        }
    }

    #[test]
    fn what_is_no_journal_is_told_and_no_file_is_made() {
        let directory = tempfile::tempdir().expect("a directory");
        let (journal, out) = (directory.path().join("journal"), directory.path().join("out"));
        std::fs::write(&journal, vec![0; 1 << 20]).expect("written");
        let refused = run(&journal, "1a", &out).expect_err("no journal");
        assert!(format!("{refused:#}").contains("nothing is extracted"), "{refused:#}");
        assert!(!out.exists());
    }
}
