//! Sense data (SPC-4 4.5): the one table of what goes wrong, and its two encodings.
//!
//! Which encoding a host gets is the unit's D_SENSE bit (SPC-4 7.5.8), not the sense's business.

use super::Status;
use crate::Failure;
use biplex_engine::reserve::Verdict;
use bytes::Bytes;

/// Which bit of what the host sent is wrong (SPC-4 4.5.2.4.2): the SENSE-KEY SPECIFIC field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FieldPointer {
    /// In the CDB, else in the parameter list.
    pub in_cdb: bool,
    /// Byte offset.
    pub byte: u16,
    /// Most significant bit of the field, if the field is smaller than a byte.
    pub bit: Option<u8>,
}

/// Why a command ended in CHECK CONDITION.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sense {
    /// SENSE KEY.
    pub key: u8,
    /// ADDITIONAL SENSE CODE.
    pub code: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub qualifier: u8,
    /// INFORMATION, when VALID.
    pub information: Option<u64>,
    /// Set for faults in what the host sent.
    pub pointer: Option<FieldPointer>,
}

impl Sense {
    const fn plain(key: u8, code: u8, qualifier: u8) -> Sense {
        Sense { key, code, qualifier, information: None, pointer: None }
    }

    pub const NONE: Sense = Sense::plain(0x0, 0x00, 0x00);
    pub const NOT_READY: Sense = Sense::plain(0x2, 0x04, 0x0a);
    pub const READ_ERROR: Sense = Sense::plain(0x3, 0x11, 0x00);
    pub const WRITE_ERROR: Sense = Sense::plain(0x3, 0x0c, 0x00);
    pub const INTERNAL_FAILURE: Sense = Sense::plain(0x4, 0x44, 0x00);
    /// INVALID FIELD IN COMMAND INFORMATION UNIT: the transport brought less than a whole block.
    pub const SHORT_DATA: Sense = Sense::plain(0x5, 0x0e, 0x03);
    pub const PARAMETER_LIST_LENGTH: Sense = Sense::plain(0x5, 0x1a, 0x00);
    pub const INVALID_OPCODE: Sense = Sense::plain(0x5, 0x20, 0x00);
    pub const LBA_OUT_OF_RANGE: Sense = Sense::plain(0x5, 0x21, 0x00);
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    pub const WRONG_RELEASE: Sense = Sense::plain(0x5, 0x26, 0x04);
    /// INSUFFICIENT RESERVATION RESOURCES.
    pub const NO_ROOM_TO_RESERVE: Sense = Sense::plain(0x5, 0x55, 0x02);
    /// INSUFFICIENT REGISTRATION RESOURCES.
    pub const NO_ROOM_TO_REGISTER: Sense = Sense::plain(0x5, 0x55, 0x04);
    pub const NO_SUCH_UNIT: Sense = Sense::plain(0x5, 0x25, 0x00);
    pub const SAVING_NOT_SUPPORTED: Sense = Sense::plain(0x5, 0x39, 0x00);
    pub const SOFTWARE_WRITE_PROTECTED: Sense = Sense::plain(0x7, 0x27, 0x02);

    /// INVALID FIELD IN CDB; `bit` is the field's most significant bit if it is not a whole number of bytes.
    pub const fn field_in_cdb(byte: u16, bit: Option<u8>) -> Sense {
        let pointer = Some(FieldPointer { in_cdb: true, byte, bit });
        Sense { key: 0x5, code: 0x24, qualifier: 0x00, information: None, pointer }
    }

    /// INVALID FIELD IN PARAMETER LIST.
    pub const fn field_in_parameters(byte: u16, bit: Option<u8>) -> Sense {
        let pointer = Some(FieldPointer { in_cdb: false, byte, bit });
        Sense { key: 0x5, code: 0x26, qualifier: 0x00, information: None, pointer }
    }

    /// MISCOMPARE DURING VERIFY OPERATION, with the byte offset of the first difference (SBC-3 5.33).
    pub const fn miscompare(offset: u64) -> Sense {
        Sense { key: 0xe, code: 0x1d, qualifier: 0x00, information: Some(offset), pointer: None }
    }

    /// UNIT ATTENTION.
    pub const fn attention(code: u8, qualifier: u8) -> Sense {
        Sense::plain(0x6, code, qualifier)
    }

    /// The table from a site's failure to sense; another status where that says it all (SAM-5 5.3.1).
    pub fn of_failure(failure: Failure) -> Result<Sense, Status> {
        let sense = match failure {
            Failure::MediumRead { lba } => Sense { information: Some(lba.0), ..Sense::READ_ERROR },
            Failure::MediumWrite { lba } => Sense { information: Some(lba.0), ..Sense::WRITE_ERROR },
            Failure::NotReady => Sense::NOT_READY,
            Failure::Busy => return Err(Status::Busy),
            Failure::Conflict => return Err(Status::ReservationConflict),
            Failure::NotSupported => Sense::INVALID_OPCODE,
            Failure::Stopped => Sense::INTERNAL_FAILURE,
        };
        Ok(sense)
    }

    /// The table from how a request or a COMPARE AND WRITE ended; `None`: it was done.
    pub fn of_verdict(verdict: Verdict) -> Result<Option<Sense>, Status> {
        let sense = match verdict {
            Verdict::Done => return Ok(None),
            Verdict::Conflict => return Err(Status::ReservationConflict),
            // Unknown: the host asks again.
            Verdict::Unreachable => return Err(Status::Busy),
            Verdict::NoRoomToRegister => Sense::NO_ROOM_TO_REGISTER,
            Verdict::NoRoomToReserve => Sense::NO_ROOM_TO_RESERVE,
            Verdict::WrongRelease => Sense::WRONG_RELEASE,
            Verdict::BadParameter(byte) => Sense::field_in_parameters(byte, None),
            Verdict::BadCdb(byte) => Sense::field_in_cdb(byte, None),
            Verdict::Miscompare { offset } => Sense::miscompare(offset),
        };
        Ok(Some(sense))
    }

    /// The sense data in descriptor format (`true`, SPC-4 4.5.2) or fixed format (SPC-4 4.5.3).
    pub fn encode(&self, descriptor_format: bool) -> Bytes {
        if descriptor_format { self.encode_descriptors() } else { self.encode_fixed() }
    }

    fn encode_fixed(&self) -> Bytes {
        let mut sense = vec![0x70, 0, self.key, 0, 0, 0, 0, 10, 0, 0, 0, 0, self.code, self.qualifier, 0];
        // SPC-4 4.5.3: what does not fit four bytes is not reported, and VALID stays zero.
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok())
            && let Some(field) = sense.get_mut(3..7)
        {
            field.copy_from_slice(&information.to_be_bytes());
            sense[0] = 0xf0;
        }
        sense.extend_from_slice(&self.pointer.map_or([0; 3], FieldPointer::encode));
        sense.into()
    }

    fn encode_descriptors(&self) -> Bytes {
        let mut sense = vec![0x72, self.key, self.code, self.qualifier, 0, 0, 0, 0];
        if let Some(information) = self.information {
            sense.extend_from_slice(&[0x00, 0x0a, 0x80, 0x00]);
            sense.extend_from_slice(&information.to_be_bytes());
        }
        if let Some(pointer) = self.pointer {
            let [first, second, third] = pointer.encode();
            sense.extend_from_slice(&[0x02, 0x06, 0, 0, first, second, third, 0]);
        }
        sense[7] = (sense.len() - 8) as u8; // at most 20
        sense.into()
    }
}

impl FieldPointer {
    fn encode(self) -> [u8; 3] {
        let place = if self.in_cdb { 0xc0 } else { 0x80 };
        let bit = self.bit.map_or(0, |bit| 0x08 | bit & 0x07);
        let [high, low] = self.byte.to_be_bytes();
        [place | bit, high, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_sense_carries_the_field_pointer() {
        let sense = Sense::field_in_cdb(14, Some(4)).encode(false);
        assert_eq!(&sense[..], [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcc, 0, 14]);
        let sense = Sense::field_in_parameters(300, None).encode(false);
        assert_eq!(&sense[15..], [0x80, 1, 44]);
    }

    #[test]
    fn descriptor_sense_carries_information_of_eight_bytes() {
        let sense = Sense::miscompare(1 << 40).encode(true);
        assert_eq!(&sense[..], [0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 0x0a, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        let sense = Sense::field_in_cdb(1, None).encode(true);
        assert_eq!(&sense[..], [0x72, 5, 0x24, 0, 0, 0, 0, 8, 2, 6, 0, 0, 0xc0, 0, 1, 0]);
    }

    #[test]
    fn fixed_sense_leaves_out_information_that_does_not_fit() {
        assert_eq!(Sense::miscompare(700).encode(false)[..7], [0xf0, 0, 0xe, 0, 0, 2, 188]);
        assert_eq!(Sense::miscompare(1 << 32).encode(false)[..7], [0x70, 0, 0xe, 0, 0, 0, 0]);
    }
}
