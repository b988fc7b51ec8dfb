//! Rows that the replay has touched, and to which others had given another key: the target has skipped that, and what the
//! source has under the new key is to be compared as well. Where the source was itself recovered, it has skipped that too, and
//! has written it of its own since: all that it has written so is compared.

use crate::apply::stream::Receiver;
use crate::apply::touched::{Relation, Touched};
use crate::pg::logicalrep::{self, Message};
use crate::pg::memory::MessageContext;
use crate::pg::transaction;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::Oid;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Keys that were touched, or that a row which was touched has moved to, by our table and their hashes: one too many costs a
/// look.
pub struct KnownKeys(HashSet<u64>);

impl KnownKeys {
    pub fn of(touched: &mut Touched) -> KnownKeys {
        touched.rewind();
        let mut known = HashSet::new();
        while let Some(key) = touched.next_bytes() {
            known.extend(hash_of(touched, &key));
        }
        KnownKeys(known)
    }
}

/// What a node's WAL tells.
#[derive(Default)]
pub struct Moves {
    /// Keys that rows have moved to, and those of what a recovery of the node has written.
    pub moved: Touched,
    /// Those of what a recovery of the node has deleted, also where they are known already.
    pub gone: Touched,
}

impl Moves {
    pub fn count(&self) -> u64 {
        self.moved.count() + self.gone.count()
    }
}

/// Reads all changes of keys that a node has seen, and what it has written of its own recoveries, in their order.
pub struct MoveReader<'a> {
    known: &'a mut KnownKeys,
    pub moves: Moves,
    /// Our tables that the target replicates from the failed node.
    wanted: HashSet<Oid>,
    context: MessageContext,
    is_idle: bool,
    /// The transaction at hand is one of the node's recoveries.
    is_reconciled: bool,
}

impl<'a> MoveReader<'a> {
    pub fn new(known: &'a mut KnownKeys, wanted: HashSet<Oid>) -> MoveReader<'a> {
        MoveReader {
            known,
            moves: Moves::default(),
            wanted,
            context: MessageContext::new(),
            is_idle: true,
            is_reconciled: false,
        }
    }

    /// A row that was written of a recovery: whatever it was before.
    fn note_written(&mut self, relation: u32, row: &logicalrep::Tuple) {
        if let Some((table, key)) = self.moves.moved.key_of(relation, row)
            && self.wanted.contains(&table)
            && hash_of(&self.moves.moved, &key).is_some_and(|key| self.known.0.insert(key))
        {
            self.moves.moved.push(key);
        }
    }

    /// A row that a recovery has deleted: the target's may be one that the replay has not written.
    fn note_gone(&mut self, relation: u32, row: &logicalrep::Tuple) {
        if let Some((table, key)) = self.moves.gone.key_of(relation, row)
            && self.wanted.contains(&table)
        {
            self.moves.gone.push(key);
        }
    }

    fn note(&mut self, relation: u32, old: &logicalrep::Tuple, new: &logicalrep::Tuple) {
        let moved = &mut self.moves.moved;
        let (Some((_, old)), Some((_, new))) = (moved.key_of(relation, old), moved.key_of(relation, new)) else {
            return;
        };
        let is_known = hash_of(moved, &old).is_some_and(|old| self.known.0.contains(&old));
        if old != new && is_known && hash_of(moved, &new).is_some_and(|new| self.known.0.insert(new)) {
            moved.push(new);
        }
    }
}

impl Receiver for MoveReader<'_> {
    fn handle(&mut self, messages: &[u8]) -> usize {
        if matches!(messages.first(), Some(b'U' | b'I' | b'D' | b'R')) {
            // Before the message's memory context is entered: beginning enters the transaction's. A table's name is
            // converted from the database's encoding, which needs one as well.
            transaction::begin_if_none();
        }
        let context = std::mem::replace(&mut self.context, MessageContext::NONE);
        let bytes = context.run(|| {
            let (message, bytes) = logicalrep::read(messages);
            match message {
                Message::Begin { .. } => self.is_idle = false,
                Message::Origin { is_reconciled, .. } => self.is_reconciled = is_reconciled,
                Message::Relation { relation, schema, name, columns } => {
                    let told = Relation { schema, name, columns };
                    self.moves.gone.note_relation(relation, told.clone());
                    self.moves.moved.note_relation(relation, told);
                }
                Message::Insert { relation, new: row } if self.is_reconciled => {
                    transaction::step(|| self.note_written(relation, &row));
                }
                Message::Delete { relation, old: row } if self.is_reconciled => {
                    transaction::step(|| self.note_gone(relation, &row));
                }
                Message::Update { relation, old, new } if self.is_reconciled => transaction::step(|| {
                    // A key that is stored out of line stands in the old row alone.
                    old.iter().chain([&new]).for_each(|row| self.note_written(relation, row));
                }),
                Message::Update { relation, old: Some(old), new } => {
                    transaction::step(|| self.note(relation, &old, &new));
                }
                Message::Commit => {
                    self.is_idle = true;
                    if transaction::is_open() {
                        transaction::commit_applied();
                    }
                }
                Message::Type | Message::Insert { .. } | Message::Update { .. } | Message::Delete { .. } => (),
                Message::Truncate { .. } | Message::Over | Message::Other(_) => {
                    pgrx::ereport!(
                        ERROR,
                        PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
                        "unexpected message from the source"
                    );
                }
            }
            bytes
        });
        self.context = context;
        bytes
    }

    fn is_idle(&self) -> bool {
        self.is_idle
    }
}

/// Of a key as `Touched` keeps it: whichever node has told it by its own number of the table.
fn hash_of(touched: &Touched, key: &[u8]) -> Option<u64> {
    let (relation, values) = key.split_first_chunk::<4>()?;
    let table = touched.table(u32::from_ne_bytes(*relation))?;
    let mut hasher = DefaultHasher::new();
    (table, values).hash(&mut hasher);
    Some(hasher.finish())
}
