//! Changes of keys. Another node may have given a touched row another key while the target lacked the row. The target
//! has skipped that change, so what the source has under the new key must be compared as well. A source that was itself
//! recovered may have skipped such changes too, and has then written their outcome while reconciling: everything that
//! it has written so is compared.

use crate::apply::stream::Receiver;
use crate::apply::touched::{Relation, Touched};
use crate::pg::logicalproto::{self, Message, Tuple};
use crate::pg::memory::MessageContext;
use crate::pg::transaction;
use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::Oid;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The keys that were touched, or that a touched row has moved to, as hashes over the local table and the key. A
/// superfluous entry costs a comparison.
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

/// What was read from a node's WAL.
#[derive(Default)]
pub struct Moves {
    /// The keys that rows have moved to, and those that the node has written while reconciling its own recoveries.
    pub moved: Touched,
    /// The keys that the node has deleted while reconciling its own recoveries, including keys that are known already.
    pub gone: Touched,
}

impl Moves {
    pub fn count(&self) -> u64 {
        self.moved.count() + self.gone.count()
    }
}

/// Reads the changes of keys in a node's WAL, and what the node has written while reconciling its own recoveries, in
/// their order.
pub struct MoveReader<'a> {
    known: &'a mut KnownKeys,
    pub moves: Moves,
    /// The local tables that the target replicates from the failed node.
    wanted: HashSet<Oid>,
    context: MessageContext,
    is_idle: bool,
    /// Whether the transaction at hand was written while the node reconciled its own recovery.
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

    /// Notes a row that was written while reconciling, whatever the row was before.
    fn note_written(&mut self, relation: u32, row: &Tuple) {
        if let Some((table, key)) = self.moves.moved.key_of(relation, row)
            && self.wanted.contains(&table)
            && hash_of(&self.moves.moved, &key).is_some_and(|key| self.known.0.insert(key))
        {
            self.moves.moved.push(key);
        }
    }

    /// Notes a row that was deleted while reconciling. The target's row may be one that the replay has not written.
    fn note_gone(&mut self, relation: u32, row: &Tuple) {
        if let Some((table, key)) = self.moves.gone.key_of(relation, row)
            && self.wanted.contains(&table)
        {
            self.moves.gone.push(key);
        }
    }

    fn note(&mut self, relation: u32, old: &Tuple, new: &Tuple) {
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
            // The transaction begins before the message's memory context is entered, because beginning one enters the
            // transaction's own context. Converting a table's name from the database's encoding needs a transaction,
            // too.
            transaction::begin_if_none();
        }
        let context = std::mem::replace(&mut self.context, MessageContext::NONE);
        let bytes = context.run(|| {
            let (message, bytes) = logicalproto::read(messages);
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
                    // If a key is stored out of line, only the old row contains it.
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

/// The hash of a key in the form in which `Touched` keeps it. It is taken over the local table, because each node
/// announces the table under its own number.
fn hash_of(touched: &Touched, key: &[u8]) -> Option<u64> {
    let (relation, values) = key.split_first_chunk::<4>()?;
    let table = touched.table(u32::from_ne_bytes(*relation))?;
    let mut hasher = DefaultHasher::new();
    (table, values).hash(&mut hasher);
    Some(hasher.finish())
}
