//! Rows that the replay has touched, and to which others had given another key: the target has skipped that, and what the
//! source has under the new key is to be compared as well.

use super::touched::{Relation, Touched};
use crate::apply::stream::Receiver;
use crate::pg::logicalrep::{self, Message};
use crate::pg::memory::MessageContext;
use crate::pg::transaction;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Reads all changes of keys that the source has seen, in their order.
pub struct MoveReader {
    /// Keys that were touched, or that a row which was touched has moved to, by their hashes: one too many costs a look.
    known: HashSet<u64>,
    /// Keys that rows have moved to.
    pub moved: Touched,
    context: MessageContext,
    is_idle: bool,
}

impl MoveReader {
    pub fn new(touched: &mut Touched) -> MoveReader {
        touched.rewind();
        let mut known = HashSet::new();
        while let Some(key) = touched.next_bytes() {
            known.insert(hash(&key));
        }
        MoveReader { known, moved: Touched::default(), context: MessageContext::new(), is_idle: true }
    }

    fn note(&mut self, relation: u32, old: &logicalrep::Tuple, new: &logicalrep::Tuple) {
        let (Some((_, old)), Some((_, new))) = (self.moved.key_of(relation, old), self.moved.key_of(relation, new))
        else {
            return;
        };
        if old != new && self.known.contains(&hash(&old)) {
            self.known.insert(hash(&new));
            self.moved.push(new);
        }
    }
}

impl Receiver for MoveReader {
    fn handle(&mut self, message: &[u8]) {
        if matches!(message.first(), Some(b'U' | b'R')) {
            // Before the message's memory context is entered: beginning enters the transaction's. A table's name is
            // converted from the database's encoding, which needs one as well.
            transaction::begin_if_none();
        }
        let context = std::mem::replace(&mut self.context, MessageContext::NONE);
        context.run(|| match logicalrep::read(message) {
            Message::Begin { .. } => self.is_idle = false,
            Message::Relation { relation, schema, name, columns } => {
                self.moved.note_relation(relation, Relation { schema, name, columns });
            }
            Message::Update { relation, old: Some(old), new } => {
                transaction::step(|| self.note(relation, &old, &new));
            }
            Message::Commit => {
                self.is_idle = true;
                if transaction::is_open() {
                    transaction::commit_applied();
                }
            }
            _ => (),
        });
        self.context = context;
    }

    fn is_idle(&self) -> bool {
        self.is_idle
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
