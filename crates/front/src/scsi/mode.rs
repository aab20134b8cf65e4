//! Mode parameters (SPC-4 6.9 to 6.12, 7.5; SBC-3 6.5): caching, control and informational exceptions pages.
//!
//! A host can change two bits, D_SENSE and SWP of the control page; they are not saved, and a reset clears
//! them. MODE SELECT takes all of its list or nothing.

use super::cdb::Cdb;
use super::sense::Sense;

/// The changeable mode parameters of a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Modes {
    /// D_SENSE: sense data is in descriptor format.
    pub descriptor_sense: bool,
    /// SWP: writes are refused.
    pub write_protected: bool,
    /// WCE: completed writes are as durable as the volume promises only after SYNCHRONIZE CACHE. Not changeable.
    pub write_cache: bool,
}

const D_SENSE: u8 = 0x04;
const SWP: u8 = 0x08;
/// Where the pages' changeable bytes are.
const D_SENSE_AT: usize = 2;
const SWP_AT: usize = 4;
const CONTROL: u8 = 0x0a;
const WCE: u8 = 0x04;
const WCE_AT: usize = 2;

impl Modes {
    /// As a reset leaves them.
    pub fn reset(self) -> Modes {
        Modes { write_cache: self.write_cache, ..Modes::default() }
    }

    /// All pages, ascending by page code, each with its header.
    fn pages(self) -> [Vec<u8>; 3] {
        let mut caching = vec![0x08, 18];
        caching.resize(20, 0);
        caching[WCE_AT] = if self.write_cache { WCE } else { 0 };
        let mut control = vec![CONTROL, 10, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0]; // unrestricted reordering
        control[D_SENSE_AT] = if self.descriptor_sense { D_SENSE } else { 0 };
        control[SWP_AT] = if self.write_protected { SWP } else { 0 };
        let exceptions = vec![0x1c, 10, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // DEXCPT
        [caching, control, exceptions]
    }

    /// The bits of [`Modes::pages`] that MODE SELECT may change.
    fn changeable() -> [Vec<u8>; 3] {
        Modes::default().pages().map(|page| {
            let code = page.first().copied().unwrap_or(0);
            let mut mask = vec![0; page.len()];
            mask.splice(..2, page.into_iter().take(2));
            if code == CONTROL {
                mask[D_SENSE_AT] = D_SENSE;
                mask[SWP_AT] = SWP;
            }
            mask
        })
    }

    /// MODE SENSE(6) or (10), in full.
    pub fn sense(self, cdb: Cdb, blocks: u64) -> Result<Vec<u8>, Sense> {
        let ten = cdb.opcode() == 0x5a;
        let (page, subpage) = (cdb.byte(2) & 0x3f, cdb.byte(3));
        let all = match cdb.byte(2) >> 6 {
            0 => self.pages(),
            1 => Modes::changeable(),
            2 => self.reset().pages(),
            _ => return Err(Sense::SAVING_NOT_SUPPORTED),
        };
        // SPC-4 6.11.1: subpage FFh asks for all subpages; there are none but 00h.
        if !matches!(subpage, 0x00 | 0xff) {
            return Err(Sense::field_in_cdb(3, None));
        }
        let pages: Vec<u8> =
            all.into_iter().filter(|bytes| page == 0x3f || bytes.first() == Some(&page)).flatten().collect();
        if pages.is_empty() {
            return Err(Sense::field_in_cdb(2, Some(5)));
        }
        let long = ten && cdb.bit(1, 0x10);
        let descriptor = match (cdb.bit(1, 0x08), long) {
            (true, _) => Vec::new(),
            (false, false) => block_descriptor(blocks),
            (false, true) => long_block_descriptor(blocks),
        };
        // SBC-3 6.5.2: WP, DPOFUA.
        let specific = if self.write_protected { 0x90 } else { 0x10 };
        let mut data = if ten {
            let long = long && !descriptor.is_empty();
            let length = (6 + descriptor.len() + pages.len()) as u16;
            let [high, low] = length.to_be_bytes();
            vec![high, low, 0, specific, u8::from(long), 0, 0, descriptor.len() as u8]
        } else {
            vec![(3 + descriptor.len() + pages.len()) as u8, 0, specific, descriptor.len() as u8]
        };
        data.extend_from_slice(&descriptor);
        data.extend_from_slice(&pages);
        Ok(data)
    }

    /// MODE SELECT(6) or (10): the parameters as `list` would have them.
    pub fn select(self, cdb: Cdb, list: &[u8], blocks: u64) -> Result<Modes, Sense> {
        let ten = cdb.opcode() == 0x55;
        // SPC-4 6.9: nothing can be saved, and lists other than of pages are not understood.
        if cdb.bit(1, 0x01) {
            return Err(Sense::field_in_cdb(1, Some(0)));
        }
        let expected = list_length(cdb);
        if expected == 0 {
            return Ok(self);
        }
        if !cdb.bit(1, 0x10) {
            return Err(Sense::field_in_cdb(1, Some(4)));
        }
        let truncated = Sense::PARAMETER_LIST_LENGTH;
        if (list.len() as u64) < expected {
            return Err(truncated);
        }
        let header = list.get(..if ten { 8 } else { 4 }).ok_or(truncated)?;
        let length = if ten { Cdb::new(header).number(6, 2) } else { Cdb::new(header).number(3, 1) };
        let long = ten && Cdb::new(header).bit(4, 0x01);
        let start = header.len();
        let end = start + length as usize;
        check_descriptor(list.get(start..end).ok_or(truncated)?, long, blocks, ten)?;
        let mut modes = self;
        let mut at = end;
        while at < list.len() {
            let rest = list.get(at..).unwrap_or_default();
            at += modes.select_page(rest, at as u16)?;
        }
        Ok(modes)
    }

    /// Takes over one page, at byte `at` of the list; returns its length.
    fn select_page(&mut self, rest: &[u8], at: u16) -> Result<usize, Sense> {
        let code = rest.first().copied().unwrap_or(0);
        // PS is reserved here, and there are no subpages: SPF would name an unknown page.
        let (current, mask) = self
            .pages()
            .into_iter()
            .zip(Modes::changeable())
            .find(|(page, _)| page.first() == Some(&code))
            .ok_or(Sense::field_in_parameters(at, None))?;
        let length = rest.get(1).copied().ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        // SPC-4 6.9: a page length that MODE SENSE does not return.
        if usize::from(length) + 2 != current.len() {
            return Err(Sense::field_in_parameters(at + 1, None));
        }
        let page = rest.get(..current.len()).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        for (offset, ((new, old), mask)) in page.iter().zip(&current).zip(&mask).enumerate().skip(2) {
            let wrong = (new ^ old) & !mask;
            if wrong != 0 {
                return Err(Sense::field_in_parameters(
                    at + offset as u16,
                    Some(7 - wrong.leading_zeros() as u8),
                ));
            }
        }
        if code == CONTROL {
            self.descriptor_sense = page.get(D_SENSE_AT).is_some_and(|byte| byte & D_SENSE != 0);
            self.write_protected = page.get(SWP_AT).is_some_and(|byte| byte & SWP != 0);
        }
        Ok(current.len())
    }
}

/// MODE SELECT's PARAMETER LIST LENGTH.
pub(super) fn list_length(cdb: Cdb) -> u64 {
    if cdb.opcode() == 0x55 { cdb.number(7, 2) } else { cdb.number(4, 1) }
}

/// Short LBA mode parameter block descriptor (SBC-3 6.5.2.2).
fn block_descriptor(blocks: u64) -> Vec<u8> {
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
    [blocks.to_be_bytes(), 512u32.to_be_bytes()].concat()
}

/// Long LBA mode parameter block descriptor (SBC-3 6.5.2.3).
fn long_block_descriptor(blocks: u64) -> Vec<u8> {
    [blocks.to_be_bytes(), 512u64.to_be_bytes()].concat()
}

/// A host may send back the block descriptor that it read; it cannot resize the unit.
fn check_descriptor(descriptor: &[u8], long: bool, blocks: u64, ten: bool) -> Result<(), Sense> {
    let fields = Cdb::new(descriptor);
    let (count, size) = match (descriptor.len(), long) {
        (0, _) => return Ok(()),
        (8, false) => (fields.number(0, 4), fields.number(5, 3)),
        (16, true) => (fields.number(0, 8), fields.number(12, 4)),
        _ => return Err(Sense::field_in_parameters(if ten { 6 } else { 3 }, None)),
    };
    let current = if long { blocks } else { blocks.min(u64::from(u32::MAX)) };
    if (count == 0 || count == current) && (size == 0 || size == 512) {
        Ok(())
    } else {
        Err(Sense::field_in_parameters(if ten { 8 } else { 4 }, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL_PAGE: [u8; 12] = [0x0a, 10, 0, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];

    fn sense6(page: u8) -> Result<Vec<u8>, Sense> {
        Modes::default().sense(Cdb::new(&[0x1a, 0, page, 0, 255, 0]), 2048)
    }

    fn select6(page: &[u8]) -> Result<Modes, Sense> {
        let list = [&[0, 0, 0, 0], page].concat();
        Modes::default().select(Cdb::new(&[0x15, 0x10, 0, 0, list.len() as u8, 0]), &list, 2048)
    }

    #[test]
    fn the_control_page_is_the_same_alone_and_among_all() {
        let alone = sense6(0x0a).expect("control page");
        assert_eq!(alone, [&[23, 0, 0x10, 8, 0, 0, 8, 0, 0, 0, 2, 0][..], &CONTROL_PAGE].concat());
        let all = sense6(0x3f).expect("all pages");
        assert_eq!(all.len(), 4 + 8 + 20 + 12 + 12);
        assert_eq!(all[0], 55);
        assert_eq!(all[12..15], [0x08, 18, 0]);
        assert_eq!(all[32..44], CONTROL_PAGE);
        assert_eq!(all[44..47], [0x1c, 10, 8]);
    }

    #[test]
    fn changeable_default_and_saved_values_are_told_apart() {
        let changeable = sense6(0x4a).expect("changeable values");
        assert_eq!(changeable[12..], [0x0a, 10, 4, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(sense6(0x8a), sense6(0x0a));
        assert_eq!(sense6(0xca), Err(Sense::SAVING_NOT_SUPPORTED));
        assert_eq!(sense6(0x05), Err(Sense::field_in_cdb(2, Some(5))));
    }

    #[test]
    fn mode_sense_10_has_long_block_descriptors() {
        let data = Modes::default().sense(Cdb::new(&[0x5a, 0x10, 0x0a, 0, 0, 0, 0, 0, 255, 0]), 1 << 40);
        let expected = [
            &[0, 34, 0, 0x10, 1, 0, 0, 16, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0][..],
            &CONTROL_PAGE,
        ]
        .concat();
        assert_eq!(data, Ok(expected));
    }

    #[test]
    fn what_mode_sense_returned_is_accepted_by_mode_select() {
        for (opcode, flags) in [(0x5a, 0x00), (0x5a, 0x08), (0x5a, 0x10)] {
            let data =
                Modes::default().sense(Cdb::new(&[opcode, flags, 0x3f, 0, 0, 0, 0, 0, 255, 0]), 1 << 33);
            let data = data.expect("all pages");
            let cdb = [0x55, 0x10, 0, 0, 0, 0, 0, 0, data.len() as u8, 0];
            assert_eq!(Modes::default().select(Cdb::new(&cdb), &data, 1 << 33), Ok(Modes::default()));
        }
    }

    #[test]
    fn d_sense_and_swp_can_be_set_and_nothing_else() {
        let mut page = CONTROL_PAGE;
        page[2] = 4;
        page[4] = 8;
        assert_eq!(
            select6(&page),
            Ok(Modes { descriptor_sense: true, write_protected: true, write_cache: false })
        );
        page[5] = 0x40;
        assert_eq!(select6(&page), Err(Sense::field_in_parameters(9, Some(6))));
    }

    #[test]
    fn lists_that_lie_are_refused() {
        assert_eq!(select6(&CONTROL_PAGE[..11]), Err(Sense::PARAMETER_LIST_LENGTH));
        assert_eq!(select6(&[0x0a]), Err(Sense::PARAMETER_LIST_LENGTH));
        assert_eq!(select6(&[0x0a, 9]), Err(Sense::field_in_parameters(5, None)));
        assert_eq!(select6(&[0x8a, 10]), Err(Sense::field_in_parameters(4, None)));
        assert_eq!(select6(&[0x4a, 1, 0, 28]), Err(Sense::field_in_parameters(4, None)));
        let select = |cdb: [u8; 6], list: &[u8]| Modes::default().select(Cdb::new(&cdb), list, 2048);
        assert_eq!(select([0x15, 0x10, 0, 0, 3, 0], &[0; 3]), Err(Sense::PARAMETER_LIST_LENGTH));
        assert_eq!(select([0x15, 0x10, 0, 0, 4, 0], &[0, 0, 0, 8]), Err(Sense::PARAMETER_LIST_LENGTH));
        let seven = [0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(select([0x15, 0x10, 0, 0, 11, 0], &seven), Err(Sense::field_in_parameters(3, None)));
        assert_eq!(select([0x15, 0x11, 0, 0, 4, 0], &[0; 4]), Err(Sense::field_in_cdb(1, Some(0))));
        assert_eq!(select([0x15, 0x00, 0, 0, 4, 0], &[0; 4]), Err(Sense::field_in_cdb(1, Some(4))));
        assert_eq!(select([0x15, 0x10, 0, 0, 20, 0], &[0; 4]), Err(Sense::PARAMETER_LIST_LENGTH));
        assert_eq!(select([0x15, 0x00, 0, 0, 0, 0], &[]), Ok(Modes::default()));
    }

    #[test]
    fn only_a_unit_that_needs_flushes_says_that_it_has_a_write_cache() {
        for (write_cache, expected) in [(false, 0), (true, WCE)] {
            let modes = Modes { write_cache, ..Modes::default() };
            let sensed =
                modes.sense(Cdb::new(&[0x1a, 8, 0x08, 0, 255, 0]), 2048).expect("there is such a page");
            assert_eq!(sensed[4 + WCE_AT], expected);
            assert_eq!(modes.reset(), modes, "a reset does not change what the volume promises");
        }
    }
}
