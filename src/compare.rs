//! Comparing one table of two nodes by ranges of keys: hashes over about 500 rows each are compared, and only where
//! they differ are keys and hashes of single rows fetched. The comparison writes nothing, and holds neither rows nor
//! the keys that differ.
//!
//! # How to use it
//!
//! ```ignore
//! let mut here = Here::new("n2");                       // this node: in the caller's transaction, if one is open
//! let mut there = There::new("n3", &mut connection);    // a peer, over src/remote/connection.rs
//! let table = Table::learn(request, &mut here, &mut there)??;           // the inner Err: why it is not comparable
//! let mut comparison = Comparison::new(&table, Pace::of(10), seed);
//! let ended = comparison.run(Progress::default(), &mut here, &mut there, |found| …, |progress| …)??;
//! ```
//!
//! `run` calls its first closure with each key that differs ([`found::Found`]: missing here, missing there, different),
//! and its second after each span of ranges with the [`progress::Progress`], which is also the position from which a
//! comparison that was broken off goes on. If that closure returns false, the comparison ends there. A consumer that
//! has to keep the keys keeps them in a [`found::FoundKeys`], which spills to a temporary file.
//!
//! Within a transaction that is open on the connection, `There::in_transaction` keeps the transaction usable when a
//! question is refused; so the peer may be read under an imported snapshot. The local side likewise runs in the
//! caller's transaction if one is open, each question in a subtransaction with a new snapshot (or the transaction's
//! own, under REPEATABLE READ), and else in a transaction per question.
//!
//! Without a snapshot on each node that shows the same transactions, keys are reported that are only not replicated
//! yet. The caller looks at these again.
//!
//! # Which order
//!
//! Ranges are those of this node's key, in the order of the key's index, so that each range is an index scan. The two
//! nodes may order texts differently (collation, encoding, version of the C library). This costs time, but nothing is
//! missed: the boundaries lead from before the first key to after the last one, step by step, and such a path passes
//! every key in any order. A row that the other node has in another range makes both ranges differ, and a key that one
//! node alone seems to have is looked up on both nodes before it is reported, unless both are known to order alike.
//! A common order was decided against: no index supports one, so that every range would read and sort the whole table.
//!
//! # What is hashed
//!
//! The text of a row of the replicated columns in one order, in UTF-8, with the settings for the style of texts fixed.
//! Each node plans and runs its own query as the owner of its table (src/pg/owned_table.rs). The row filter of a
//! publication is never sent: each node applies its own to its own rows. So the rows that are compared are those that
//! one of the two nodes publishes, and the other node's row for such a key counts whether or not it passes that node's
//! filter.
//!
//! | what | where |
//! |---|---|
//! | pure: questions and answers, keys that differ, how far a comparison has got, the pace | question, found, progress, pace |
//! | answering a question from this node's table | answer, query |
//! | asking this node or a peer | side |
//! | what is compared of a table | table |
//! | the comparison | comparison, run, span |

mod answer;
pub mod comparison;
pub mod found;
pub mod pace;
pub mod progress;
mod query;
pub mod question;
mod run;
pub mod side;
mod span;
pub mod table;
