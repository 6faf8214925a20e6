//! The table of the keys of `[cluster]`, which continues that of `keys`.

use std::time::Duration;

use super::key::Default::{Nothing, Required, Value};
use super::key::Kind::{Choice, File, StringList, Text};
use super::key::{keys, span};

keys! {
    /// Every key of `[cluster]`, in the order of `config/example.toml`.
    CLUSTER_KEYS;

    CLUSTER_URL = "cluster" "url", Text, Required,
        "The servers, Redis or Valkey: `redis://HOST:PORT/DB`, `unix:/path?db=DB`, `redis+sentinel://HOST:PORT,.../MASTER/DB` or \
         `redis+cluster://HOST:PORT,...`; with `rediss` instead of `redis`, over TLS.";
    CLUSTER_USERNAME = "cluster" "username", Text, Nothing,
        "The user of the servers (ACL), with `password_file`; absent: the default user.";
    CLUSTER_PASSWORD_FILE = "cluster" "password_file", File, Nothing,
        "A file with the password of the user; the mode of the file must give others no access.";
    CLUSTER_CA = "cluster" "ca", Text, Value("\"system\""),
        "The roots of the servers' certificates: `system`, or a file with certificates in PEM.";
    CLUSTER_SECRET_FILE = "cluster" "secret_file", File, Nothing,
        "A file with a secret of at least 32 bytes that all nodes have: it seals TLS session tickets, so that clients resume at \
         any node, and fresh tokens for other nodes; absent: tickets are accepted, and sessions renewed, only by the node that \
         made them.";
    CLUSTER_PREFIX = "cluster" "prefix", Text, Value("\"tollgate:\""),
        "The start of the names of all keys on the servers: 1 to 64 visible ASCII characters without { and }.";
    CLUSTER_TIMEOUT = "cluster" "timeout", span(Duration::from_millis(10), Duration::from_secs(5)), Value("\"200ms\""),
        "How long an upgrade waits for an answer of the servers before it is refused with 503. After three late answers in a row \
         `on_outage` applies until they answer in time.";
    CLUSTER_NODE_TIMEOUT = "cluster" "node_timeout", span(Duration::from_secs(3), Duration::from_mins(10)), Value("\"15s\""),
        "How long a node may be silent before the others take it for dead, and its slots are free again.";
    CLUSTER_SHARE = "cluster" "share", StringList, Value("[\"quotas\", \"slots\", \"revocations\", \"sessions\"]"),
        "What the nodes share: `quotas`, the rates by subject and address; `slots`, `sessions_per_subject` and \
         `sessions_per_address`; `revocations`; `sessions`, where they are listed, closed and sent to.";
    CLUSTER_ON_OUTAGE = "cluster" "on_outage", Choice(&["local", "refuse"]), Value("\"local\""),
        "While the servers do not answer, each node enforces its share of the limits; or it refuses new sessions at routes with \
         limits that `slots` shares with 503, and is not ready.";
}
