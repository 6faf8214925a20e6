//! The hash of rendezvous hashing. It depends on its input alone, so every process and every version chooses alike.

use aws_lc_rs::digest;

/// The hash of a text that selects a server, or of the name of a server.
///
/// It is the first eight bytes of the SHA-256 of the text, as a big-endian number. The text itself is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TextHash(u64);

impl TextHash {
    /// Hashes a text.
    pub fn of(text: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, text);
        Self(digest.as_ref().iter().take(8).fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    /// Returns the score of a server for a key: the finalizer of `MurmurHash3` over the exclusive or of both hashes.
    /// The scores of two servers for one key are independent.
    pub fn score(self, server: Self) -> u64 {
        let mut mixed = self.0 ^ server.0;
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ (mixed >> 33)
    }
}

/// Returns the position of a score in the order of weighted rendezvous hashing: the server with the highest one is
/// chosen. It is `-weight / ln(u)` for the score as a number `u` between 0 and 1, so that each server is chosen for its
/// share of the keys, and a change of one weight moves keys only to or from that server.
pub fn weighted(score: u64, weight: u32) -> f64 {
    // 52 bits, moved to the middle of their interval, which a float represents exactly: neither 0 nor 1.
    #[expect(clippy::cast_precision_loss, reason = "52 bits fit")]
    let unit = ((score >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    -f64::from(weight) / unit.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These values are part of the interface: another function would move the sessions of every key at an upgrade.
    #[test]
    fn the_hash_never_changes() {
        // printf '' | sha256sum, and so on.
        assert_eq!(TextHash::of(b"").0, 0xe3b0_c442_98fc_1c14);
        assert_eq!(TextHash::of(b"abc").0, 0xba78_16bf_8f01_cfea);
        assert_eq!(TextHash(0).score(TextHash(0)), 0);
        // The first number is the one of the reference implementation, fmix64(1).
        assert_eq!(TextHash(0).score(TextHash(1)), 0xb456_bcfc_34c2_cb2c);
        assert_eq!(TextHash(3).score(TextHash(2)), TextHash(0).score(TextHash(1)));
    }

    #[test]
    fn a_higher_score_and_a_higher_weight_come_first() {
        let scores = [0, 1 << 20, 1 << 40, 1 << 63, u64::MAX - (1 << 20), u64::MAX];
        for pair in scores.windows(2) {
            assert!(weighted(pair[0], 1) < weighted(pair[1], 1), "{pair:?}");
        }
        for score in scores {
            assert!(weighted(score, 1).is_finite() && weighted(score, 1) < weighted(score, 2), "{score}");
        }
    }
}
