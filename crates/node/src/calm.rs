//! Answers for a log that stays readable when the same thing happens again and again: a host that calls a thousand
//! times, a store that is full for a night. Lines of one shape are told [`TOLD_MAX`] times a minute, the last of them
//! says so, and how many were left out is told afterwards. Nothing is ever left out without a word about it.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

/// Lines of one shape that are told within [`WINDOW`].
pub const TOLD_MAX: u64 = 20;
/// How long lines of one shape are counted together.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Shapes that are remembered; the one that was seen first makes room for a new one.
const SHAPES_MAX: usize = 128;
/// Characters of a shape; what differs only behind them is alike.
const SHAPE_CHARS_MAX: usize = 64;

/// What becomes of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It is told.
    Tell,
    /// It is told, as the last of its shape for now.
    TellLast,
    /// It is left out.
    LeaveOut,
}

struct Seen {
    since: Instant,
    lines: u64,
}

/// Counts lines by their shape.
#[derive(Default)]
pub struct Repeats {
    seen: BTreeMap<String, Seen>,
}

impl Repeats {
    /// Judges a line.
    pub fn judge(&mut self, now: Instant, line: &str) -> Verdict {
        let seen = self.seen.entry(shape(line)).or_insert(Seen { since: now, lines: 0 });
        seen.lines += 1;
        match seen.lines.cmp(&TOLD_MAX) {
            std::cmp::Ordering::Less => Verdict::Tell,
            std::cmp::Ordering::Equal => Verdict::TellLast,
            std::cmp::Ordering::Greater => Verdict::LeaveOut,
        }
    }

    /// Forgets shapes whose time is over, and the oldest where there are too many; tells those of which lines were
    /// left out, with how many.
    pub fn settle(&mut self, now: Instant) -> Vec<(String, u64)> {
        let over = |seen: &Seen| now.duration_since(seen.since) >= WINDOW;
        let mut gone: Vec<String> =
            self.seen.iter().filter(|(_, seen)| over(seen)).map(|(shape, _)| shape.clone()).collect();
        if self.seen.len() - gone.len() > SHAPES_MAX {
            let left = self.seen.iter().filter(|(_, seen)| !over(seen));
            gone.extend(left.min_by_key(|(_, seen)| seen.since).map(|(shape, _)| shape.clone()));
        }
        let mut told = Vec::new();
        for shape in gone {
            if let Some(seen) = self.seen.remove(&shape)
                && seen.lines > TOLD_MAX
            {
                told.push((shape, seen.lines - TOLD_MAX));
            }
        }
        told
    }
}

/// A line without what differs from one to the next: each word with a digit in it becomes "#".
pub fn shape(line: &str) -> String {
    let mut shape = String::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let in_word = |c: char| c.is_ascii_alphanumeric();
        let end =
            if in_word(first) { rest.find(|c| !in_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (word, after) = rest.split_at(end);
        shape.push_str(if word.contains(|c: char| c.is_ascii_digit()) { "#" } else { word });
        rest = after;
    }
    shape.chars().take(SHAPE_CHARS_MAX).collect()
}

/// Formats events for people, repetitions left out. Events below INFO are asked for, and all told.
pub struct CalmFormat {
    format: Format<Full, SystemTime>,
    repeats: Mutex<Repeats>,
}

impl Default for CalmFormat {
    fn default() -> CalmFormat {
        CalmFormat { format: Format::default().with_target(false), repeats: Mutex::default() }
    }
}

impl<S, N> FormatEvent<S, N> for CalmFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if *event.metadata().level() > Level::INFO {
            return self.format.format_event(context, writer, event);
        }
        let mut line = Line::default();
        event.record(&mut line);
        let (over, verdict) = {
            let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            (repeats.settle(now), repeats.judge(now, &line.text))
        };
        for (shape, count) in over {
            SystemTime.format_time(&mut writer)?;
            writeln!(writer, "  INFO {count} more lines like this were left out: {shape}")?;
        }
        match verdict {
            Verdict::Tell => self.format.format_event(context, writer, event),
            Verdict::TellLast => {
                self.format.format_event(context, writer.by_ref(), event)?;
                writeln!(writer, "  ... more lines like this one are counted, and left out for a minute")
            }
            Verdict::LeaveOut => Ok(()),
        }
    }
}

/// An event's text.
#[derive(Default)]
struct Line {
    text: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.text, "{value:?}").expect("a String takes all that is written to it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;
    use tracing_subscriber::fmt::MakeWriter;

    #[test]
    fn lines_that_differ_in_numbers_and_addresses_have_one_shape() {
        let alike = |a: &str, b: &str| assert_eq!(shape(a), shape(b));
        alike("host refused: 10.0.0.1:4711: garbage", "host refused: 10.0.0.9:62000: garbage");
        alike("starts with 0xd52b3c70 instead", "starts with 0x0 instead");
        assert_ne!(shape("volume a: full"), shape("volume b: full"));
        assert_ne!(shape("link lost: ü"), shape("link lost: ö"));
        assert!(shape(&"ü".repeat(1000)).chars().count() <= SHAPE_CHARS_MAX);
    }

    #[test]
    fn every_line_is_told_or_counted() {
        let (start, mut repeats) = (Instant::now(), Repeats::default());
        let mut told = 0;
        for number in 0..1000 {
            told += u64::from(repeats.judge(start, &format!("refused {number}")) != Verdict::LeaveOut);
        }
        assert_eq!(told, TOLD_MAX);
        assert_eq!(repeats.settle(start), []);
        assert_eq!(repeats.settle(start + WINDOW), [("refused #".to_owned(), 1000 - TOLD_MAX)]);
        assert_eq!(repeats.judge(start + WINDOW, "refused 1000"), Verdict::Tell);
    }

    #[test]
    fn shapes_are_bounded_and_what_was_left_out_is_still_told() {
        let (start, mut repeats) = (Instant::now(), Repeats::default());
        for _ in 0..30 {
            repeats.judge(start, "first");
        }
        let mut told = Vec::new();
        for number in 0..10_000u32 {
            let letters: String = number.to_string().bytes().map(|digit| char::from(digit + 49)).collect();
            let now = start + Duration::from_millis(1);
            told.extend(repeats.settle(now));
            repeats.judge(now, &letters);
        }
        assert!(repeats.seen.len() <= SHAPES_MAX + 1);
        assert_eq!(told, [("first".to_owned(), 30 - TOLD_MAX)]);
    }

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Sink {
        type Writer = Sink;

        fn make_writer(&'a self) -> Sink {
            self.clone()
        }
    }

    #[test]
    fn a_flood_of_events_leaves_room_for_others() {
        let sink = Sink::default();
        let log = tracing_subscriber::fmt().event_format(CalmFormat::default()).with_writer(sink.clone());
        tracing::subscriber::with_default(log.finish(), || {
            (0..500).for_each(|number| tracing::warn!("host refused: port {number}"));
            tracing::error!("ALARM: the disk is full");
        });
        let text = String::from_utf8(sink.0.lock().expect("no panic").clone()).expect("text");
        assert_eq!(text.matches("host refused").count() as u64, TOLD_MAX, "{text}");
        assert!(text.contains("left out for a minute") && text.contains("the disk is full"), "{text}");
    }
}
