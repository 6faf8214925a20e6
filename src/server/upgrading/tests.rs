//! Tests of `upgrading`: sockets that move to another server, and back.

use std::path::PathBuf;

use super::super::tests::{Directory, Running, ask, bind, config, is_served, pass};
use super::*;
use crate::config::{Config, ListenAddress};
use crate::front::revoker::RevokeError;
use crate::policy::revocation::entry::{Kind, Revocation, Target};
use crate::runtime::clock;
use crate::server::reload::ReloadOptions;

/// Returns a configuration with a listener of TCP and one of a Unix socket, and the path of the latter.
fn two_listeners(directory: &Directory) -> (Config, PathBuf) {
    let path = directory.path("listener.sock");
    let unix = format!("unix:{}", path.display());
    (config(&["127.0.0.1:0", &unix], "server = { drain_timeout = \"1s\", shutdown_delay = \"1h\" }"), path)
}

fn ask_all(addresses: &[ListenAddress]) -> Vec<Box<dyn super::super::tests::Stream>> {
    addresses.iter().map(|address| ask(address, "GET /")).collect()
}

fn are_served(waiting: Vec<Box<dyn super::super::tests::Stream>>) -> bool {
    waiting.into_iter().all(is_served)
}

#[tokio::test]
async fn connections_in_the_queue_are_served_by_the_new_process() {
    let directory = Directory::new("upgrade-moves");
    let (config, path) = two_listeners(&directory);
    let old = Running::start(bind(config.clone(), None));
    let addresses = old.addresses.clone();
    let permit = old.control.upgrade().await.unwrap();
    let new = bind(config, Some(pass(permit.sockets().await.unwrap())));
    assert_eq!(new.addresses(), addresses, "the kernel chose the port");
    permit.pause_accepting().await.unwrap();
    let waiting = ask_all(&addresses);
    let new = Running::start(new);
    assert!(are_served(waiting));
    permit.leave().await.unwrap();
    // The drain starts without the shutdown delay.
    old.end();
    assert!(path.exists(), "the new process serves the socket");
    let control = new.control.clone();
    std::thread::spawn(move || control.complete_handover()).join().unwrap();
    assert!(are_served(ask_all(&addresses)));
    assert!(!new.control.is_upgrading());
    // The next upgrade works, too.
    let permit = new.control.upgrade().await.unwrap();
    assert_eq!(permit.sockets().await.unwrap().sockets.len(), 2);
    drop(permit);
    drop(new);
    assert!(!path.exists(), "the last process removes its file");
}

#[tokio::test]
async fn connections_in_the_queue_are_served_after_a_failed_upgrade() {
    let directory = Directory::new("upgrade-fails");
    let (config, path) = two_listeners(&directory);
    let old = Running::start(bind(config.clone(), None));
    let addresses = old.addresses.clone();
    for is_dropped in [false, true] {
        let permit = old.control.upgrade().await.unwrap();
        // The new process ends before it runs.
        drop(bind(config.clone(), Some(pass(permit.sockets().await.unwrap()))));
        assert!(path.exists());
        permit.pause_accepting().await.unwrap();
        let waiting = ask_all(&addresses);
        if !is_dropped {
            permit.resume_accepting().await.unwrap();
        }
        drop(permit);
        assert!(are_served(waiting), "{is_dropped}");
        assert!(are_served(ask_all(&addresses)), "{is_dropped}");
    }
    drop(old);
    assert!(!path.exists());
}

#[tokio::test]
async fn sockets_that_the_new_configuration_lacks_are_closed() {
    let directory = Directory::new("upgrade-lacks");
    let (before, path) = two_listeners(&directory);
    let added = directory.path("added.sock");
    let old = Running::start(bind(before, None));
    let tcp = old.addresses[0].clone();
    let permit = old.control.upgrade().await.unwrap();
    let after = config(&[&format!("unix:{}", added.display()), &tcp.to_string()], "");
    // The address is now that which the kernel chose before.
    let new = bind(after, Some(pass(permit.sockets().await.unwrap())));
    assert!(path.exists(), "the old process serves it");
    permit.pause_accepting().await.unwrap();
    let new = Running::start(new);
    permit.leave().await.unwrap();
    old.end();
    assert!(are_served(ask_all(&[tcp, ListenAddress::Unix(added)])));
    assert!(!path.exists());
    drop(new);
}

#[tokio::test]
async fn nothing_changes_while_the_permit_is_held() {
    let old = Running::start(bind(config(&["127.0.0.1:0"], ""), None));
    let control = &old.control;
    let target = Target::new(Kind::Token, None, "a").unwrap();
    let now = clock::both().unix;
    let revocation =
        Revocation { target, issued_before: None, expires: now + Duration::from_secs(60), created: now, reason: None };
    let permit = control.upgrade().await.unwrap();
    assert!(control.is_upgrading());
    assert_eq!(control.upgrade().await.unwrap_err(), PermitError::InProgress);
    assert!(matches!(control.reload(ReloadOptions::default()).await, Err(ReloadError::Upgrading)));
    let revoked = control.gateway().revoker.revoke(revocation.clone()).await;
    assert_eq!(revoked.unwrap_err(), RevokeError::Upgrading);
    assert!(control.gateway().refreshes.try_acquire().is_err());
    drop(permit);
    // The next request is served after the end of the upgrade.
    assert!(matches!(control.reload(ReloadOptions::default()).await, Err(ReloadError::NoFile)));
    assert!(!control.is_upgrading());
    assert!(control.gateway().refreshes.try_acquire().is_ok());
    control.gateway().revoker.revoke(revocation).await.unwrap();
}

#[tokio::test]
async fn an_upgrade_ends_when_the_process_is_stopped() {
    let directory = Directory::new("upgrade-stopped");
    let path = directory.path("listener.sock");
    let listener = format!("unix:{}", path.display());
    let old = Running::start(bind(config(&[&listener], "server = { drain_timeout = \"1s\" }"), None));
    let control = old.control.clone();
    let permit = control.upgrade().await.unwrap();
    permit.pause_accepting().await.unwrap();
    old.stop();
    permit.stopped().await;
    let target = Target::new(Kind::Token, None, "a").unwrap();
    let change = control.gateway().revoker.remove(target.id()).await;
    assert_eq!(change.unwrap_err(), RevokeError::Upgrading, "the new process may store revocations");
    assert_eq!(permit.sockets().await.unwrap_err(), PermitError::Stopping);
    assert_eq!(permit.leave().await.unwrap_err(), PermitError::Stopping);
    assert_eq!(control.upgrade().await.unwrap_err(), PermitError::Stopping);
    old.end();
    assert!(path.exists(), "the new process serves the socket");
    assert_eq!(control.upgrade().await.unwrap_err(), PermitError::Stopping);
}

/// During the shutdown delay the control loop still executes requests.
#[tokio::test]
async fn a_process_that_is_stopping_is_not_replaced() {
    let server = bind(config(&["127.0.0.1:0"], "server = { shutdown_delay = \"1h\", drain_timeout = \"1s\" }"), None);
    let old = Running::start(server);
    // The server executes requests: it runs.
    drop(old.control.upgrade().await.unwrap());
    old.stop();
    while old.control.gateway().process.lifecycle.is_ready() {
        tokio::task::yield_now().await;
    }
    assert_eq!(old.control.upgrade().await.unwrap_err(), PermitError::Stopping);
    old.stop();
    old.end();
}
