//! What a session owns: whoever makes it larger sees it here, and whoever makes it smaller lowers the number.

use tokio::net::TcpStream;

use super::port::Port;
use super::relay::Relay;
use super::sealed::SealedStream;
use super::tls::ClientStream;
use crate::record::{Opener, Sealer, TrafficSecret};
use crate::session::Session;
use crate::upstream::UpstreamStream;

#[test]
fn a_session_is_no_larger_than_it_was() {
    let sizes = [
        of::<Session>(512),
        of::<TrafficSecret>(49),
        of::<Opener>(120),
        of::<Sealer>(112),
        of::<TcpStream>(24 + DEBUG),
        of::<SealedStream>(352 + DEBUG),
        of::<ClientStream>(352 + DEBUG),
        of::<Port<ClientStream>>(448 + DEBUG),
        of::<Port<UpstreamStream>>(128 + DEBUG),
        // The whole of it: with what its task takes it has to fit into 1,536 bytes, the allocator's next step.
        of::<Relay<ClientStream, UpstreamStream>>(1408 + 2 * DEBUG),
    ];
    let larger: Vec<_> = sizes.into_iter().filter(|(_, bytes, bytes_max)| bytes > bytes_max).collect();
    assert!(larger.is_empty(), "type, bytes, at most: {larger:#?}");
}

/// A socket remembers its selector where assertions are on.
const DEBUG: usize = if cfg!(debug_assertions) { 8 } else { 0 };

fn of<T>(bytes_max: usize) -> (&'static str, usize, usize) {
    (std::any::type_name::<T>(), size_of::<T>(), bytes_max)
}
