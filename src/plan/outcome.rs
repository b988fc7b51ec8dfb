//! Outcomes and reasons: closed lists on which users and their scripts rely (pure).

use serde::{Serialize, Serializer};

/// The outcome of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// The target lacks nothing that a survivor has.
    ZeroGap,
    /// A survivor can supply what the target lacks.
    CatchUp,
    /// No survivor was proved to be able to supply it. The reason says whether that can be changed.
    NeedsRebuild,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::ZeroGap => "zero_gap",
            Outcome::CatchUp => "catch_up",
            Outcome::NeedsRebuild => "needs_rebuild",
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $word:literal,)+) => {
        /// Why a plan has its outcome.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason {
            $($(#[$doc])* $variant,)+
        }

        impl Reason {
            #[cfg(test)]
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Reason::$variant => $word,)+
                }
            }
        }
    };
}

reasons! {
    /// Every condition holds.
    GapCovered = "gap_covered",
    NothingMissing = "nothing_missing",
    /// No other survivor is known, or none that subscribes to the failed node.
    NoSource = "no_source",

    // A node could not be asked, or its answer cannot be trusted.
    NodeUnreachable = "node_unreachable",
    NotANode = "not_a_node",
    OtherNode = "other_node",
    PermissionDenied = "permission_denied",
    VersionDiffers = "version_differs",

    // The target.
    RecoveryRunning = "recovery_running",
    TargetOriginUnknown = "target_origin_unknown",
    TargetNotSubscribed = "target_not_subscribed",
    TargetSubscribesTwice = "target_subscribes_twice",
    TargetProgressUnknown = "target_progress_unknown",
    TargetTableNotReady = "target_table_not_ready",
    TargetPreparedTransaction = "target_prepared_transaction",
    FailedStreamsToTarget = "failed_node_streams_to_target",

    // The source and what it has.
    SourceOriginUnknown = "source_origin_unknown",
    SourceNotSubscribed = "source_not_subscribed",
    SourceSubscribesTwice = "source_subscribes_twice",
    SourceProgressUnknown = "source_progress_unknown",
    SourceBehindTarget = "source_behind_target",
    SourceInRecovery = "source_in_recovery",
    SourceStillApplying = "source_still_applying",
    FailedStreamsToSource = "failed_node_streams_to_source",
    SourcePreparedTransaction = "source_prepared_transaction",
    SourceSkippedTransaction = "source_skipped_transaction",
    SourceReplicaTrigger = "source_replica_trigger",

    // The source's recovery slot.
    SlotsDisabled = "recovery_slots_disabled",
    SlotMissing = "recovery_slot_missing",
    SlotInvalid = "recovery_slot_invalid",
    SlotNotInUse = "recovery_slot_not_in_use",
    SlotMoved = "recovery_slot_moved",
    SourceSubscriptionChanged = "source_subscription_changed",
    ReleasedUnknown = "released_unknown",
    ReleasedBeyondTarget = "released_beyond_target",

    // Tables and publications.
    SourceLacksTable = "source_lacks_table",
    SourceTableNotReady = "source_table_not_ready",
    SourceTableCopiedLater = "source_table_copied_later",
    PublicationsDiffer = "publications_differ",

    // What the source needs to stream.
    WalLevel = "wal_level_not_logical",
    PluginNotListed = "plugin_not_listed",
    SourceUnreachableFromTarget = "source_unreachable_from_target",
    SourceRoleLacksRights = "source_role_lacks_rights",

    // Pins.
    NoFreeSlot = "no_free_slot",
    NoFreeWalsender = "no_free_walsender",
    NoFreeWorker = "no_free_worker",
    NoFreeOrigin = "no_free_origin",
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
