//! Conditions on tables and subscriptions: whether the source's WAL contains what the target lacks as it was committed
//! (pure).

use super::super::facts::{NodeFacts, TableFacts};
use super::{Case, Finding, named};
use crate::counted::counted;

/// Which tables of a node are not ready; None: all are.
fn unfinished<'t>(node: &str, tables: impl IntoIterator<Item = &'t TableFacts>) -> Option<String> {
    let unready = tables.into_iter().filter(|table| !table.is_ready());
    let (incomplete, copying): (Vec<&TableFacts>, Vec<&TableFacts>) = unready.partition(|table| table.is_incomplete());
    let names = |tables: &[&TableFacts]| named(&tables.iter().map(|table| table.full_name()).collect::<Vec<_>>());
    if !incomplete.is_empty() {
        return Some(format!("the copy of {} by a rebuild of node \"{node}\" is not complete", names(&incomplete)));
    }
    (!copying.is_empty()).then(|| format!("the initial copy of {} on node \"{node}\" is not finished", names(&copying)))
}

impl<'a> Case<'a> {
    pub(super) fn target_tables_are_ready(&self) -> Finding {
        let tables = &self.subscription(self.target)?.tables;
        match unfinished(&self.target.node, tables) {
            Some(finding) => Err(finding),
            None => Ok(format!("tables that are ready on node \"{}\": {}", self.target.node, tables.len())),
        }
    }

    /// Each table of the target with the source's table of the same name.
    pub(super) fn pairs(&self) -> Result<Vec<(&'a TableFacts, Option<&'a TableFacts>)>, String> {
        let (ours, theirs) = (self.subscription(self.target)?, self.subscription(self.source)?);
        Ok(ours.tables.iter().map(|table| (table, theirs.table(&table.schema, &table.name))).collect())
    }

    pub(super) fn source_has_the_tables(&self) -> Finding {
        let pairs = self.pairs()?;
        let lacking = || pairs.iter().filter(|(_, theirs)| theirs.is_none()).map(|(ours, _)| *ours);
        let theirs = self.subscription(self.source)?;
        let has_gone = |table: &&TableFacts| theirs.gone(&table.schema, &table.name).is_some();
        let gone: Vec<String> = lacking().filter(has_gone).map(TableFacts::full_name).collect();
        let lacking: Vec<String> = lacking().filter(|table| !has_gone(table)).map(TableFacts::full_name).collect();
        if lacking.is_empty() {
            let gone = match gone.as_slice() {
                [] => String::new(),
                gone => format!(
                    "; {} was removed from its subscription since, and the changes are still in its WAL",
                    named(gone)
                ),
            };
            return Ok(format!(
                "tables that node \"{}\" replicates too: {}{gone}{}",
                self.source.node,
                pairs.len(),
                self.beyond_the_targets()?
            ));
        }
        Err(format!("node \"{}\" does not replicate {}", self.source.node, named(&lacking)))
    }

    /// Tables that the source replicates and the target does not. Their changes are left out, as in core's apply.
    fn beyond_the_targets(&self) -> Result<String, String> {
        let (ours, theirs) = (self.subscription(self.target)?, self.subscription(self.source)?);
        let left_out: Vec<String> = theirs
            .tables
            .iter()
            .filter(|table| ours.table(&table.schema, &table.name).is_none())
            .map(TableFacts::full_name)
            .collect();
        if left_out.is_empty() {
            return Ok(String::new());
        }
        Ok(format!("; it alone replicates {}, whose changes are left out", named(&left_out)))
    }

    pub(super) fn source_tables_are_ready(&self) -> Finding {
        let pairs = self.pairs()?;
        match unfinished(&self.source.node, pairs.iter().filter_map(|(_, theirs)| *theirs)) {
            Some(finding) => Err(finding),
            None => Ok(format!("their initial copies on node \"{}\" are finished", self.source.node)),
        }
    }

    /// Rows that the source has received by an initial copy are not in its WAL as transactions of the failed node.
    pub(super) fn source_tables_were_copied_before(&self) -> Finding {
        let passed = self.needed_from()?;
        let theirs = self.subscription(self.source)?;
        let later: Vec<String> = self
            .pairs()?
            .iter()
            .filter(|(ours, found)| {
                let gone = || theirs.gone(&ours.schema, &ours.name).and_then(|gone| gone.copied);
                found.map_or_else(gone, |found| found.copied).is_some_and(|copied| copied > passed)
            })
            .map(|(ours, _)| ours.full_name())
            .collect();
        if later.is_empty() {
            return Ok(format!(
                "what node \"{}\" lacks was replicated as changes, not by an initial copy",
                self.target.node
            ));
        }
        Err(format!(
            "node \"{}\" has received by an initial copy rows of {} that node \"{}\" lacks",
            self.source.node,
            named(&later),
            self.target.node
        ))
    }

    pub(super) fn same_publications(&self) -> Finding {
        let sorted = |node| {
            let mut names = self.subscription(node)?.publications.clone();
            names.sort();
            names.dedup();
            Ok::<_, String>(names)
        };
        let (ours, theirs) = (sorted(self.target)?, sorted(self.source)?);
        if ours == theirs {
            return Ok(format!("both: {}", named(&ours)));
        }
        Err(format!(
            "node \"{}\" subscribes to {}, node \"{}\" to {}",
            self.target.node,
            named(&ours),
            self.source.node,
            named(&theirs)
        ))
    }

    pub(super) fn source_skipped_nothing(&self) -> Finding {
        let subscription = self.subscription(self.source)?;
        let name = &subscription.name;
        match subscription.pending_skip {
            Some(lsn) => Err(format!("subscription \"{name}\" of node \"{}\" is to skip {lsn}", self.source.node)),
            None if subscription.has_skipped => {
                Err(format!("subscription \"{name}\" of node \"{}\" has skipped a transaction", self.source.node))
            }
            None => Ok(format!(
                "no sign that subscription \"{name}\" skipped a transaction; {} counted",
                counted(subscription.apply_errors, "apply error")
            )),
        }
    }

    pub(super) fn nothing_is_prepared(&self, node: &'a NodeFacts) -> Finding {
        match self.subscription(node)?.prepared.as_slice() {
            [] => Ok(format!("node \"{}\" has no prepared transaction of it", node.node)),
            prepared => Err(format!("on node \"{}\": {}", node.node, named(prepared))),
        }
    }

    pub(super) fn no_replica_trigger(&self) -> Finding {
        let triggers: Vec<String> = self
            .pairs()?
            .iter()
            .filter_map(|(_, theirs)| *theirs)
            .flat_map(|table| table.triggers.iter().map(|trigger| format!("{} of {}", trigger, table.full_name())))
            .collect();
        if triggers.is_empty() {
            return Ok(format!("none on node \"{}\"", self.source.node));
        }
        Err(format!("on node \"{}\": {}", self.source.node, named(&triggers)))
    }
}
