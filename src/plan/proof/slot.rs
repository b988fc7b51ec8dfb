//! Conditions on the source's recovery slot: whether it exists, and what it may have released (pure).

use super::super::facts::SlotState;
use super::{Case, Finding, found};
use crate::lsn::OriginLsn;

impl<'a> Case<'a> {
    pub(super) fn slots_are_enabled(&self) -> Finding {
        let is_enabled = self.source.slot.is_enabled;
        let finding = format!(
            "spock.enable_recovery_slots is {} on node \"{}\"",
            if is_enabled { "on" } else { "off" },
            self.source.node
        );
        found(is_enabled, finding)
    }

    pub(super) fn slot_name(&self) -> &str {
        self.source.slot.name.as_deref().unwrap_or_default()
    }

    pub(super) fn slot_exists(&self) -> Finding {
        match self.source.slot.state {
            SlotState::Missing => Err(format!("node \"{}\" has no recovery slot", self.source.node)),
            SlotState::BeingCreated => {
                Err(format!("slot \"{}\" is still being created: it waits for running transactions", self.slot_name()))
            }
            SlotState::Invalid | SlotState::NotInUse | SlotState::Usable => {
                Ok(format!("slot \"{}\", generation {}", self.slot_name(), self.source.slot.generation))
            }
        }
    }

    pub(super) fn slot_is_valid(&self) -> Finding {
        match self.source.slot.state {
            SlotState::Usable | SlotState::NotInUse => Ok("all WAL that it needs is available".to_owned()),
            SlotState::Invalid => {
                Err(format!("slot \"{}\" was invalidated: WAL that it needs was removed", self.slot_name()))
            }
            SlotState::Missing | SlotState::BeingCreated => Err("cannot be judged: there is no slot".to_owned()),
        }
    }

    pub(super) fn slot_is_in_use(&self) -> Finding {
        match self.source.slot.state {
            SlotState::Usable => Ok("its retention record exists".to_owned()),
            SlotState::NotInUse => Err("it was just created, and has no retention record yet".to_owned()),
            _ => Err("cannot be judged: there is no usable slot".to_owned()),
        }
    }

    pub(super) fn slot_is_covered(&self) -> Finding {
        if !matches!(self.source.slot.state, SlotState::Usable) {
            return Err("cannot be judged: there is no usable slot".to_owned());
        }
        if self.source.slot.is_covered {
            return Ok("it is at or before the position that the retention record covers".to_owned());
        }
        Err("it is beyond the position that the retention record covers: it was moved by other means".to_owned())
    }

    pub(super) fn released_is_of_this_pair(&self) -> Finding {
        let subscription = self.subscription(self.source)?;
        let pair = format!("subscription {} with origin {}", subscription.subscription, subscription.origin_id);
        match self.source.slot.record_for(subscription) {
            Some(_) => Ok(format!("recorded for {pair}")),
            None => Err(format!(
                "nothing is recorded for {pair} with its present tables: it was created or changed just now, or was \
                 created before the slot"
            )),
        }
    }

    pub(super) fn released_is_known(&self) -> Finding {
        let subscription = self.subscription(self.source)?;
        match self.source.slot.released_for(subscription) {
            Some(released) => Ok(format!("node \"{}\" may have released up to {released}", self.source.node)),
            None => Err(format!(
                "node \"{}\" cannot prove what it has of node \"{}\": its subscription, or a table of that, is new, \
                 and it has not learnt yet how far its slot there is confirmed",
                self.source.node, self.failed
            )),
        }
    }

    pub(super) fn released_is_passed(&self) -> Finding {
        let needed_from = self.needed_from()?;
        let subscription = self.subscription(self.source)?;
        let unknown = || "cannot be judged: what was released is unknown".to_owned();
        let released = self.source.slot.released_for(subscription).ok_or_else(unknown)?;
        let stop = self.wishes.stop.or(subscription.has_up_to()).unwrap_or(OriginLsn::INFINITY);
        let given_up = if self.source.slot.unprotected.contains(&self.target.node) {
            "; the slot has given it up to stay within its budget"
        } else {
            ""
        };
        let finding = format!(
            "node \"{}\" keeps everything after {released}; node \"{}\" needs everything after {needed_from}{given_up}",
            self.source.node, self.target.node
        );
        // If the range is empty, the slot needs to have kept nothing.
        found(released <= needed_from || needed_from >= stop, finding)
    }
}
