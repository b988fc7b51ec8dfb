//! Applies the failed node's transactions, one after another. Each is committed with the failed node's origin, its
//! origin LSN and its commit time, so that rows and progress are durable together (the counterpart of worker.c's
//! apply_handle_begin and apply_handle_commit).

use super::change::{ChangeApplier, ChangesDone, Setting};
use super::stream::Receiver;
use super::touched::{Relation, Touched};
use crate::failpoint::{self, names};
use crate::guc;
use crate::lsn::OriginLsn;
use crate::pg::clock::Timestamp;
use crate::pg::logicalproto::{self, Message};
use crate::pg::memory::MessageContext;
use crate::pg::open_table::OpenTables;
use crate::pg::{origin, transaction};
use crate::tally::replayed::Totals;
use pgrx::PgSqlErrorCode;

/// The transaction that is being received.
struct IncomingTransaction {
    committed_at: Timestamp,
    origin_lsn: OriginLsn,
    /// Whether it is to be applied, because it was not applied before.
    is_wanted: bool,
    /// Whether an earlier attempt has applied it, so that only the rows that it has touched are collected again.
    is_collected: bool,
    /// Whether recover_skip() has given it up.
    is_skipped: bool,
    done: ChangesDone,
}

impl IncomingTransaction {
    fn applier<'a>(&'a mut self, setting: &'a Setting, tables: &'a mut OpenTables) -> ChangeApplier<'a> {
        ChangeApplier {
            tables,
            setting,
            policy: guc::rescue_conflict_resolution(),
            origin_lsn: self.origin_lsn,
            committed_at: self.committed_at,
            done: &mut self.done,
        }
    }
}

pub struct Applier {
    setting: Setting,
    /// The origin LSN up to which the failed node's transactions are applied here, or are not to be applied.
    applied: OriginLsn,
    /// The position of the replication origin.
    origin: OriginLsn,
    skips: Vec<OriginLsn>,
    context: MessageContext,
    tables: OpenTables,
    incoming: Option<IncomingTransaction>,
    is_over: bool,
    /// The tables of the change at hand, by the source's ids, for the report of an error.
    at_hand: Vec<u32>,
    /// The origin LSN at which the replay began: all transactions beyond it have touched rows that are to be compared.
    from: OriginLsn,
    /// The origin LSN up to which transactions were received.
    seen: OriginLsn,
    pub touched: Touched,
    /// What this process has committed.
    pub totals: Totals,
}

impl Applier {
    /// `origin` is the position of the replication origin. Transactions up to `origin` or `skip` are not applied. Those
    /// beyond `from` have touched rows that are to be compared.
    pub fn new(
        setting: Setting,
        origin: OriginLsn,
        skip: OriginLsn,
        from: OriginLsn,
        skips: Vec<OriginLsn>,
    ) -> Applier {
        Applier {
            setting,
            applied: origin.max(skip),
            origin,
            skips,
            context: MessageContext::new(),
            tables: OpenTables::default(),
            incoming: None,
            is_over: false,
            at_hand: Vec::new(),
            from,
            seen: from,
            touched: Touched::default(),
            totals: Totals::default(),
        }
    }

    /// An applier that applies nothing: it reads transactions that were applied, and collects the rows that they have
    /// touched.
    pub fn collector(setting: Setting, from: OriginLsn, skips: Vec<OriginLsn>) -> Applier {
        Applier::new(setting, OriginLsn::INFINITY, from, from, skips)
    }

    /// The origin LSN up to which transactions were received, applied or not.
    pub fn seen(&self) -> OriginLsn {
        self.seen
    }

    pub fn applied(&self) -> OriginLsn {
        self.applied
    }

    /// The origin LSN of the transaction at hand, for the report of an error.
    pub fn at(&self) -> Option<OriginLsn> {
        self.incoming.as_ref().map(|incoming| incoming.origin_lsn).filter(|lsn| *lsn != OriginLsn::ZERO)
    }

    /// The tables of the change at hand, for the report of an error, by the source's names. Local tables have the same
    /// names, and one that is missing has no other.
    pub fn relation(&self) -> Option<String> {
        let name =
            |id: &u32| self.touched.relations.get(id).map(|relation| format!("{}.{}", relation.schema, relation.name));
        (!self.at_hand.is_empty()).then(|| self.at_hand.iter().filter_map(name).collect::<Vec<_>>().join(", "))
    }

    /// Whether the source has met a transaction beyond the stop timestamp.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Notes a table that the source has announced. Core's apply worker leaves out silently what its subscription does
    /// not replicate, such as a table that was created anew without REFRESH PUBLICATION. A dead node's subscription
    /// cannot be refreshed, so this is no error here either, but there is a warning.
    fn note_table(&mut self, id: u32, relation: Relation) {
        let name = (relation.schema.clone(), relation.name.clone());
        let is_known =
            self.touched.relations.values().any(|known| known.schema == relation.schema && known.name == relation.name);
        if !self.setting.subscribed.contains(&name) && !is_known {
            pgrx::warning!(
                "changes of table \"{}.{}\" are left out: the subscription to node \"{}\" does not replicate it here",
                name.0,
                name.1,
                self.setting.failed_node
            );
        }
        self.touched.note_relation(id, relation);
    }

    fn begin(&mut self, committed_at: Timestamp) {
        self.incoming = Some(IncomingTransaction {
            committed_at,
            origin_lsn: OriginLsn::ZERO,
            is_wanted: false,
            is_collected: false,
            is_skipped: false,
            done: ChangesDone::default(),
        });
    }

    fn note_origin(&mut self, lsn: OriginLsn) {
        if let Some(incoming) = &mut self.incoming {
            incoming.origin_lsn = lsn;
            incoming.is_wanted = lsn > self.applied;
            incoming.is_collected = !incoming.is_wanted && lsn > self.from;
            incoming.is_skipped = self.skips.contains(&lsn);
        }
    }

    fn apply(&mut self, change: &Message) {
        let Some(incoming) = &mut self.incoming else { return };
        match change {
            Message::Insert { relation, .. } | Message::Update { relation, .. } | Message::Delete { relation, .. } => {
                self.at_hand.push(*relation);
            }
            Message::Truncate { relations, .. } => self.at_hand.extend_from_slice(relations),
            _ => (),
        }
        let origin_lsn = incoming.origin_lsn;
        let setting = &self.setting;
        let is_wanted = |table: pgrx::pg_sys::Oid| setting.wants(table, origin_lsn);
        match change {
            Message::Insert { relation, new } => self.touched.note(*relation, new, is_wanted),
            Message::Update { relation, old, new } => {
                if let Some(old) = old {
                    self.touched.note(*relation, old, is_wanted);
                }
                self.touched.note(*relation, new, is_wanted);
            }
            Message::Delete { relation, old } => self.touched.note(*relation, old, is_wanted),
            _ => (),
        }
        if incoming.is_collected {
            self.at_hand.clear();
            return;
        }
        let mut applier = incoming.applier(&self.setting, &mut self.tables);
        match change {
            Message::Insert { relation, new } => applier.insert(*relation, new),
            Message::Update { relation, old, new } => applier.update(*relation, old.as_ref(), new),
            Message::Delete { relation, old } => applier.delete(*relation, old),
            Message::Truncate { relations, restart_sequences } => applier.truncate(relations, *restart_sequences),
            _ => (),
        }
        self.at_hand.clear();
    }

    /// Stores the rows that were held back. This comes before anything else is done.
    fn store_held(&mut self) {
        let (Some(relation), Some(incoming)) = (self.tables.take_holding(), &mut self.incoming) else { return };
        self.at_hand.push(relation);
        let mut applier = incoming.applier(&self.setting, &mut self.tables);
        if !transaction::step(|| applier.insert_held(relation)) {
            let mut place = 0;
            while transaction::step(|| applier.insert_one_held(relation, place)) {
                place += 1;
            }
            // No row is held back any more.
            self.tables.take_holding();
        }
        self.at_hand.clear();
    }

    /// Commits the transaction, even if it was given up or held nothing for this node: only a commit moves the
    /// progress.
    fn commit(&mut self) {
        if let Some(incoming) = &self.incoming {
            self.seen = self.seen.max(incoming.origin_lsn);
        }
        let Some(incoming) = self.incoming.as_ref().filter(|incoming| incoming.is_wanted) else {
            self.incoming = None;
            if transaction::is_open() {
                // The transaction has looked up tables, and has written nothing.
                self.tables.close_all();
                transaction::commit_applied();
            }
            return;
        };
        transaction::begin_if_none();
        self.tables.close_all();
        transaction::fire_deferred();
        origin::stamp_commit(incoming.origin_lsn, incoming.committed_at.0);
        failpoint::hit(names::RESCUE_BEFORE_COMMIT);
        transaction::commit_applied();
        let Some(incoming) = self.incoming.take() else { return };
        (self.applied, self.origin) = (incoming.origin_lsn, incoming.origin_lsn);
        self.totals.rows += incoming.done.rows;
        for tally in incoming.done.conflicts {
            self.totals.conflicts += tally.count;
            tally.add_to(&mut self.totals.tallies);
        }
        if incoming.is_skipped {
            self.totals.skipped += 1;
            pgrx::warning!(
                "the transaction of node \"{}\" that ended at {} was skipped",
                self.setting.failed_node,
                incoming.origin_lsn
            );
        } else if incoming.done.rows > 0 {
            self.totals.transactions += 1;
        }
        failpoint::hit(names::RESCUE_AFTER_COMMIT);
    }

    /// Moves the origin when all wanted transactions are applied: to the end of the range, past transactions that
    /// changed nothing here; or, if the stop timestamp has ended the stream, to the last transaction before that.
    pub fn finish(&mut self, stop: OriginLsn) {
        let end = if self.is_over { self.applied } else { self.applied.max(stop) };
        if self.origin < end {
            transaction::begin_if_none();
            origin::stamp_commit(end, 0);
            transaction::commit_applied();
        }
        (self.applied, self.origin) = (end, end);
    }
}

impl Applier {
    /// Handles one message.
    fn take(&mut self, message: Message) {
        match message {
            Message::Begin { committed_at } => self.begin(Timestamp(committed_at)),
            Message::Origin { lsn, .. } => self.note_origin(lsn),
            Message::Relation { relation, schema, name, columns } => {
                self.note_table(relation, Relation { schema, name, columns });
            }
            Message::Over => self.is_over = true,
            Message::Commit => {
                self.store_held();
                self.commit();
            }
            Message::Type => (),
            Message::Other(kind) => {
                pgrx::ereport!(
                    ERROR,
                    PgSqlErrorCode::ERRCODE_PROTOCOL_VIOLATION,
                    format!("unexpected message \"{}\" from the source", char::from(kind).escape_default())
                );
            }
            change => {
                let is_joined =
                    matches!(&change, Message::Insert { relation, .. } if self.tables.takes_more(*relation));
                if !is_joined {
                    self.store_held();
                }
                transaction::step(|| self.apply(&change));
            }
        }
    }
}

impl Receiver for Applier {
    fn handle(&mut self, messages: &[u8]) -> usize {
        let is_change = matches!(messages.first(), Some(b'I' | b'U' | b'D' | b'T'));
        let is_wanted = self
            .incoming
            .as_ref()
            .is_some_and(|incoming| (incoming.is_wanted || incoming.is_collected) && !incoming.is_skipped);
        let is_left = is_change && !is_wanted;
        if (is_change && is_wanted) || matches!(messages.first(), Some(b'R')) {
            // The transaction begins before the message's memory context is entered, because beginning one enters the
            // transaction's own context. Converting a table's name from the database's encoding needs a transaction,
            // too.
            transaction::begin_if_none();
        }
        // The context is taken out during the call, which needs all other fields as well.
        let context = std::mem::replace(&mut self.context, MessageContext::NONE);
        let bytes = context.run(|| {
            if let Some(relation) = logicalproto::told_relation(messages) {
                // Core's relation map frees what the table was opened with.
                self.store_held();
                self.tables.forget(relation);
            }
            let (message, bytes) = logicalproto::read(messages);
            if !is_left {
                if self.incoming.as_ref().is_none_or(|incoming| !incoming.is_collected) {
                    self.totals.bytes += bytes as u64;
                }
                self.take(message);
            }
            bytes
        });
        self.context = context;
        bytes
    }

    fn is_idle(&self) -> bool {
        self.incoming.is_none()
    }
}
