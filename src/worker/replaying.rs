//! The first part of a rescue: what the target lacks of the failed node is streamed from a clone of the source's
//! recovery slot, and applied under the failed node's origin.

use super::rescue::{Rescue, goes_on, show_counts, with_entry};
use super::trouble::{Trouble, remote};
use crate::apply::change::{Setting, nodes_by_origin};
use crate::apply::stream::{Ended, Stream};
use crate::apply::touched::Touched;
use crate::apply::transaction::Applier;
use crate::failpoint::{self, names};
use crate::guc;
use crate::intent::document::{Intent, Phase};
use crate::lsn::OriginLsn;
use crate::node::provider::Route;
use crate::pg::apply_as::ApplyAs;
use crate::pg::clock::{Monotonic, Timestamp};
use crate::pg::logicalrep;
use crate::pg::{interrupts, origin, process, transaction, untrusted_user};
use crate::plan::Wishes;
use crate::recover::error::RecoverError;
use crate::recover::prove::prove;
use crate::recover::source::{Source, SourceFacts, route_to};
use crate::recover::target::{self, TargetFacts};
use crate::recover::{facts, suspend};
use crate::shmem::RescueEntry;
use std::time::Instant;

impl Rescue {
    /// Replays everything up to the end of the range. Returns the origin's final position, the identity to write rows
    /// with, and the rows that were touched. No subscription is suspended and no row is changed before the source has
    /// been checked.
    ///
    /// # Errors
    /// [`Trouble::MustStop`] if the recovery is to be aborted; otherwise why this attempt has failed.
    pub(super) fn replay(&mut self) -> Result<(OriginLsn, ApplyAs, Touched), Trouble> {
        let intent: &Intent = &self.intent();
        let request = &intent.request;
        process::report_activity("asking the source");
        let (target, route) =
            transaction::run(|| Ok::<_, RecoverError>((target::look(&request.failed)?, route_to(&request.source)?)))?;
        let mut source = Source::open(&request.source, &route)?;
        let (clone, is_new) = self.clone_on(&mut source)?;
        failpoint::hit(names::RESCUE_CLAIMED);
        // The source tells last where its WAL ends, so that everything that it reports as applied lies before that.
        let theirs = source.node_facts(&request.failed)?;
        let streamed = source.facts(&request.failed, &target.tables)?;
        drop(source);
        let ours = transaction::run(|| facts::gather(&request.failed))?;
        let bounded = |skip, stop| Wishes { skip, stop, has_clone: true, ..Wishes::default() };
        let range = match &intent.checkpoint {
            None => {
                let range = prove(request, &ours, &theirs, bounded(request.skip, request.stop))?;
                (range.skip, range.stop)
            }
            // The range stays as the first checkpoint has fixed it. If the clone was made later, what it still holds is
            // proved again.
            Some(checkpoint) => {
                let skip = ours.lacks_from().unwrap_or(target.applied).max(checkpoint.skip);
                if is_new && skip < checkpoint.stop {
                    prove(request, &ours, &theirs, bounded(Some(skip), Some(checkpoint.stop)))?;
                }
                (checkpoint.skip, checkpoint.stop)
            }
        };
        process::report_activity("suspending subscriptions");
        self.write(|journal, done| {
            journal.checkpoint(intent.id, Phase::Suspending, Some(range), done, Timestamp::now())?;
            suspend::suspend(journal, &request.failed)
        })?;
        self.suspended_since = Some(Instant::now());
        failpoint::hit(names::RESCUE_SUSPENDED);
        suspend::wait_until_gone(&request.failed, guc::rescue_lock_timeout())?;
        self.write(|journal, done| {
            journal.checkpoint(intent.id, Phase::Replaying, None, done, Timestamp::now())?;
            Ok(())
        })?;
        let feed = Feed { clone: &clone, facts: &streamed, route: &route, skip: range.0, stop: range.1 };
        let replayed = self.stream(&target, &feed)?;
        failpoint::hit(names::RESCUE_ORIGIN_SET);
        Ok(replayed)
    }

    /// Returns the clone to stream from, which this recovery alone uses, and whether it was made just now.
    fn clone_on(&mut self, source: &mut Source) -> Result<(String, bool), Trouble> {
        let intent: &Intent = &self.intent();
        let request = &intent.request;
        if let Some(clone) = intent.clone_name() {
            match source.clone_facts(clone) {
                Ok(_) => {
                    source.claim(clone, intent.id, &request.failed, &request.target)?;
                    return Ok((clone.to_owned(), false));
                }
                // A clone that the recovery had made itself and that was lost on the source (a promoted standby has no
                // slots) is made again.
                Err(RecoverError::NoClone { .. } | RecoverError::CloneInvalid { .. }) if request.clone.is_none() => (),
                Err(error) => return Err(error.into()),
            }
        }
        let clone = source.make_clone(intent.id, intent.begun_at, &request.failed, &request.target)?;
        failpoint::hit(names::RESCUE_CLONE_MADE);
        self.write(|journal, _| Ok(journal.note_clone(intent.id, &clone)?))?;
        Ok((clone, true))
    }

    /// Streams the transactions in (`skip`, `stop`] and applies them under the failed node's origin. Returns what
    /// [`Rescue::replay`] returns.
    fn stream(&mut self, target: &TargetFacts, feed: &Feed<'_>) -> Result<(OriginLsn, ApplyAs, Touched), Trouble> {
        let intent: &Intent = &self.intent();
        let Some((apply_as, progress)) = begin_applying(intent, target) else {
            process::keep_books();
            return Err(RecoverError::NoSubscription { failed: intent.request.failed.clone() }.into());
        };
        // Tables were copied up to a position before `skip`; what an earlier attempt has applied is covered by the
        // origin's progress.
        let applied = progress.max(feed.skip);
        // The stream begins at the beginning of the range: transactions that were applied before are read again for the
        // rows that they have touched.
        let from = touched_from(intent, feed.skip);
        let setting = setting_of(intent, target, apply_as);
        let mut applier = Applier::new(setting, progress, feed.skip, from, intent.skips.clone());
        let index = self.index;
        with_entry(index, |entry| {
            entry.replay_began_at = Monotonic::now();
            entry.replay_began_from = applied;
            show_progress(entry, &applier);
        });
        let outcome = interrupts::catch(|| receive(intent, feed, from, &mut applier, index));
        // This comes first, because what is written from here on is no transaction of the failed node.
        let (relation, origin_lsn, position) = (applier.relation(), applier.at(), applier.applied());
        origin::forget_stamp();
        if outcome.is_err() || transaction::is_open() {
            // There was an ERROR, or the stream broke off within a transaction.
            transaction::abort_current();
        }
        origin::reset();
        untrusted_user::leave_session();
        process::keep_books();
        with_entry(index, |entry| show_progress(entry, &applier));
        self.done += applier.totals;
        match outcome {
            Err(report) => Err(Trouble::Raised { report, relation, origin_lsn }),
            Ok(Err(error)) => {
                // A position that the source reports is believed only if it is one of a transaction that was requested.
                let told = error.origin_lsn().filter(|lsn| position < *lsn && *lsn <= feed.stop);
                Err(Trouble::Streaming { origin_lsn: told.or(origin_lsn), error: Box::new(error) })
            }
            Ok(Ok(Ended::Stopped)) => Err(Trouble::MustStop),
            Ok(Ok(Ended::Complete)) => Ok((position, apply_as, applier.touched)),
        }
    }
}

/// What is streamed, and from where.
struct Feed<'a> {
    route: &'a Route,
    clone: &'a str,
    facts: &'a SourceFacts,
    skip: OriginLsn,
    stop: OriginLsn,
}

/// Makes this process the applier of the target's subscription to the failed node. Returns as whom rows are written,
/// and the origin's progress; None if the subscription was dropped.
fn begin_applying(intent: &Intent, target: &TargetFacts) -> Option<(ApplyAs, OriginLsn)> {
    process::report_activity(&format!("replaying node {}", intent.request.failed));
    process::apply_like_a_replica();
    // The subscriptions to the other survivors stand still meanwhile, so waits for locks are limited.
    process::wait_for_locks(guc::rescue_lock_timeout().unwrap_or_default());
    transaction::run(|| {
        logicalrep::become_applier_of(target.subscription).map(|apply_as| {
            untrusted_user::enter_session_of(apply_as.owner);
            (apply_as, origin::set_up(target.origin_id))
        })
    })
}

/// Receives and applies the transactions from `from` on. An ERROR while one is applied passes through. `index`: the
/// database's place in shared memory.
fn receive(
    intent: &Intent,
    feed: &Feed<'_>,
    from: OriginLsn,
    applier: &mut Applier,
    index: usize,
) -> Result<Ended, RecoverError> {
    let goes_on = |applier: &Applier| {
        with_entry(index, |entry| show_progress(entry, applier));
        goes_on(index)
    };
    let ended = if from < feed.stop {
        let settings = plugin_settings(intent, feed.facts, from, feed.stop);
        let mut stream = Stream::open(feed.route, feed.clone, &settings, guc::peer_timeout())
            .map_err(|error| remote(intent, error))?;
        let is_complete = |applier: &Applier| applier.is_over() || applier.seen() >= feed.stop;
        stream.run(applier, feed.facts.until, is_complete, goes_on).map_err(|error| remote(intent, error))?
    } else {
        Ended::Complete
    };
    if ended == Ended::Complete {
        failpoint::hit(names::RESCUE_REPLAYED);
        applier.finish(feed.stop);
    }
    Ok(ended)
}

/// Where the transactions begin whose rows are to be compared: before `skip` if earlier recoveries were aborted, whose
/// rows are compared as well.
pub(super) fn touched_from(intent: &Intent, skip: OriginLsn) -> OriginLsn {
    intent.touched_from.map_or(skip, |from| from.min(skip))
}

pub(super) fn plugin_settings(
    intent: &Intent,
    facts: &SourceFacts,
    skip: OriginLsn,
    stop: OriginLsn,
) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        // Time limits that apply to the role's sessions on the source must not end this one.
        ("statement_timeout", "0".to_owned()),
        ("transaction_timeout", "0".to_owned()),
        ("lock_timeout", "0".to_owned()),
        ("spock.rescue_origin", facts.origin_id.to_string()),
        ("spock.rescue_skip_lsn", skip.min(stop).to_string()),
        ("spock.rescue_stop_lsn", stop.to_string()),
        ("spock.rescue_stop_timestamp", intent.request.stop_timestamp.map_or(String::new(), |at| at.0.to_string())),
        ("spock.rescue_tables", facts.tables.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
        ("spock.rescue_packed", "on".to_owned()),
    ];
    if !intent.skips.is_empty() {
        let skips = intent.skips.iter().map(OriginLsn::to_string).collect::<Vec<_>>();
        settings.push(("spock.rescue_given_up", skips.join(",")));
    }
    // The last attempt has failed without naming a transaction. One that takes too many resources may have ended the
    // source's process, so the source announces each before it sends its changes.
    if intent.failure.as_ref().is_some_and(|failure| failure.origin_lsn.is_none()) {
        settings.push(("spock.rescue_announced", "on".to_owned()));
    }
    settings
}

pub(super) fn setting_of(intent: &Intent, target: &TargetFacts, apply_as: ApplyAs) -> Setting {
    Setting {
        apply_as,
        origin_id: target.origin_id,
        failed_node: intent.request.failed.clone(),
        nodes: nodes_by_origin(&target.local, &target.nodes),
        tables: target.tables.iter().map(|table| (table.oid.to_u32(), table.from)).collect(),
        subscribed: target.table_names(),
    }
}

fn show_progress(entry: &mut RescueEntry, applier: &Applier) {
    entry.applied = applier.applied();
    show_counts(entry, &applier.totals);
}
