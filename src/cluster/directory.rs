//! Questions to all nodes, such as for a page of their sessions, and their answers.
//!
//! An answer is an element of a list at the server that only the node which asked reads, and that expires soon: it may
//! have personal data.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::event::{Operation, OperationKind};
use super::events::ShareError;
use super::handle::Cluster;
use super::link::Unavailable;
use super::nodes::NODES_MAX;
use super::time::millis;
use crate::runtime::clock;
use crate::runtime::entropy::random;

/// The largest answer.
pub const ANSWER_MAX_BYTES: usize = 1 << 20;
/// How long answers are kept.
const KEPT: Duration = Duration::from_secs(10);
/// The bounds of the wait for all answers, which is [`WAIT_TIMEOUTS`] times `cluster.timeout`.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(2);
const WAIT_TIMEOUTS: u32 = 5;
/// The bounds of the pauses between two looks for answers: each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(32);

/// The answers of the other nodes.
#[derive(Debug, Default)]
pub struct Answers {
    /// The ids of the nodes with their answers.
    pub answers: Vec<(Arc<str>, Vec<u8>)>,
    /// The nodes that did not answer in time.
    pub missing: Vec<Arc<str>>,
}

impl Cluster {
    /// Asks all other nodes, and waits for their answers.
    ///
    /// # Errors
    /// If the question is too large, or the server does not take it.
    pub async fn ask(&self, text: String) -> Result<Answers, ShareError> {
        let view = self.nodes.live(clock::now()).ok_or(ShareError::Unavailable)?;
        let others = view.nodes.iter().filter(|node| node.id != view.id);
        let mut asked = Answers { answers: Vec::new(), missing: others.map(|node| Arc::clone(&node.id)).collect() };
        if asked.missing.is_empty() {
            return Ok(asked);
        }
        let id = u128::from_be_bytes(random());
        let payload = format!("{id:032x}").into_bytes();
        let question = Operation { kind: OperationKind::Question, text, payload };
        self.events.share_operation(&self.link, question).await?;
        let wait = self.config.timeout.saturating_mul(WAIT_TIMEOUTS).clamp(WAIT_MIN, WAIT_MAX);
        // Without an answer of all, those that arrived are used.
        let _ = tokio::time::timeout(wait, self.receive(id, &mut asked)).await;
        Ok(asked)
    }

    async fn receive(&self, id: u128, asked: &mut Answers) {
        let mut pause = PAUSE_MIN;
        let mut command = redis::pipe();
        command.cmd("LPOP").arg(self.keys.reply(id));
        while !asked.missing.is_empty() {
            let popped = self.link.pipeline::<Vec<Value>>(&command).await;
            let Some(Value::BulkString(answer)) = popped.ok().and_then(|popped| popped.into_iter().next()) else {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(PAUSE_MAX);
                continue;
            };
            let Some((node, body)) = split(&answer) else { continue };
            // Each node answers once. One that has just registered is not in the list yet.
            let is_new = asked.answers.len() < NODES_MAX && asked.answers.iter().all(|(known, _)| **known != *node);
            if is_new {
                asked.missing.retain(|missing| **missing != *node);
                asked.answers.push((node.into(), body.to_owned()));
            }
        }
    }

    /// Answers the question with this id.
    ///
    /// # Errors
    /// If the server does not take the answer, or this node is not registered.
    pub async fn answer(&self, question: &[u8], body: &str) -> Result<(), Unavailable> {
        let id = std::str::from_utf8(question).ok().filter(|id| id.len() == 32);
        let id = id.and_then(|id| u128::from_str_radix(id, 16).ok()).ok_or(Unavailable)?;
        let view = self.nodes.view().ok_or(Unavailable)?;
        let key = self.keys.reply(id);
        let mut commands = redis::pipe();
        commands.cmd("RPUSH").arg(&key).arg(format!("{}\n{body}", view.id)).ignore();
        commands.cmd("PEXPIRE").arg(&key).arg(millis(KEPT)).ignore();
        self.link.pipeline(&commands).await
    }
}

/// Splits an answer into the id of its node and its body; `None` if it is too large, or has another form.
fn split(answer: &[u8]) -> Option<(&str, &[u8])> {
    let end = answer.iter().take(64).position(|byte| *byte == b'\n')?;
    let (node, body) = (answer.get(..end)?, answer.get(end.saturating_add(1)..)?);
    Some((std::str::from_utf8(node).ok()?, body)).filter(|(_, body)| body.len() <= ANSWER_MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_id_of_its_node() {
        assert_eq!(split(b"17-ab\n{}\n"), Some(("17-ab", b"{}\n".as_slice())));
        let large = [b"1\n".as_slice(), &vec![b'x'; ANSWER_MAX_BYTES + 1]].concat();
        for other in [b"".as_slice(), b"17-ab", b"\xff\n{}", &[b'1'; 100], &large] {
            assert_eq!(split(other), None);
        }
    }
}
