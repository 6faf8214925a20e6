//! Looks up the names of the servers of a client: one look-up per name at a time, and a few at once.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::vec;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use hyper_util::client::legacy::connect::dns::Name;
use tokio::net::lookup_host;
use tokio::sync::{Semaphore, oneshot};
use tower_service::Service;

use crate::runtime::tasks::Tasks;

/// The maximum number of look-ups at once. Each blocks a thread of the runtime.
const AT_ONCE: usize = 4;
/// The maximum number of addresses of a look-up that are kept. Fewer are tried, of both families.
const ADDRESSES_MAX: usize = 64;

type Found = Result<Vec<SocketAddr>, LookUpError>;

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LookUpError(String);

impl fmt::Display for LookUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LookUpError {}

/// A resolver whose clones share their look-ups. All of them must be used by one runtime.
#[derive(Clone)]
pub(super) struct Resolver(Arc<LookUps>);

struct LookUps {
    look_up: Box<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>,
    /// The look-ups in progress. There are at most as many as the configuration and the issuers name servers.
    by_name: Mutex<HashMap<String, Shared<oneshot::Receiver<Found>>>>,
    places: Semaphore,
    tasks: Tasks,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new(|name| Box::pin(async move { Ok(lookup_host((name, 0)).await?.take(ADDRESSES_MAX).collect()) }))
    }
}

impl Resolver {
    fn new(
        look_up: impl Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(LookUps {
            look_up: Box::new(look_up),
            by_name: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
            tasks: Tasks::default(),
        }))
    }

    /// Returns the addresses of a name. A look-up continues in a task for the next requests when those that wait for it
    /// time out. So a resolver that does not answer blocks one thread per name, and not one per request.
    async fn find(&self, name: &str) -> Found {
        let looking = self.join(name);
        looking.await.unwrap_or_else(|_| Err(LookUpError("the look-up was interrupted".to_owned())))
    }

    /// Joins the look-up of the name, or starts one.
    fn join(&self, name: &str) -> Shared<oneshot::Receiver<Found>> {
        let mut by_name = self.0.lock();
        if let Some(looking) = by_name.get(name).filter(|looking| looking.peek().is_none()) {
            return looking.clone();
        }
        let (answer, answered) = oneshot::channel();
        let answered = answered.shared();
        by_name.insert(name.to_owned(), answered.clone());
        let (look_ups, name) = (Arc::clone(&self.0), name.to_owned());
        self.0.tasks.start(async move {
            let place = look_ups.places.acquire().await;
            let found = (look_ups.look_up)(name.clone()).await;
            drop(place);
            look_ups.lock().remove(&name);
            // Nobody waits for the result if all requests have timed out.
            let _ = answer.send(found.map_err(|error| LookUpError(error.to_string())));
        });
        answered
    }
}

impl LookUps {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Shared<oneshot::Receiver<Found>>>> {
        // The map is consistent after every step.
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = LookUpError;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move { resolver.find(name.as_str()).await.map(Vec::into_iter) })
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::future::join_all;
    use futures_util::poll;
    use tokio::sync::mpsc;

    use super::super::tests::block_on;
    use super::*;

    type Question = (String, oneshot::Sender<Vec<SocketAddr>>);

    /// Returns a resolver and the look-ups that it has begun, which the test answers.
    fn resolver() -> (Resolver, mpsc::UnboundedReceiver<Question>) {
        let (sender, begun) = mpsc::unbounded_channel();
        let resolver = Resolver::new(move |name| {
            let (answer, answered) = oneshot::channel();
            sender.send((name, answer)).unwrap();
            Box::pin(async move { answered.await.map_err(|_| io::Error::other("no such name")) })
        });
        (resolver, begun)
    }

    fn addresses() -> Vec<SocketAddr> {
        vec![SocketAddr::from(([192, 0, 2, 1], 0))]
    }

    #[test]
    fn requests_for_a_name_share_a_look_up_even_if_the_first_ones_time_out() {
        block_on(async {
            let (resolver, mut begun) = resolver();
            {
                let mut dropped = pin!(resolver.find("a"));
                assert!(poll!(&mut dropped).is_pending());
            }
            let (_, answer) = begun.recv().await.unwrap();
            let answered = async { answer.send(addresses()).unwrap() };
            let (found, ()) = tokio::join!(join_all((0..100).map(|_| resolver.find("a"))), answered);
            assert!(found.iter().all(|found| *found == Ok(addresses())) && begun.try_recv().is_err());
            let mut again = pin!(resolver.find("a"));
            assert!(poll!(&mut again).is_pending());
            let (_, answer) = begun.recv().await.unwrap();
            drop(answer);
            assert_eq!(again.await, Err(LookUpError("no such name".to_owned())));
        });
    }

    #[test]
    fn a_few_names_are_looked_up_at_once_and_an_abandoned_look_up_gives_its_place_back() {
        block_on(async {
            let (resolver, mut begun) = resolver();
            for number in 0..=AT_ONCE {
                assert!(poll!(pin!(resolver.find(&number.to_string()))).is_pending());
            }
            let mut answers = Vec::new();
            for _ in 0..AT_ONCE {
                answers.push(begun.recv().await.unwrap());
            }
            tokio::task::yield_now().await;
            assert!(begun.try_recv().is_err());
            answers.pop();
            assert_eq!(begun.recv().await.unwrap().0, AT_ONCE.to_string());
        });
    }
}
