//! The names of the keys at the server. Each has the prefix, the version of the format, and a time to live.

use std::fmt::Display;
use std::sync::Arc;

/// The version of the format of keys and values. Nodes with another version share nothing with this one.
const VERSION: u32 = 1;

/// The names of keys.
#[derive(Debug, Clone)]
pub struct Keys(Arc<str>);

impl Keys {
    /// Creates the names that begin with this prefix.
    pub fn new(prefix: &str) -> Self {
        Self(format!("{prefix}{VERSION}:").into())
    }

    /// Returns the registered nodes with the times of their last heartbeats, and what they say about themselves. Both
    /// have the same hash tag, so that one script may use both in a Redis Cluster.
    pub fn nodes(&self) -> [String; 2] {
        [self.named("{nodes}:seen"), self.named("{nodes}:facts")]
    }

    /// Returns the streams of events that are read later, too, and of those that concern only the present. One command
    /// reads both in a Redis Cluster.
    pub fn streams(&self) -> [String; 2] {
        [self.named("{events}:control"), self.named("{events}:sends")]
    }

    /// Returns the ends of revocations by id (sorted set), the revocations by id (hash), the times at which revocations were
    /// removed by id (hash), and the mark of these data (string). They have the hash tag of the streams.
    pub fn revocations(&self) -> [String; 4] {
        ["ends", "revocations", "removed", "mark"].map(|name| self.named(format_args!("{{events}}:{name}")))
    }

    /// Returns the list of answers to the question with this id.
    pub fn reply(&self, question: u128) -> String {
        self.named(format_args!("reply:{question:032x}"))
    }

    /// Returns the key with this name.
    pub fn named(&self, name: impl Display) -> String {
        format!("{}{name}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_prefix_and_the_version() {
        let keys = Keys::new("tollgate:");
        assert_eq!(keys.named("x"), "tollgate:1:x");
        assert_eq!(keys.nodes(), ["tollgate:1:{nodes}:seen", "tollgate:1:{nodes}:facts"]);
    }
}
