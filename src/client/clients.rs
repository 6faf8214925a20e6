//! The HTTP clients of one runtime, by the roots that they trust.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::http_client::HttpClient;
use super::resolver::Resolver;
use crate::policy::remote::Roots;

/// The maximum number of clients. Roots that a reload removed may still have one; the oldest is dropped.
const CLIENTS_MAX: usize = 64;
/// The maximum number of unused connections to one server.
pub const IDLE_MAX: usize = 8;

/// The HTTP clients of one runtime, which share their look-ups. Each is created by its first use.
#[derive(Default)]
pub struct HttpClients {
    clients: Mutex<Vec<(Roots, HttpClient)>>,
    resolver: Resolver,
}

impl HttpClients {
    /// Returns the client for servers whose certificates lead to these roots.
    pub fn trusting(&self, roots: &Roots) -> HttpClient {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(known, _)| known == roots) {
            return client.clone();
        }
        let client = HttpClient::with_resolver(roots, IDLE_MAX, self.resolver.clone());
        if clients.len() >= CLIENTS_MAX {
            clients.remove(0);
        }
        clients.push((roots.clone(), client.clone()));
        client
    }
}

impl fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClients").finish_non_exhaustive()
    }
}
