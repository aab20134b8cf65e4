//! Answers for how sizes and times are spelt in the config: "256MiB", "500ms". Integers with a unit, nothing else,
//! so that no reader has to guess. Never panics and never rounds.

/// Units of size, in bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Units of time, in nanoseconds.
const TIME_UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// How a size is to be written; goes into the remedy of a mistake.
pub const SIZE_REMEDY: &str =
    "write a whole number and a unit, as in \"256MiB\" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)";

/// How a time is to be written; goes into the remedy of a mistake.
pub const TIME_REMEDY: &str =
    "write a whole number and a unit, as in \"500ms\" or \"3m\" (ns, us, ms, s, m, h)";

/// A size in bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, &SIZE_UNITS, "size")
}

/// A time in nanoseconds.
pub fn parse_time(text: &str) -> Result<u64, String> {
    parse(text, &TIME_UNITS, "time")
}

fn parse(text: &str, units: &[(&str, u64)], kind: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("\"{text}\" is not a {kind}: it must begin with a whole number"))?;
    let unit = unit.trim_start();
    if unit.is_empty() && number == 0 {
        return Ok(0);
    }
    let factor =
        units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor).ok_or_else(|| {
            if unit.is_empty() {
                format!("\"{text}\" is not a {kind}: the unit is missing")
            } else {
                format!("\"{text}\" is not a {kind}: there is no unit \"{unit}\"")
            }
        })?;
    number.checked_mul(factor).ok_or_else(|| format!("\"{text}\" is too large a {kind}"))
}

/// A size for people: the largest binary unit that divides it, or one decimal.
pub fn show_size(bytes: u64) -> String {
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.iter().find(|(factor, _)| bytes >= *factor) {
        None => format!("{bytes} B"),
        Some((factor, unit)) if bytes.is_multiple_of(*factor) => format!("{} {unit}", bytes / factor),
        Some((factor, unit)) => format!("{:.1} {unit}", bytes as f64 / *factor as f64),
    }
}

/// A span of time for people.
pub fn show_time(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", nanoseconds as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", nanoseconds as f64 / 1e6),
        1_000_000_000..120_000_000_000 => format!("{:.1} s", nanoseconds as f64 / 1e9),
        _ => format!("{} min {} s", nanoseconds / 60_000_000_000, nanoseconds / 1_000_000_000 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_as_written() {
        assert_eq!(parse_size("256MiB"), Ok(256 << 20));
        assert_eq!(parse_size("1 GB"), Ok(1_000_000_000));
        assert_eq!(parse_size("4096B"), Ok(4096));
        assert_eq!(parse_time("500ms"), Ok(500_000_000));
        assert_eq!(parse_time("3m"), Ok(180_000_000_000));
        assert_eq!(parse_time("0"), Ok(0));
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for text in ["", "MiB", "12", "12 parsecs", "-1s", "1.5s", "99999999999TiB", "1٣s"] {
            assert!(parse_size(text).is_err(), "{text}");
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        assert_eq!(show_size(256 << 20), "256 MiB");
        assert_eq!(show_size(1 << 40), "1 TiB");
        assert_eq!(show_size(1_500_000), "1.4 MiB");
        assert_eq!(show_time(240_000_000_000), "4 min 0 s");
    }
}
