//! `docs/format.md` draws what the code lays out: each drawing is made from the code's own offsets, and must be there.

use biplex_format::control::tables::{
    REGISTRATION_ROW_BYTES, REGISTRATION_ROW_FIELDS, RESERVATION_ROW_BYTES, RESERVATION_ROW_FIELDS,
    RESERVATIONS_FIELDS, RESERVATIONS_HEAD_BYTES, VOLUME_TABLES_BYTES, VOLUME_TABLES_FIELDS,
};
use biplex_format::control::{CLAIM_FIELDS, REGISTRANT_FIELDS, REQUEST_FIELDS, RequestKind};
use biplex_format::journal::{
    CHECKPOINT_BYTES, CHECKPOINT_FIELDS, GROUP_FIELDS, GROUP_HEADER_BYTES, SEGMENT_FIELDS,
    SEGMENT_HEAD_BYTES, SLOT_FIELDS, SLOT_HEAD_BYTES, STATE_FIELDS, STATE_HEADER_BYTES, SUPERBLOCK_FIELDS,
    SUPERBLOCK_HEAD_BYTES,
};
use biplex_format::link::{DIGEST_ROW_BYTES, DIGEST_ROW_FIELDS, HELLO_BYTES, HELLO_FIELDS};
use biplex_format::record::{Kind, RECORD_FIELDS};
use biplex_format::volume::{VOLUME_ROW_BYTES, VOLUME_ROW_FIELDS};
use biplex_format::{FormatError, HEADER_BYTES};

use biplex_engine::reserve::{CLAIM_BYTES, REGISTRANT_BYTES, REQUEST_HEAD_BYTES};

const RULE: &str = "     +-------+-------+-------+-------+-------+-------+-------+-------+\n";
const DOC: &str = include_str!("../../../docs/format.md");

/// Eight bytes a row, eight characters a byte; a field of several rows is drawn in the first.
fn draw(fields: &[(&str, usize, usize)], bytes: usize) -> String {
    let mut drawing = format!("```text\n{RULE}");
    let mut at = 0;
    for (name, offset, len) in fields {
        assert_eq!(at, *offset, "{name} leaves a hole");
        if at.is_multiple_of(8) {
            drawing.push_str(&format!("{at:4} |"));
        }
        if *len > 8 {
            assert!(at.is_multiple_of(8), "{name} starts within a row");
            let words = format!("{name}: {len} bytes, {offset} to {}", offset + len - 1);
            drawing.push_str(&format!("{words:<63}|\n"));
            // What is left of its last row holds the next fields.
            let rest = len % 8;
            if rest != 0 {
                drawing.push_str(&format!(
                    "{:4} |{:<width$}|",
                    offset + len - rest,
                    "…",
                    width = rest * 8 - 1
                ));
            }
        } else {
            let width = len * 8 - 1;
            let name: String = name.chars().take(width).collect();
            drawing.push_str(&format!("{name:^width$}|"));
            if (at + len).is_multiple_of(8) {
                drawing.push('\n');
            }
            assert!(at % 8 + len <= 8, "{name} crosses a row");
        }
        at = offset + len;
    }
    assert_eq!(at, bytes, "the fields are not all of it");
    if !at.is_multiple_of(8) {
        drawing.push('\n');
    }
    drawing.push_str(RULE);
    drawing.push_str("```\n");
    drawing
}

fn drawings() -> Vec<(&'static str, String)> {
    vec![
        ("record header", draw(RECORD_FIELDS, HEADER_BYTES)),
        ("hello body", draw(HELLO_FIELDS, HELLO_BYTES)),
        ("volume row", draw(VOLUME_ROW_FIELDS, VOLUME_ROW_BYTES)),
        ("digest row", draw(DIGEST_ROW_FIELDS, DIGEST_ROW_BYTES)),
        ("superblock", draw(SUPERBLOCK_FIELDS, SUPERBLOCK_HEAD_BYTES)),
        ("checkpoint slot", draw(SLOT_FIELDS, SLOT_HEAD_BYTES)),
        ("state slot", draw(STATE_FIELDS, STATE_HEADER_BYTES)),
        ("segment header", draw(SEGMENT_FIELDS, SEGMENT_HEAD_BYTES)),
        ("group header", draw(GROUP_FIELDS, GROUP_HEADER_BYTES)),
        ("checkpoint", draw(CHECKPOINT_FIELDS, CHECKPOINT_BYTES)),
        ("request", draw(REQUEST_FIELDS, REQUEST_HEAD_BYTES)),
        ("claim", draw(CLAIM_FIELDS, CLAIM_BYTES)),
        ("registrant", draw(REGISTRANT_FIELDS, REGISTRANT_BYTES)),
        ("reservation tables", draw(RESERVATIONS_FIELDS, RESERVATIONS_HEAD_BYTES)),
        ("volume's tables", draw(VOLUME_TABLES_FIELDS, VOLUME_TABLES_BYTES)),
        ("reservation row", draw(RESERVATION_ROW_FIELDS, RESERVATION_ROW_BYTES)),
        ("registration row", draw(REGISTRATION_ROW_FIELDS, REGISTRATION_ROW_BYTES)),
    ]
}

#[test]
fn the_document_draws_what_the_code_lays_out() {
    for (name, drawing) in drawings() {
        assert!(DOC.contains(&drawing), "docs/format.md must draw the {name} so:\n{drawing}");
    }
}

#[test]
fn the_document_lists_every_kind() {
    for kind in Kind::ALL {
        let row = format!("| {} | {} |", kind as u8, kind.name());
        assert!(DOC.contains(&row), "docs/format.md lacks the row {row:?}");
    }
}

#[test]
fn the_document_lists_every_request() {
    for kind in RequestKind::ALL {
        let row = format!("| {} | {} |", kind as u8, kind.name());
        assert!(DOC.contains(&row), "docs/format.md lacks the row {row:?}");
    }
}

#[test]
fn every_error_says_what_where_and_what_was_expected() {
    let errors = [
        FormatError::Short { what: "x", expected: 4, found: 3 },
        FormatError::Magic { what: "x", expected: 1, found: 2 },
        FormatError::Version { what: "x", expected: 1, found: 2 },
        FormatError::Checksum { what: "x", expected: 1, found: 2 },
        FormatError::Kind { what: "x", found: 99 },
        FormatError::Length { what: "x", expected: 1, found: 2 },
        FormatError::Field { what: "x", expected: 1, found: 2 },
        FormatError::Text { what: "x", valid: 1, found: 2 },
        FormatError::Pair { what: "x", expected: 1, found: 2 },
    ];
    for error in errors {
        assert!(error.to_string().starts_with('x'), "{error}");
    }
}
