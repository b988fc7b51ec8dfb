//! What the user should do for each reason: the next command (pure).

use super::Plan;
use super::outcome::Reason;
use crate::quoted::literal;

/// The call that rebuilds the target from the plan's source.
fn rebuild_of(plan: &Plan) -> String {
    let source = plan.source.as_deref().map_or("'…'".to_owned(), literal);
    format!(
        "CALL spock.rebuild_run(target_node_name := {}, source_node_name := {source}, failed_node_name := {});",
        literal(&plan.target),
        literal(&plan.failed)
    )
}

/// The advice for a plan, in one or two sentences, as in a hint.
pub fn of(plan: &Plan) -> String {
    let failed = literal(&plan.failed);
    let target = &plan.target;
    let source = plan.source.as_deref().unwrap_or_default();
    let on_source = format!("On node \"{source}\": ");
    // If the plan has no outcome, the target is the node that has not answered. Otherwise the finding names the node.
    let silent = if plan.outcome.is_none() { literal(target) } else { "'…'".to_owned() };
    let rebuild = rebuild_of(plan);
    let then_on_source = format!("on node \"{source}\": ");
    match plan.reason {
        Reason::GapCovered => format!(
            "CALL spock.recover_run(failed_node_name := {failed}, source_node_name := {}, target_node_name := {});",
            literal(source),
            literal(target)
        ),
        Reason::NothingMissing => "No action is needed.".to_owned(),
        Reason::NoSource => format!(
            "Make the other survivors known with SELECT spock.peer_create('…', 'host=… port=5432 dbname=…'); if there \
             is none, no survivor has more than node \"{target}\"."
        ),
        Reason::NodeUnreachable => {
            "Start the node, or correct its connection string (SELECT * FROM spock.peer_status();), and ask again.".to_owned()
        }
        Reason::NotANode => format!(
            "On that node: if it is a node already, SELECT * FROM spock.quick_health_check(); shows what it cannot \
             read; if not, CREATE EXTENSION spock_recovery; SELECT spock.node_create({silent}, 'host=… port=5432 \
             dbname=…');"
        ),
        Reason::OtherNode => format!(
            "Correct its connection string, or accept the node if it was rebuilt, with SELECT \
             spock.peer_create({silent}, 'host=… port=5432 dbname=…');"
        ),
        Reason::PermissionDenied => {
            "The role of its connection string needs REPLICATION, pg_monitor or SUPERUSER there.".to_owned()
        }
        Reason::VersionDiffers => {
            "Upgrade the older of the two: install the package there, restart the server, and ALTER EXTENSION spock_recovery UPDATE;".to_owned()
        }
        Reason::RecoveryRunning => format!(
            "Wait for the end of that recovery (SELECT * FROM spock.recovery_progress; on node \"{target}\"), or end \
             it there with CALL spock.recover_abort('…');"
        ),
        Reason::TargetOriginUnknown => {
            format!("On node \"{target}\": SELECT spock.sub_set_origin('…', '…'); for each of these, with the node \
                     that it comes from, or NULL if that is no node of the mesh.")
        }
        Reason::TargetNotSubscribed => format!(
            "If node \"{target}\" never subscribed to the failed node, no action is needed. If its subscription was \
             dropped, {rebuild}"
        ),
        Reason::TargetSubscribesTwice | Reason::SourceSubscribesTwice => format!(
            "The WAL does not show which of the two subscriptions has applied a transaction: use another source, or \
             {rebuild}"
        ),
        Reason::TargetProgressUnknown => rebuild,
        Reason::TargetTableNotReady => {
            format!("The copy cannot be finished out of WAL: {rebuild}")
        }
        Reason::TargetPreparedTransaction => format!(
            "On node \"{target}\": ROLLBACK PREPARED each (SELECT * FROM pg_prepared_xacts;), and ask again: the \
             recovery applies those that the source has committed."
        ),
        Reason::FailedStreamsToTarget | Reason::FailedStreamsToSource => {
            "The node has not failed: let replication catch up. If it is to be given up, stop it first, and ask \
             again."
                .to_owned()
        }
        Reason::SourceOriginUnknown => {
            format!("{on_source}SELECT spock.sub_set_origin('…', '…'); for each of these, with the node that it comes \
                     from, or NULL if that is no node of the mesh.")
        }
        Reason::SourceNotSubscribed | Reason::SourceProgressUnknown | Reason::SourceBehindTarget => {
            "Use another source: a recovery only adds transactions to the target and never takes any back.".to_owned()
        }
        Reason::SourceInRecovery => {
            format!("{on_source}wait for the end of its own recovery (SELECT * FROM spock.recovery_progress;), and ask again.")
        }
        Reason::SourceStillApplying => "Ask again in a moment.".to_owned(),
        Reason::SourcePreparedTransaction => format!(
            "Use a source that has committed them. If none has, it is not known whether the failed node committed \
             them: {}ROLLBACK PREPARED each (SELECT * FROM pg_prepared_xacts;), and ask again.",
            then_on_source
        ),
        Reason::SourceSkippedTransaction => {
            "Its copy is not complete: use another source, or rebuild from a survivor that skipped nothing: CALL \
             spock.rebuild_run();"
                .to_owned()
        }
        Reason::SourceReplicaTrigger => format!(
            "{on_source}if its triggers wrote to no replicated table, drop them or make them ordinary (ALTER TABLE … ENABLE \
             TRIGGER …); else use another source."
        ),
        Reason::SlotsDisabled => format!(
            "Use another source. For the next time, {}ALTER SYSTEM SET spock.enable_recovery_slots = on; SELECT \
             pg_reload_conf();",
            then_on_source
        ),
        Reason::SlotMissing | Reason::SlotInvalid => format!(
            "Use another source, or {rebuild} Then {then_on_source}SELECT * FROM spock.quick_health_check();"
        ),
        Reason::SlotNotInUse | Reason::SlotMoved => "Ask again in a moment: the manager of that node is checking the \
                                                     slot.".to_owned(),
        Reason::SourceSubscriptionChanged | Reason::ReleasedUnknown | Reason::ReleasedBeyondTarget => {
            format!("Use another source; if there is none, {rebuild}")
        }
        Reason::SourceLacksTable | Reason::SourceTableNotReady | Reason::SourceTableCopiedLater => {
            format!("Use another source; if there is none, {rebuild}")
        }
        Reason::PublicationsDiffer => "Use another source, with the same publications of the failed node.".to_owned(),
        Reason::WalLevel => format!("{on_source}ALTER SYSTEM SET wal_level = logical; and restart."),
        Reason::PluginNotListed => format!(
            "{on_source}add spock_recovery to output_plugin_libraries, as SELECT * FROM spock.quick_health_check(); says."
        ),
        Reason::SourceUnreachableFromTarget => format!(
            "On node \"{target}\": SELECT spock.peer_create({}, 'host=… port=5432 dbname=…'); or give source_dsn.",
            literal(source)
        ),
        Reason::SourceRoleLacksRights => format!(
            "{on_source}ALTER ROLE … REPLICATION; GRANT SELECT ON ALL TABLES IN SCHEMA … TO …; or use another connection \
             string."
        ),
        Reason::NoFreeSlot => {
            format!("{on_source}drop a slot that is not needed (SELECT * FROM pg_replication_slots;), or raise \
                     max_replication_slots and restart.")
        }
        Reason::NoFreeWalsender => format!("{on_source}raise max_wal_senders and restart, or end a walsender."),
        Reason::NoFreeWorker => format!("On node \"{target}\": raise max_worker_processes and restart."),
        Reason::NoFreeOrigin => format!(
            "On node \"{target}\": raise max_active_replication_origins (before PostgreSQL 18: max_replication_slots) and \
             restart."
        ),
    }
}
