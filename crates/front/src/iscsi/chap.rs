//! Proves and checks secrets by CHAP (RFC 7143 §12.1.3, RFC 1994), either way.
//!
//! Must never compare a proof in variable time, accept its own challenge back, or log a secret. Challenges
//! come from the caller's entropy.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::Digest;
use subtle::ConstantTimeEq;

/// Longest binary value (§6.1).
const BINARY_BYTES_MAX: usize = 1024;
/// Length of a challenge that we issue.
pub(super) const CHALLENGE_BYTES: usize = 32;

/// Secrets of a target: what a host must prove, and what we prove to a host that asks.
#[derive(Clone, PartialEq, Eq)]
pub struct Chap {
    /// CHAP name that the host must use.
    pub user: String,
    /// The secret that the host must know.
    pub secret: String,
    /// Our CHAP name and secret for mutual authentication.
    pub mutual: Option<(String, String)>,
}

impl std::fmt::Debug for Chap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chap {{ user: {:?}, mutual: {} }}", self.user, self.mutual.is_some())
    }
}

/// Digest algorithms (§12.1.3), by their CHAP_A number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Algorithm {
    Md5 = 5,
    Sha1 = 6,
    Sha256 = 7,
}

impl Algorithm {
    /// The first algorithm of the host's list that we know: the list is in order of preference.
    pub(super) fn choose(list: &str) -> Option<Algorithm> {
        list.split(',').find_map(|item| match item {
            "5" => Some(Algorithm::Md5),
            "6" => Some(Algorithm::Sha1),
            "7" => Some(Algorithm::Sha256),
            _ => None,
        })
    }

    /// Its CHAP_A number.
    pub(super) fn number(self) -> u8 {
        self as u8
    }

    /// The proof: digest of identifier, secret, challenge (RFC 1994 §4.1).
    pub(super) fn proof(self, identifier: u8, secret: &str, challenge: &[u8]) -> Vec<u8> {
        fn digest<D: Digest>(identifier: u8, secret: &str, challenge: &[u8]) -> Vec<u8> {
            D::new()
                .chain_update([identifier])
                .chain_update(secret)
                .chain_update(challenge)
                .finalize()
                .to_vec()
        }
        match self {
            Algorithm::Md5 => digest::<md5::Md5>(identifier, secret, challenge),
            Algorithm::Sha1 => digest::<sha1::Sha1>(identifier, secret, challenge),
            Algorithm::Sha256 => digest::<sha2::Sha256>(identifier, secret, challenge),
        }
    }
}

/// A challenge that awaits its proof.
#[derive(Clone, Debug)]
pub(super) struct Challenge {
    pub algorithm: Algorithm,
    pub identifier: u8,
    pub bytes: [u8; CHALLENGE_BYTES],
}

impl Challenge {
    /// Draws a challenge.
    pub(super) fn draw(algorithm: Algorithm, entropy: &mut dyn FnMut(&mut [u8])) -> Challenge {
        let (mut identifier, mut bytes) = ([0], [0; CHALLENGE_BYTES]);
        entropy(&mut identifier);
        entropy(&mut bytes);
        Challenge { algorithm, identifier: identifier[0], bytes }
    }

    /// Whether `response` (CHAP_R as text) proves `secret`.
    pub(super) fn proven_by(&self, response: &str, secret: &str) -> bool {
        let expected = self.algorithm.proof(self.identifier, secret, &self.bytes);
        binary(response)
            .is_some_and(|given| given.len() == expected.len() && bool::from(given.ct_eq(&expected)))
    }
}

/// Encodes a binary value as hex (§6.1).
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + bytes.len() * 2);
    text.push_str("0x");
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is a hex digit"));
        }
    }
    text
}

/// Decodes a binary value: `0x` hex or `0b` base64 (§6.1), at most 1024 bytes.
pub(super) fn binary(text: &str) -> Option<Vec<u8>> {
    let bytes = if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        unhex(digits)?
    } else {
        let encoded = text.strip_prefix("0b").or_else(|| text.strip_prefix("0B"))?;
        STANDARD.decode(encoded).ok()?
    };
    (!bytes.is_empty() && bytes.len() <= BINARY_BYTES_MAX).then_some(bytes)
}

fn unhex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let digits = digits.as_bytes();
    // An odd number of digits stands for a leading zero.
    let (first, pairs) =
        if digits.len().is_multiple_of(2) { (None, digits) } else { (digits.first(), &digits[1..]) };
    let mut bytes = Vec::with_capacity(digits.len() / 2 + 1);
    if let Some(first) = first {
        bytes.push(digit(*first)?);
    }
    for pair in pairs.chunks_exact(2) {
        bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_decode_from_hex_and_base64() {
        assert_eq!(binary("0x0aFF"), Some(vec![10, 255]));
        assert_eq!(binary("0xaff"), Some(vec![10, 255]));
        assert_eq!(binary("0bCv8="), Some(vec![10, 255]));
        assert_eq!(hex(&[10, 255]), "0x0aff");
        for bad in ["", "0x", "0b", "0xzz", "0b*", "10", "0x+1"] {
            assert_eq!(binary(bad), None, "{bad:?}");
        }
        assert_eq!(binary(&format!("0x{}", "00".repeat(1025))), None);
    }

    #[test]
    fn proofs_equal_known_digests() {
        // Computed with Python's hashlib over 01 || "secret" || 00 01 02 03.
        let proof = |algorithm: Algorithm| hex(&algorithm.proof(1, "secret", &[0, 1, 2, 3]));
        assert_eq!(proof(Algorithm::Md5), KNOWN_MD5);
        assert_eq!(proof(Algorithm::Sha1), KNOWN_SHA1);
        assert_eq!(proof(Algorithm::Sha256), KNOWN_SHA256);
    }

    #[test]
    fn only_the_right_proof_passes() {
        let challenge = Challenge::draw(Algorithm::Sha256, &mut |bytes| bytes.fill(7));
        let right = challenge.algorithm.proof(7, "s3cret-s3cret", &challenge.bytes);
        assert!(challenge.proven_by(&hex(&right), "s3cret-s3cret"));
        assert!(challenge.proven_by(&format!("0b{}", STANDARD.encode(&right)), "s3cret-s3cret"));
        assert!(!challenge.proven_by(&hex(&right), "other"));
        assert!(!challenge.proven_by(&hex(&right[1..]), "s3cret-s3cret"));
        assert!(!challenge.proven_by("0x", "s3cret-s3cret"));
    }

    const KNOWN_MD5: &str = "0xe82cb2ed1efe04893c9cf73d4dd12e2d";
    const KNOWN_SHA1: &str = "0x4ba9b914438b0a2231ce08d06e1814afdbbd02c9";
    const KNOWN_SHA256: &str = "0x60ad105214396c736e4569759380672905396143713449e104a2be1e885b5d06";
}
