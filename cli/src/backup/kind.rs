//! Full or incremental (pure).

use super::base::{self, BaseBackup, Kind};
use crate::lsn::Lsn;

/// Incremental backups after a full one: a restore reads all of them, and none of them can be expired before the last.
const CHAIN: usize = 6;

/// What is known of a server when it is to be backed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub major: u32,
    pub summarizes: bool,
    pub timeline: u32,
    /// Where the oldest WAL summary of this timeline begins; summaries are removed after wal_summary_keep_time.
    pub summarized_from: Option<Lsn>,
}

/// What is taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// What it refers to, the full backup first; empty for a full one.
    pub chain: Vec<&'a BaseBackup>,
    /// Why it is full where that was not asked for.
    pub reason: Option<String>,
}

/// The reason is the error where an incremental one was asked for and is not possible.
pub fn choose<'a>(asked: Option<Kind>, backups: &'a [BaseBackup], facts: &Facts) -> Result<Choice<'a>, String> {
    if asked == Some(Kind::Full) {
        return Ok(Choice { chain: Vec::new(), reason: None });
    }
    let possible = incremental(backups, facts).and_then(|chain| match chain.len() > CHAIN && asked.is_none() {
        true => Err(format!("{CHAIN} incremental ones have followed the last full one")),
        false => Ok(chain),
    });
    match (possible, asked) {
        (Ok(chain), _) => Ok(Choice { chain, reason: None }),
        (Err(reason), None) => Ok(Choice { chain: Vec::new(), reason: Some(reason) }),
        (Err(reason), Some(_)) => Err(reason),
    }
}

fn incremental<'a>(backups: &'a [BaseBackup], facts: &Facts) -> Result<Vec<&'a BaseBackup>, String> {
    if facts.major < 17 {
        return Err(format!("PostgreSQL {} takes none", facts.major));
    }
    let Some(last) = backups.last() else {
        return Err("there is no full one yet".into());
    };
    let chain = base::chain(backups, &last.label)
        .ok_or_else(|| format!("what backup \"{}\" refers to is not there", last.label))?;
    if last.timeline != facts.timeline {
        return Err(format!("the server is on timeline {}, and the last backup on {}", facts.timeline, last.timeline));
    }
    if !facts.summarizes {
        return Err("summarize_wal is off".into());
    }
    match facts.summarized_from {
        Some(from) if from <= last.start_lsn => Ok(chain),
        Some(from) => {
            Err(format!("the WAL summaries begin at {from}, after the last backup's start at {}", last.start_lsn))
        }
        None => Err("there are no WAL summaries yet".into()),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Labels a, b, … with their parents; start and stop lie a unit apart.
    pub fn backup(label: &str, parent: Option<&str>, start: u64) -> BaseBackup {
        BaseBackup {
            version: 1,
            label: label.into(),
            kind: if parent.is_some() { Kind::Incremental } else { Kind::Full },
            parent: parent.map(str::to_owned),
            timeline: 1,
            start_lsn: Lsn(start),
            stop_lsn: Lsn(start + 0x100),
            begun_at: String::new(),
            ended_at: format!("{start:020}"),
            bytes: 1,
            verified_at: None,
        }
    }

    fn facts() -> Facts {
        Facts { major: 17, summarizes: true, timeline: 1, summarized_from: Some(Lsn(0)) }
    }

    #[test]
    fn the_first_is_full_and_the_next_refers_to_the_last() {
        let reason = Some("there is no full one yet".to_owned());
        assert_eq!(choose(None, &[], &facts()), Ok(Choice { chain: vec![], reason }));
        let there = [backup("a", None, 1), backup("b", Some("a"), 2)];
        let choice = choose(None, &there, &facts()).expect("it is possible");
        assert_eq!(choice.chain, [&there[0], &there[1]]);
        assert_eq!(choose(Some(Kind::Full), &there, &facts()), Ok(Choice { chain: vec![], reason: None }));
        assert!(choose(Some(Kind::Incremental), &[], &facts()).is_err());
    }

    #[test]
    fn what_an_incremental_one_needs_and_is_not_there_is_the_reason_for_a_full_one() {
        let there = [backup("a", None, 16)];
        for (wrong, word) in [
            (Facts { major: 16, ..facts() }, "PostgreSQL 16"),
            (Facts { summarizes: false, ..facts() }, "summarize_wal"),
            (Facts { timeline: 2, ..facts() }, "timeline 2"),
            (Facts { summarized_from: None, ..facts() }, "no WAL summaries"),
            (Facts { summarized_from: Some(Lsn(17)), ..facts() }, "begin at 0/11"),
        ] {
            let choice = choose(None, &there, &wrong).expect("a full one is");
            assert!(choice.chain.is_empty() && choice.reason.is_some_and(|reason| reason.contains(word)), "{word}");
            assert!(choose(Some(Kind::Incremental), &there, &wrong).is_err());
        }
    }

    #[test]
    fn a_chain_ends_after_some_and_a_broken_one_at_once() {
        let mut there = vec![backup("0", None, 1)];
        for number in 1..=CHAIN {
            there.push(backup(&number.to_string(), Some(&(number - 1).to_string()), 1 + number as u64));
        }
        assert!(choose(None, &there, &facts()).is_ok_and(|choice| choice.chain.is_empty()));
        assert!(choose(Some(Kind::Incremental), &there, &facts()).is_ok_and(|choice| choice.chain.len() == CHAIN + 1));
        assert!(choose(None, &there[1..3], &facts()).is_ok_and(|choice| choice.chain.is_empty()));
    }
}
