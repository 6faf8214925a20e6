//! A DNS server with the records that a test sets, over UDP and for long answers over TCP.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, Record};

/// The TTL of every record: a change is seen after a second.
const TTL_SECS: u32 = 1;

/// The longest answer over UDP.
const UDP_MAX: usize = 1232;

/// The records of one name; `None`: the server fails to answer.
type Zone = BTreeMap<String, Option<Vec<RData>>>;

/// A name server. It runs until the test ends.
pub struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

impl NameServer {
    pub fn start() -> Self {
        let (socket, listener) = sockets();
        let (address, zone) = (socket.local_addr().unwrap(), Arc::<Mutex<Zone>>::default());
        let served = Arc::clone(&zone);
        std::thread::spawn(move || {
            let mut datagram = [0; 4096];
            while let Ok((len, peer)) = socket.recv_from(&mut datagram) {
                let Ok(asked) = Message::from_vec(&datagram[..len]) else { continue };
                let answer = answer(&asked, &served.lock().unwrap());
                let mut bytes = answer.to_vec().unwrap();
                if bytes.len() > UDP_MAX {
                    bytes = answer.truncate().to_vec().unwrap();
                }
                let _ = socket.send_to(&bytes, peer);
            }
        });
        let served = Arc::clone(&zone);
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut len = [0; 2];
                while stream.read_exact(&mut len).is_ok() {
                    let mut asked = vec![0; u16::from_be_bytes(len).into()];
                    stream.read_exact(&mut asked).unwrap();
                    let answer = answer(&Message::from_vec(&asked).unwrap(), &served.lock().unwrap()).to_vec().unwrap();
                    let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
                    stream.write_all(&[len.as_slice(), &answer].concat()).unwrap();
                }
            }
        });
        Self { address, zone }
    }

    /// The line of `[server]` that makes the proxy ask this server.
    pub fn key(&self) -> String {
        format!("resolver = \"{}\"", self.address)
    }

    fn set(&self, name: &str, records: Option<Vec<RData>>) {
        self.zone.lock().unwrap().insert(format!("{name}."), records);
    }

    /// Sets the addresses of a name.
    pub fn set_addresses(&self, name: &str, addresses: &[&str]) {
        let record = |address: &&str| RData::from(address.parse::<IpAddr>().unwrap());
        self.set(name, Some(addresses.iter().map(record).collect()));
    }

    /// Sets the services of a name: priority, weight, port and target of each.
    pub fn set_services(&self, name: &str, services: &[(u16, u16, u16, &str)]) {
        let record = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
            RData::SRV(SRV::new(*priority, *weight, *port, Name::from_ascii(format!("{target}.")).unwrap()))
        };
        self.set(name, Some(services.iter().map(record).collect()));
    }

    /// Makes the name one that does not exist.
    pub fn remove(&self, name: &str) {
        self.zone.lock().unwrap().remove(&format!("{name}."));
    }

    /// Makes every question about the name fail.
    pub fn fail(&self, name: &str) {
        self.set(name, None);
    }
}

/// Returns sockets for both protocols with the same port.
fn sockets() -> (UdpSocket, TcpListener) {
    let both = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind(socket.local_addr().unwrap()).ok()?;
        Some((socket, listener))
    };
    (0..100).find_map(|_| both()).expect("a port that is free for both protocols")
}

fn answer(asked: &Message, zone: &Zone) -> Message {
    let mut answer = Message::response(asked.metadata.id, OpCode::Query);
    let Some(query) = asked.queries.first() else { return answer };
    answer.add_query(query.clone());
    match zone.get(&query.name().to_ascii().to_ascii_lowercase()) {
        None => answer.metadata.response_code = ResponseCode::NXDomain,
        Some(None) => answer.metadata.response_code = ResponseCode::ServFail,
        Some(Some(records)) => {
            let fitting = records.iter().filter(|record| record.record_type() == query.query_type());
            answer.add_answers(fitting.map(|data| Record::from_rdata(query.name().clone(), TTL_SECS, data.clone())));
        }
    }
    answer
}
