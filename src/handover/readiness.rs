//! Registers descriptors with the runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the current runtime.
///
/// # Errors
///
/// The system has no memory for it, or its type has no readiness.
pub fn register(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, because a type may return another descriptor later; an OwnedFd does not"
    )]
    AsyncFd::with_interest(descriptor, interest)
}
