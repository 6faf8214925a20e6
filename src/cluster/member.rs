//! The names of sessions in the sorted sets of slots: the id of the node, a slash, and the id of the session.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::policy::session_slots::SessionId;

/// Returns the name of a session of a node in a sorted set.
pub(super) fn member(node: &str, id: SessionId) -> String {
    format!("{node}/{}", URL_SAFE_NO_PAD.encode(id.to_be_bytes()))
}

/// Returns the node and the session of a name.
pub(super) fn node_and_session(member: &str) -> Option<(&str, SessionId)> {
    let (node, session) = member.rsplit_once('/')?;
    let bytes = URL_SAFE_NO_PAD.decode(session).ok()?;
    Some((node, SessionId::from_be_bytes(bytes.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_name_the_session() {
        let name = member("1764273600000-ab12cd34", 7);
        assert_eq!(name, "1764273600000-ab12cd34/AAAAAAAAAAAAAAAAAAAABw");
        assert_eq!(node_and_session(&name), Some(("1764273600000-ab12cd34", 7)));
        for other in ["", "x", "1-a/", "1-a/AAAA", "1-a/AAAAAAAAAAAAAAAAAAAAB!"] {
            assert_eq!(node_and_session(other), None, "{other}");
        }
    }
}
