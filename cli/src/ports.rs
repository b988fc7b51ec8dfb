//! Ports for the servers of one cluster: a block of neighbours, so that a node's number can be told from its port.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};

/// Blocks begin ten apart: n2 is on 5452, or 5462, or 5472.
const STEP: usize = 10;

/// Blocks in use by this process, whose servers may not listen yet.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Free for as long as it is held, as far as this process goes.
#[derive(Debug)]
pub struct Block {
    first: u16,
}

impl Block {
    /// The first block at or after `from` on which nobody listens.
    pub fn find(from: u16, count: usize) -> Result<Block> {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let step = count.div_ceil(STEP) * STEP;
        let first = (from..=u16::MAX)
            .step_by(step.max(STEP))
            .find(|&first| !overlaps(&taken, first, step) && is_free(first, count))
            .ok_or(Error::NoPorts { from, count })?;
        taken.insert(first);
        Ok(Block { first })
    }

    pub fn first(&self) -> u16 {
        self.first
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        TAKEN.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.first);
    }
}

fn overlaps(taken: &BTreeSet<u16>, first: u16, step: usize) -> bool {
    taken.iter().any(|&other| usize::from(other.abs_diff(first)) < step)
}

fn is_free(first: u16, count: usize) -> bool {
    (0..count).all(|index| {
        let port = u16::try_from(index).ok().and_then(|index| first.checked_add(index));
        port.is_some_and(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok())
    })
}

#[cfg(test)]
mod tests {
    use super::Block;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_block_is_skipped_when_one_of_its_ports_is_taken() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let taken = listener.local_addr().expect("an address").port();
        let from = taken - 1;
        let first = Block::find(from, 3).expect("a block").first();
        assert!(first > taken && (first - from).is_multiple_of(10), "{first} from {from}");
    }

    #[test]
    fn two_clusters_of_one_process_get_different_blocks() {
        let one = Block::find(20_451, 3).expect("a block");
        let other = Block::find(20_451, 3).expect("a block");
        assert_ne!(one.first(), other.first());
    }
}
