//! One volume as a fixed row: in the hello and in the superblock.

use crate::error::FormatError;
use biplex_engine::VolumeId;
use biplex_engine::message::VolumeGeometry;
use core::mem::offset_of;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a volume's row.
pub const VOLUME_ROW_BYTES: usize = 80;
/// Longest volume name in bytes.
pub const VOLUME_NAME_BYTES_MAX: usize = 64;
/// Most volumes of a pair: as many as a hello and a superblock have room for.
pub const VOLUMES_MAX: usize = 256;

/// A volume's row.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VolumeRow {
    id: U32,
    lun: U16,
    mode: u8,
    name_bytes: u8,
    blocks: U64,
    name: [u8; VOLUME_NAME_BYTES_MAX],
}

const _: () = assert!(size_of::<VolumeRow>() == VOLUME_ROW_BYTES);

/// Names, offsets and lengths of the row's fields, for the drawing's test.
pub const VOLUME_ROW_FIELDS: &[(&str, usize, usize)] = &[
    ("id", offset_of!(VolumeRow, id), 4),
    ("lun", offset_of!(VolumeRow, lun), 2),
    ("mode", offset_of!(VolumeRow, mode), 1),
    ("length", offset_of!(VolumeRow, name_bytes), 1),
    ("blocks", offset_of!(VolumeRow, blocks), 8),
    ("name", offset_of!(VolumeRow, name), VOLUME_NAME_BYTES_MAX),
];

/// Appends the rows of `volumes`.
///
/// # Panics
/// With more than [`VOLUMES_MAX`] volumes or a name of more than [`VOLUME_NAME_BYTES_MAX`] bytes: the
/// configuration refuses both.
pub(crate) fn encode_rows(volumes: &[VolumeGeometry], out: &mut Vec<u8>) {
    assert!(volumes.len() <= VOLUMES_MAX, "the configuration refuses more volumes than {VOLUMES_MAX}");
    for volume in volumes {
        let name = volume.name.as_bytes();
        assert!(name.len() <= VOLUME_NAME_BYTES_MAX, "the configuration refuses a volume name this long");
        let mut row = VolumeRow {
            id: U32::new(volume.id.0),
            lun: U16::new(volume.lun),
            mode: volume.mode,
            name_bytes: name.len() as u8,
            blocks: U64::new(volume.blocks),
            name: [0; VOLUME_NAME_BYTES_MAX],
        };
        row.name[..name.len()].copy_from_slice(name);
        out.extend_from_slice(row.as_bytes());
    }
}

/// Reads `count` rows from exactly so many bytes.
pub(crate) fn decode_rows(bytes: &[u8], count: usize) -> Result<Vec<VolumeGeometry>, FormatError> {
    if count > VOLUMES_MAX {
        return Err(FormatError::Length {
            what: "volume list",
            expected: VOLUMES_MAX as u64,
            found: count as u64,
        });
    }
    let rows = <[VolumeRow]>::ref_from_bytes_with_elems(bytes, count).map_err(|_| FormatError::Length {
        what: "volume list in bytes",
        expected: (count * VOLUME_ROW_BYTES) as u64,
        found: bytes.len() as u64,
    })?;
    rows.iter().map(decode_row).collect()
}

fn decode_row(row: &VolumeRow) -> Result<VolumeGeometry, FormatError> {
    let Some((name, padding)) = row.name.split_at_checked(usize::from(row.name_bytes)) else {
        return Err(FormatError::Length {
            what: "volume name",
            expected: VOLUME_NAME_BYTES_MAX as u64,
            found: u64::from(row.name_bytes),
        });
    };
    if let Some(byte) = padding.iter().find(|byte| **byte != 0) {
        return Err(FormatError::Field {
            what: "padding of a volume name",
            expected: 0,
            found: u64::from(*byte),
        });
    }
    let name = std::str::from_utf8(name).map_err(|error| FormatError::Text {
        what: "volume name",
        valid: error.valid_up_to(),
        found: name.len(),
    })?;
    Ok(VolumeGeometry {
        id: VolumeId(row.id.get()),
        name: name.to_owned(),
        lun: row.lun.get(),
        blocks: row.blocks.get(),
        mode: row.mode,
    })
}
