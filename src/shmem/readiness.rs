//! How ready a peer is to be the source of a recovery, as its poller stores it.

use crate::pg::clock::Monotonic;

/// The most bytes of these texts that are kept: three findings with their commands.
const MAX_TOLD: usize = 1000;

/// What a peer has reported about its readiness as a source of recoveries, and what its poller concludes from that.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ReadinessEntry {
    /// When the peer last reported it; never: it has not yet.
    pub said_at: Monotonic,
    pub knows_this_node: bool,
    /// How many things a recovery from the peer would lack. `told` has as many of them as fit, with what to do.
    pub lacks: u32,
    told: [u8; MAX_TOLD],
    told_length: u16,
}

impl ReadinessEntry {
    pub const FREE: ReadinessEntry = ReadinessEntry {
        said_at: Monotonic::NEVER,
        knows_this_node: true,
        lacks: 0,
        told: [0; MAX_TOLD],
        told_length: 0,
    };

    /// Keeps as many of the findings as fit. Each is kept whole or not at all, because half a command is useless; only
    /// the first may be cut.
    pub fn set_lacks(&mut self, lacks: &[String]) {
        self.lacks = lacks.len() as u32;
        let mut text = String::new();
        // A peer may send texts of any length, and other processes wait for the lock: each is cut first.
        for lack in lacks.iter().map(|lack| &lack[..lack.floor_char_boundary(MAX_TOLD)]) {
            let between = if text.is_empty() { "" } else { "; " };
            if !text.is_empty() && text.len() + between.len() + lack.len() > MAX_TOLD {
                break;
            }
            text.push_str(between);
            text.push_str(lack);
        }
        let end = text.floor_char_boundary(MAX_TOLD);
        self.told[..end].copy_from_slice(&text.as_bytes()[..end]);
        self.told_length = end as u16;
    }

    /// The findings that were kept, as one text.
    pub fn told(&self) -> &str {
        std::str::from_utf8(&self.told[..usize::from(self.told_length)]).unwrap_or_default()
    }
}
