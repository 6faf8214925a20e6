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
        of::<TcpStream>(24),
        of::<SealedStream>(352),
        of::<ClientStream>(352),
        of::<Port<ClientStream>>(440),
        of::<Port<UpstreamStream>>(120),
        // The whole of it.
        of::<Relay<ClientStream, UpstreamStream>>(1376),
    ];
    let larger: Vec<_> = sizes.into_iter().filter(|(_, bytes, bytes_max)| bytes > bytes_max).collect();
    assert!(larger.is_empty(), "type, bytes, at most: {larger:#?}");
}

fn of<T>(bytes_max: usize) -> (&'static str, usize, usize) {
    (std::any::type_name::<T>(), size_of::<T>(), bytes_max)
}
