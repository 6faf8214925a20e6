//! Random bytes from the system.

use aws_lc_rs::rand;

/// Returns random bytes for keys, masks and ids. Aborts the process if the system provides none.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Nothing here is safe without random bytes, TLS least of all.
    rand::fill(&mut bytes).unwrap_or_else(|_| std::process::abort());
    bytes
}
