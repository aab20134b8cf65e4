//! Spells iSCSI's 48-byte basic header segments (RFC 7143 §11), one struct per PDU kind, big-endian.
//!
//! Layout only: no rule about when a PDU is allowed lives here. Invariant: every header struct is exactly
//! [`HEADER_BYTES`] long and has alignment 1, so any 48 received bytes can be viewed as any of them.

use bytes::Bytes;
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of a basic header segment (§11.2.1).
pub(super) const HEADER_BYTES: usize = 48;
/// The reserved tag: "no task", "no transfer" (§11.2.1.8, §11.7.4).
pub(super) const NO_TAG: u32 = 0xffff_ffff;

/// Final bit; also Transit in login PDUs.
pub(super) const FINAL: u8 = 0x80;
/// Continue bit of login and text PDUs; also Acknowledge in Data-In.
pub(super) const CONTINUE: u8 = 0x40;
/// Immediate-delivery bit in the opcode byte (§11.2.1.1).
pub(super) const IMMEDIATE: u8 = 0x40;
/// The host expects data (§11.3.1).
pub(super) const READ: u8 = 0x40;
/// The host has data (§11.3.1).
pub(super) const WRITE: u8 = 0x20;
/// Residual underflow (§11.4.1).
pub(super) const UNDERFLOW: u8 = 0x02;
/// Residual overflow (§11.4.1).
pub(super) const OVERFLOW: u8 = 0x04;
/// A Data-In PDU carries the status (§11.7.3).
pub(super) const STATUS: u8 = 0x01;

/// Opcodes (§11.2.1.2), without the immediate bit.
pub(super) mod opcode {
    pub(crate) const NOP_OUT: u8 = 0x00;
    pub(crate) const COMMAND: u8 = 0x01;
    pub(crate) const MANAGEMENT: u8 = 0x02;
    pub(crate) const LOGIN: u8 = 0x03;
    pub(crate) const TEXT: u8 = 0x04;
    pub(crate) const DATA_OUT: u8 = 0x05;
    pub(crate) const LOGOUT: u8 = 0x06;
    pub(crate) const SNACK: u8 = 0x10;
    pub(crate) const NOP_IN: u8 = 0x20;
    pub(crate) const RESPONSE: u8 = 0x21;
    pub(crate) const MANAGEMENT_RESPONSE: u8 = 0x22;
    pub(crate) const LOGIN_RESPONSE: u8 = 0x23;
    pub(crate) const TEXT_RESPONSE: u8 = 0x24;
    pub(crate) const DATA_IN: u8 = 0x25;
    pub(crate) const LOGOUT_RESPONSE: u8 = 0x26;
    pub(crate) const R2T: u8 = 0x31;
    pub(crate) const ASYNC: u8 = 0x32;
    pub(crate) const REJECT: u8 = 0x3f;
}

/// Why a PDU was rejected (§11.17.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum RejectReason {
    DataDigest = 0x02,
    Snack = 0x03,
    Protocol = 0x04,
    NotSupported = 0x05,
    TooManyImmediate = 0x06,
    TaskInProgress = 0x07,
    InvalidField = 0x09,
}

/// Whether sequence number `a` lies before `b` (RFC 1982, SERIAL_BITS 32).
pub(super) fn before(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) > 0
}

/// Any header struct: 48 bytes, alignment 1.
pub(super) trait Header: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Clone {
    /// The header as bytes.
    fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes.copy_from_slice(self.as_bytes());
        bytes
    }

    /// These bytes seen as this kind of header.
    fn view(bytes: &[u8; HEADER_BYTES]) -> &Self {
        Self::ref_from_bytes(bytes).expect("every header struct is 48 bytes with alignment 1")
    }
}

macro_rules! headers {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Debug)]
        #[repr(C)]
        pub(super) struct $name {
            pub opcode: u8,
            pub flags: u8,
            $(pub $field: $kind),*
        }
        const _: () = assert!(size_of::<$name>() == HEADER_BYTES);
        impl Header for $name {}
        impl Default for $name {
            fn default() -> Self {
                zerocopy::FromZeros::new_zeroed()
            }
        }
    )*};
}

headers! {
    /// What all PDUs share (§11.2.1).
    Basic {
        specific: [u8; 2], ahs_words: u8, data_length: [u8; 3], lun: U64, itt: U32, ttt: U32,
        cmd_sn: U32, exp_stat_sn: U32, tail: [u8; 16],
    }
    /// SCSI Command (§11.3).
    Command {
        reserved: [u8; 2], ahs_words: u8, data_length: [u8; 3], lun: U64, itt: U32, expected: U32,
        cmd_sn: U32, exp_stat_sn: U32, cdb: [u8; 16],
    }
    /// SCSI Response (§11.4).
    Response {
        response: u8, status: u8, ahs_words: u8, data_length: [u8; 3], reserved: U64, itt: U32,
        snack_tag: U32, stat_sn: U32, exp_cmd_sn: U32, max_cmd_sn: U32, exp_data_sn: U32,
        bidirectional_residual: U32, residual: U32,
    }
    /// Task Management Function Request (§11.5). The function is in the low seven bits of `flags`.
    Management {
        reserved: [u8; 2], ahs_words: u8, data_length: [u8; 3], lun: U64, itt: U32, ref_itt: U32,
        cmd_sn: U32, exp_stat_sn: U32, ref_cmd_sn: U32, exp_data_sn: U32, tail: [u8; 8],
    }
    /// Task Management Function Response (§11.6).
    ManagementResponse {
        response: u8, reserved: u8, ahs_words: u8, data_length: [u8; 3], reserved_8: U64, itt: U32,
        reserved_20: U32, stat_sn: U32, exp_cmd_sn: U32, max_cmd_sn: U32, tail: [u8; 12],
    }
    /// SCSI Data-Out (§11.7).
    DataOut {
        reserved: [u8; 2], ahs_words: u8, data_length: [u8; 3], lun: U64, itt: U32, ttt: U32,
        reserved_24: U32, exp_stat_sn: U32, reserved_32: U32, data_sn: U32, offset: U32, tail: [u8; 4],
    }
    /// SCSI Data-In (§11.7).
    DataIn {
        reserved: u8, status: u8, ahs_words: u8, data_length: [u8; 3], lun: U64, itt: U32, ttt: U32,
        stat_sn: U32, exp_cmd_sn: U32, max_cmd_sn: U32, data_sn: U32, offset: U32, residual: U32,
    }
    /// Ready To Transfer (§11.8).
    ReadyToTransfer {
        reserved: [u8; 2], ahs_words: u8, data_length: [u8; 3], lun: U64, itt: U32, ttt: U32,
        stat_sn: U32, exp_cmd_sn: U32, max_cmd_sn: U32, r2t_sn: U32, offset: U32, desired: U32,
    }
    /// Asynchronous Message (§11.9).
    AsyncMessage {
        reserved: [u8; 2], ahs_words: u8, data_length: [u8; 3], lun: U64, itt: U32, reserved_20: U32,
        stat_sn: U32, exp_cmd_sn: U32, max_cmd_sn: U32, event: u8, code: u8, parameter_1: U16,
        parameter_2: U16, parameter_3: U16, tail: [u8; 4],
    }
    /// Text Request (§11.10).
    TextRequest {
        reserved: [u8; 2], ahs_words: u8, data_length: [u8; 3], lun: U64, itt: U32, ttt: U32,
        cmd_sn: U32, exp_stat_sn: U32, tail: [u8; 16],
    }
    /// Login Request (§11.12).
    LoginRequest {
        version_max: u8, version_min: u8, ahs_words: u8, data_length: [u8; 3], isid: [u8; 6], tsih: U16,
        itt: U32, cid: U16, reserved: U16, cmd_sn: U32, exp_stat_sn: U32, tail: [u8; 16],
    }
    /// Login Response (§11.13).
    LoginResponse {
        version_max: u8, version_active: u8, ahs_words: u8, data_length: [u8; 3], isid: [u8; 6], tsih: U16,
        itt: U32, reserved: U32, stat_sn: U32, exp_cmd_sn: U32, max_cmd_sn: U32, class: u8, detail: u8,
        tail: [u8; 10],
    }
    /// Logout Request (§11.14). The reason is in the low seven bits of `flags`.
    LogoutRequest {
        reserved: [u8; 2], ahs_words: u8, data_length: [u8; 3], reserved_8: U64, itt: U32, cid: U16,
        reserved_22: U16, cmd_sn: U32, exp_stat_sn: U32, tail: [u8; 16],
    }
    /// Logout Response (§11.15).
    LogoutResponse {
        response: u8, reserved: u8, ahs_words: u8, data_length: [u8; 3], reserved_8: U64, itt: U32,
        reserved_20: U32, stat_sn: U32, exp_cmd_sn: U32, max_cmd_sn: U32, reserved_36: U32,
        time_to_wait: U16, time_to_retain: U16, tail: [u8; 4],
    }
    /// What Reject, NOP-In and Text Response share (§11.17, §11.19, §11.11): all that carry StatSN at 24.
    Answer {
        reason: u8, reserved: u8, ahs_words: u8, data_length: [u8; 3], lun: U64, itt: U32, ttt: U32,
        stat_sn: U32, exp_cmd_sn: U32, max_cmd_sn: U32, tail: [u8; 12],
    }
}

/// Reads a 24-bit DataSegmentLength.
pub(super) fn length_of(field: [u8; 3]) -> usize {
    (usize::from(field[0]) << 16) | (usize::from(field[1]) << 8) | usize::from(field[2])
}

/// Bytes that pad `length` to a multiple of four (§11.1).
pub(super) fn padding(length: usize) -> usize {
    length.wrapping_neg() & 3
}

/// A whole received PDU. The data segment is a slice of what was received, its padding and digests removed.
#[derive(Clone, Debug)]
pub(super) struct Pdu {
    pub header: [u8; HEADER_BYTES],
    /// Additional header segments, raw.
    pub ahs: Bytes,
    pub data: Bytes,
    /// The data digest was absent or right.
    pub data_intact: bool,
}

impl Pdu {
    /// Opcode without the immediate bit.
    pub(super) fn opcode(&self) -> u8 {
        self.header[0] & 0x3f
    }

    /// Whether the immediate bit is set.
    pub(super) fn immediate(&self) -> bool {
        self.header[0] & IMMEDIATE != 0
    }

    /// The header as a given kind.
    pub(super) fn view<T: Header>(&self) -> &T {
        T::view(&self.header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_compare_across_the_wrap() {
        assert!(before(0xffff_fff0, 3));
        assert!(!before(3, 0xffff_fff0));
        assert!(!before(7, 7));
    }

    #[test]
    fn padding_fills_to_four() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
    }
}
