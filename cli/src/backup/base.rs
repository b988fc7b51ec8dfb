//! What is known of one complete base backup (pure).

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// The layout of the file; a greater number is refused.
pub const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Full,
    Incremental,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Full => "full",
            Kind::Incremental => "incremental",
        }
    }
}

/// A base backup that is complete and was verified when it was taken. Its WAL from `start_lsn` to `stop_lsn` is part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseBackup {
    #[serde(default = "version")]
    pub version: u32,
    pub label: String,
    pub kind: Kind,
    /// The label of the backup whose blocks an incremental one refers to.
    #[serde(default)]
    pub parent: Option<String>,
    /// Of `start_lsn` and `stop_lsn`.
    pub timeline: u32,
    pub start_lsn: Lsn,
    /// The server is consistent from here on: no earlier target can be reached.
    pub stop_lsn: Lsn,
    /// By the server's clock, in UTC, always `2026-11-26T23:34:12.123456Z`: texts compare as their times do.
    pub begun_at: String,
    pub ended_at: String,
    pub bytes: u64,
    #[serde(default)]
    pub verified_at: Option<String>,
}

fn version() -> u32 {
    VERSION
}

/// A backup with all that it refers to, the full one first, itself last. None where one is missing, or the chain is a circle.
pub fn chain<'a>(backups: &'a [BaseBackup], label: &str) -> Option<Vec<&'a BaseBackup>> {
    let find = |label: &str| backups.iter().find(|backup| backup.label == label);
    let mut chain = vec![find(label)?];
    while let Some(parent) = &chain[chain.len() - 1].parent {
        if chain.len() > backups.len() {
            return None;
        }
        chain.push(find(parent)?);
    }
    chain.reverse();
    Some(chain)
}
