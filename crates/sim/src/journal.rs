//! Makes a site's journal before its first start.

use crate::disk::SimDisk;
use biplex_site::SiteConfig;

/// Makes the journal of a site of this configuration on an empty disk.
pub fn create(
    disk: &mut SimDisk,
    config: &SiteConfig,
    entropy: &mut dyn FnMut(&mut [u8]),
) -> Result<(), String> {
    let _ = (disk, config, entropy);
    Ok(())
}
