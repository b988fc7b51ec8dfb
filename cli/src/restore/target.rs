//! Which moment is asked for, and where a node's replay stops for it (pure).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backup::shell;
use crate::lsn::Lsn;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    Point(String),
    /// As it was typed.
    Time(String),
    Latest,
}

impl Moment {
    /// Part of the names of folders.
    pub fn label(&self) -> String {
        let text = match self {
            Moment::Point(name) => name.clone(),
            Moment::Time(time) => format!("time-{time}"),
            Moment::Latest => "latest".into(),
        };
        let kept = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        text.chars().map(|character| if kept(character) { character } else { '_' }).collect()
    }

    /// The option of the command line.
    pub fn typed(&self) -> String {
        match self {
            Moment::Point(name) => format!("--point {}", shell::typed(Path::new(name))),
            Moment::Time(time) => format!("--time {}", shell::typed(Path::new(time))),
            Moment::Latest => "--latest".into(),
        }
    }
}

impl std::fmt::Display for Moment {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Moment::Point(name) => write!(formatter, "restore point \"{name}\""),
            Moment::Time(time) => write!(formatter, "the time {time}"),
            Moment::Latest => formatter.write_str("the latest moment"),
        }
    }
}

/// Where a replay ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// Behind the record of a restore point, which ends at `end`.
    Point { name: String, end: Lsn },
    /// Before the record that begins there, which exists: recovery stops only when it has found one.
    Before { lsn: Lsn },
    /// Behind the record that begins there.
    After { lsn: Lsn, end: Lsn },
}

impl Stop {
    /// What ends up to here is replayed, and what begins here is not.
    pub fn position(&self) -> Lsn {
        match *self {
            Stop::Point { end, .. } | Stop::After { end, .. } => end,
            Stop::Before { lsn } => lsn,
        }
    }

    /// What a replay must have read to stop there: the record before which it stops is on its timeline, too.
    pub fn needed(&self) -> Lsn {
        match *self {
            Stop::Point { end, .. } | Stop::After { end, .. } => end,
            Stop::Before { lsn } => Lsn(lsn.0 + 1),
        }
    }

    pub fn settings(&self) -> Vec<(&'static str, String)> {
        match self {
            Stop::Point { name, .. } => vec![("recovery_target_name", name.clone())],
            Stop::Before { lsn } => {
                vec![("recovery_target_lsn", lsn.to_string()), ("recovery_target_inclusive", "off".into())]
            }
            Stop::After { lsn, .. } => {
                vec![("recovery_target_lsn", lsn.to_string()), ("recovery_target_inclusive", "on".into())]
            }
        }
    }
}

/// The target of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub stop: Stop,
    /// Never `latest`, which would follow an earlier restore.
    pub timeline: u32,
    /// The label of the base backup.
    pub base: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_part_of_a_path() {
        assert_eq!(Moment::Point("before release/42".into()).label(), "before_release_42");
        assert_eq!(Moment::Time("2026-11-26 23:30:01+01".into()).label(), "time-2026-11-26_23_30_01_01");
    }

    #[test]
    fn a_position_is_the_first_byte_that_is_not_replayed() {
        let point = Stop::Point { name: "p".into(), end: Lsn(0x90) };
        let before = Stop::Before { lsn: Lsn(0x80) };
        let after = Stop::After { lsn: Lsn(0x60), end: Lsn(0x80) };
        assert_eq!([point.position(), before.position(), after.position()], [Lsn(0x90), Lsn(0x80), Lsn(0x80)]);
        assert_eq!(before.settings()[0], ("recovery_target_lsn", "0/80".into()));
        assert_eq!(
            after.settings(),
            [("recovery_target_lsn", "0/60".into()), ("recovery_target_inclusive", "on".into())]
        );
    }
}
