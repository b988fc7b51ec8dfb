//! How a table is divided into chunks (pure).

use serde::{Deserialize, Serialize};

/// The heap of one chunk, with its share of what is stored out of line (64 MB).
pub const CHUNK_BYTES: u64 = 64 << 20;

const BLOCK: u64 = 8_192;

/// A table without partitions, or a partition without further ones, on the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Leaf {
    pub schema: String,
    pub name: String,
    pub blocks: u64,
    /// How many of them make a chunk.
    pub chunk_blocks: u64,
}

/// A table as it is copied. It stays the same while a copy is interrupted, because chunks are known by their numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Layout {
    /// The columns that are sent.
    pub columns: Vec<String>,
    pub leaves: Vec<Leaf>,
}

/// A chunk: the blocks from `from_block` on, before `to_block`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk<'a> {
    pub number: u64,
    pub leaf: &'a Leaf,
    pub from_block: u64,
    pub to_block: u64,
}

impl Leaf {
    fn chunks(&self) -> u64 {
        // What has no blocks has no rows, but a chunk says so.
        self.blocks.div_ceil(self.chunk_blocks.max(1)).max(1)
    }
}

/// The most columns of a table (MaxHeapAttributeNumber), and of parts: a source that names more is not believed.
const MOST_COLUMNS: usize = 1_600;
const MOST_LEAVES: usize = 100_000;

impl Layout {
    /// Whether a table can be like that. Chunks are counted, and written down one by one.
    pub fn is_sound(&self) -> bool {
        let is_sound =
            |leaf: &Leaf| leaf.blocks <= u64::from(u32::MAX) && (1..=CHUNK_BYTES / BLOCK).contains(&leaf.chunk_blocks);
        self.columns.len() <= MOST_COLUMNS && self.leaves.len() <= MOST_LEAVES && self.leaves.iter().all(is_sound)
    }

    pub fn chunks(&self) -> u64 {
        self.leaves.iter().map(Leaf::chunks).sum()
    }

    /// The chunk with this number; None: there is none.
    pub fn chunk(&self, number: u64) -> Option<Chunk<'_>> {
        let mut left = number;
        for leaf in &self.leaves {
            if left < leaf.chunks() {
                let size = leaf.chunk_blocks.max(1);
                let from_block = left * size;
                return Some(Chunk { number, leaf, from_block, to_block: (from_block + size).min(leaf.blocks) });
            }
            left -= leaf.chunks();
        }
        None
    }
}

/// How many blocks of a heap make a chunk, if so many bytes are stored out of line beside `blocks` blocks. A row of 1 MB
/// has some hundred bytes in the heap.
pub fn chunk_blocks(blocks: u64, bytes_beside: u64) -> u64 {
    let whole = blocks.saturating_mul(BLOCK).saturating_add(bytes_beside).max(1);
    let chunks = whole.div_ceil(CHUNK_BYTES);
    blocks.div_ceil(chunks).clamp(1, CHUNK_BYTES / BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaf(name: &str, blocks: u64, chunk_blocks: u64) -> Leaf {
        Leaf { schema: "s".to_owned(), name: name.to_owned(), blocks, chunk_blocks }
    }

    #[test]
    fn a_layout_that_no_table_has_is_not_sound() {
        let of = |leaf: Leaf| Layout { columns: vec!["id".to_owned()], leaves: vec![leaf] };
        assert!(of(leaf("t", 0, 1)).is_sound() && of(leaf("t", u64::from(u32::MAX), 8_192)).is_sound());
        for wrong in [leaf("t", u64::MAX, 8_192), leaf("t", 1, 0), leaf("t", 1, u64::MAX)] {
            assert!(!of(wrong.clone()).is_sound(), "{wrong:?}");
        }
        let columns = vec!["id".to_owned(); MOST_COLUMNS + 1];
        assert!(!Layout { columns, leaves: Vec::new() }.is_sound());
    }

    #[test]
    fn chunks_are_numbered_through_all_partitions() {
        let layout =
            Layout { columns: Vec::new(), leaves: vec![leaf("a", 25, 10), leaf("b", 0, 10), leaf("c", 10, 10)] };
        let seen = (0..9).filter_map(|number| layout.chunk(number));
        let seen: Vec<_> = seen.map(|chunk| (chunk.leaf.name.as_str(), chunk.from_block, chunk.to_block)).collect();
        assert_eq!(seen, [("a", 0, 10), ("a", 10, 20), ("a", 20, 25), ("b", 0, 0), ("c", 0, 10)]);
        assert_eq!(layout.chunks(), 5);
    }

    #[test]
    fn a_chunk_is_64_mb_with_what_lies_beside() {
        assert_eq!(chunk_blocks(0, 0), 1);
        assert_eq!(chunk_blocks(1_000_000, 0), 8_131);
        assert_eq!(chunk_blocks(8_192, 0), 8_192);
        // A thousand rows of 1 MB in ten blocks.
        assert_eq!(chunk_blocks(10, 1_000 << 20), 1);
        assert_eq!(chunk_blocks(8_192, CHUNK_BYTES), 4_096);
    }

    proptest! {
        #[test]
        fn every_block_is_in_exactly_one_chunk(sizes in prop::collection::vec((0_u64..200, 1_u64..50), 1..5)) {
            let leaves: Vec<Leaf> = sizes.iter().map(|(blocks, size)| leaf("t", *blocks, *size)).collect();
            let layout = Layout { columns: Vec::new(), leaves };
            let sent: u64 = (0..layout.chunks())
                .filter_map(|number| layout.chunk(number))
                .map(|chunk| chunk.to_block - chunk.from_block)
                .sum();
            prop_assert_eq!(sent, sizes.iter().map(|(blocks, _)| blocks).sum::<u64>());
            prop_assert!(layout.chunk(layout.chunks()).is_none());
        }
    }
}
