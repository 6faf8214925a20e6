//! Tests of `passed`: which socket an address of the configuration gets.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;

use super::*;

fn tcp(address: &str) -> ListenAddress {
    ListenAddress::Tcp(address.parse().unwrap())
}

/// Binds a socket of the kind, which was configured with this address.
fn socket(kind: SocketKind, configured: ListenAddress) -> (SocketDescription, OwnedFd) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = ListenAddress::Tcp(socket.local_addr().unwrap());
    (SocketDescription { kind, configured, bound, file: None }, socket.into())
}

#[test]
fn a_socket_belongs_to_its_configured_address_first() {
    let any = tcp("127.0.0.1:0");
    let sockets = [any.clone(), any.clone(), tcp("127.0.0.1:81")].map(|own| socket(SocketKind::Listener, own));
    let addresses = sockets.each_ref().map(|(description, _)| description.bound.clone());
    let mut passed = PassedSockets::new(sockets.into()).unwrap();
    let [first, second, third] = addresses;
    // The second one was configured with port 0, and is now configured with its port.
    let wanted = [second.clone(), any.clone(), tcp("127.0.0.1:82"), tcp("127.0.0.1:81"), any];
    let taken = passed.take_all(SocketKind::Listener, &wanted);
    let taken: Vec<_> = taken.into_iter().map(|found| Some(found?.socket.address().unwrap())).collect();
    // Those of port 0 are taken in their order before the others are searched.
    assert_eq!(taken, [None, Some(first), None, Some(third), Some(second)]);
}

#[test]
fn kinds_do_not_mix() {
    let named = ListenAddress::Inherited("public".into());
    let any = tcp("127.0.0.1:0");
    let sockets = vec![
        socket(SocketKind::Admin, any.clone()),
        socket(SocketKind::Systemd, named.clone()),
        socket(SocketKind::Metrics, any.clone()),
    ];
    let mut passed = PassedSockets::new(sockets).unwrap();
    assert!(passed.take(SocketKind::Listener, &any).is_none());
    assert!(passed.take(SocketKind::Metrics, &any).is_some());
    assert!(passed.take(SocketKind::Metrics, &any).is_none(), "taken");
    let systemd = passed.take_systemd();
    assert_eq!(systemd.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["public"]);
    assert!(passed.take(SocketKind::Admin, &any).is_some());
}

#[test]
fn only_a_listening_socket_of_the_described_address_is_taken_over() {
    let (description, descriptor) = socket(SocketKind::Listener, tcp("127.0.0.1:0"));
    let other = SocketDescription { bound: tcp("127.0.0.1:1"), ..description.clone() };
    let error = PassedSockets::new(vec![(other, descriptor)]).unwrap_err();
    let text = "cannot take over the socket of 127.0.0.1:1 (listener): it is bound to another address";
    assert_eq!(error.to_string(), text);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (pair, _other) = UnixStream::pair().unwrap();
    let descriptors: [OwnedFd; 4] = [
        UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        connected.into(),
        pair.into(),
        std::fs::File::open("/dev/null").unwrap().into(),
    ];
    for descriptor in descriptors {
        assert!(PassedSockets::new(vec![(description.clone(), descriptor)]).is_err());
    }
}

#[test]
fn a_description_outlives_its_encoding() {
    for configured in
        [tcp("[::1]:443"), ListenAddress::Unix("/run/a.sock".into()), ListenAddress::Inherited("a".into())]
    {
        let bound = tcp("[::1]:443");
        let description = SocketDescription { kind: SocketKind::Systemd, configured, bound, file: Some((1, 2)) };
        let bytes = postcard::to_allocvec(&description).unwrap();
        assert_eq!(postcard::from_bytes::<SocketDescription>(&bytes).unwrap(), description);
    }
}
