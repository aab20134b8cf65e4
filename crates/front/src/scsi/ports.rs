//! Asymmetric access (SPC-4 5.15, 6.37): the two target port groups of the pair, one per site.
//!
//! Both sites give the same answer, whichever port is asked: hosts compare answers over their paths. The
//! states are fixed: both ports are active/optimized, site A's is marked as preferred.

use super::PortConfig;
use super::cdb::Cdb;
use super::sense::Sense;
use biplex_engine::SiteId;

const ACTIVE_OPTIMIZED: u8 = 0x00;
const PREFERRED: u8 = 0x80;
const SUPPORTS_ACTIVE_OPTIMIZED: u8 = 0x01;

/// REPORT TARGET PORT GROUPS, in full.
pub(super) fn report(cdb: Cdb, port: &PortConfig, peer: &PortConfig) -> Result<Vec<u8>, Sense> {
    // SPC-4 6.37: PARAMETER DATA FORMAT, 000b length only, 001b extended header.
    let mut data = match cdb.byte(1) >> 5 {
        0 => vec![0; 4],
        // IMPLICIT TRANSITION TIME 0: there are no transitions to wait for.
        1 => vec![0, 0, 0, 0, 0x10, 0, 0, 0],
        _ => return Err(Sense::field_in_cdb(1, Some(7))),
    };
    let mut both = [port, peer];
    both.sort_by_key(|port| port.group);
    for port in both {
        let preferred = match port.site {
            SiteId::A => PREFERRED,
            SiteId::B => 0,
        };
        data.extend_from_slice(&[preferred | ACTIVE_OPTIMIZED, SUPPORTS_ACTIVE_OPTIMIZED]);
        data.extend_from_slice(&port.group.to_be_bytes());
        data.extend_from_slice(&[0, 0, 0, 1, 0, 0]);
        data.extend_from_slice(&port.relative.to_be_bytes());
    }
    let length = (data.len() - 4) as u32;
    data.splice(..4, length.to_be_bytes());
    Ok(data)
}
