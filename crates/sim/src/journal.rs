//! Makes a site's journal before its first start.

use crate::disk::SimDisk;
use crate::random::Random;
use biplex_engine::message::VolumeGeometry;
use biplex_site::SiteConfig;
use biplex_store::{Identity, Layout, create_with};

/// Segments are this small, so that a short run fills and recycles many.
const SEGMENT_BYTES: u64 = 96 << 10;

/// Makes the journal of a site of this configuration on an empty disk.
pub fn create(disk: &mut SimDisk, config: &SiteConfig, random: &mut Random) -> Result<(), String> {
    let volumes = config.volumes.iter().map(|volume| VolumeGeometry {
        id: volume.unit.volume,
        name: volume.unit.name.clone(),
        lun: volume.unit.lun,
        blocks: volume.unit.blocks,
        mode: volume.rules.ordinal(),
    });
    let identity = Identity {
        site: config.site,
        pair: config.pair,
        journal: random.draw() | 1,
        volumes: volumes.collect(),
    };
    let layout =
        Layout::with_segments(config.journal_bytes, SEGMENT_BYTES).map_err(|error| error.to_string())?;
    create_with(disk, layout, &identity, &mut |_, _| {}).map_err(|error| error.to_string())
}
