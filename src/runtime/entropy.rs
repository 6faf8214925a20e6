//! Random bytes from the system.

use aws_lc_rs::rand;

/// Random bytes for keys, masks and ids.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // A system without random bytes can do nothing here safely, TLS least of all.
    rand::fill(&mut bytes).unwrap_or_else(|_| std::process::abort());
    bytes
}
