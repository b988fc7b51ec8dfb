//! A chunk on its way (pure): the pieces that the source makes, and their reading on the target.
//!
//! A piece begins with a letter. `D` is followed by lines of COPY's text; `E`, the last one, by the number of rows and the
//! checksum of all the lines, eight bytes each. The pieces are the rows of a COPY TO in binary format, of one column: a
//! header before the first one, and for each the number of columns, the length, and the bytes.

const DATA: u8 = b'D';
const END: u8 = b'E';

/// What the lines of a chunk sum up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    pub rows: u64,
    pub checksum: u64,
    pub bytes: u64,
}

impl Sum {
    /// Adds the lines of one piece to the checksum.
    pub fn add(&mut self, lines: &[u8]) {
        self.checksum = hash(lines, self.checksum);
        self.bytes += lines.len() as u64;
    }
}

/// Hashes bytes, after what was hashed before. Each step is a bijection of the state for a given word, and gives different
/// states for different words: so a change within eight bytes is found in any case, and any other by chance of 2^-64 not.
/// It finds accidents, not intent.
fn hash(bytes: &[u8], before: u64) -> u64 {
    /// An odd number, which makes the multiplication a bijection (2^64 divided by the golden ratio).
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |state: u64, word: u64| (state ^ word).wrapping_mul(FACTOR).rotate_left(29);
    let (words, rest) = bytes.as_chunks::<8>();
    let state = words.iter().fold(before, |state, word| step(state, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    step(step(state, u64::from_le_bytes(last)), bytes.len() as u64)
}

/// A piece without lines.
pub fn new_piece() -> Vec<u8> {
    vec![DATA]
}

/// The lines of a piece.
pub fn content(piece: &[u8]) -> &[u8] {
    piece.get(1..).unwrap_or_default()
}

/// The last piece.
pub fn end_piece(sum: Sum) -> Vec<u8> {
    let mut piece = vec![END];
    piece.extend_from_slice(&sum.rows.to_be_bytes());
    piece.extend_from_slice(&sum.checksum.to_be_bytes());
    piece
}

/// Why a chunk is not what was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged;

/// What has come of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// Lines to be written.
    Lines(&'a [u8]),
    /// The chunk is complete, and is what was sent.
    Complete(Sum),
    /// COPY has ended.
    Over,
}

/// Reads the messages of a chunk.
#[derive(Debug, Default)]
pub struct Reader {
    sum: Sum,
    /// What the last piece has said.
    end: Option<(u64, u64)>,
    has_begun: bool,
}

/// The begin of COPY's binary format: the signature, flags and the length of an extension (copyto.c).
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

impl Reader {
    /// Reads one message: a row of the COPY, before the first one of which there is the header.
    pub fn read<'a>(&mut self, message: &'a [u8]) -> Result<Step<'a>, Damaged> {
        let message = match std::mem::replace(&mut self.has_begun, true) {
            true => message,
            false => message.strip_prefix(HEADER).ok_or(Damaged)?,
        };
        let (columns, rest) = message.split_first_chunk::<2>().ok_or(Damaged)?;
        match i16::from_be_bytes(*columns) {
            -1 if rest.is_empty() && self.end.is_some() => return Ok(Step::Over),
            1 => (),
            _ => return Err(Damaged),
        }
        let (length, piece) = rest.split_first_chunk::<4>().ok_or(Damaged)?;
        if usize::try_from(i32::from_be_bytes(*length)) != Ok(piece.len()) || self.end.is_some() {
            return Err(Damaged);
        }
        match piece.first() {
            Some(&DATA) => {
                self.sum.add(content(piece));
                Ok(Step::Lines(content(piece)))
            }
            Some(&END) => {
                let (rows, rest) = content(piece).split_first_chunk::<8>().ok_or(Damaged)?;
                let checksum = <[u8; 8]>::try_from(rest).map_err(|_| Damaged)?;
                let said = (u64::from_be_bytes(*rows), u64::from_be_bytes(checksum));
                self.end = Some(said);
                self.sum.rows = said.0;
                if said.1 == self.sum.checksum { Ok(Step::Complete(self.sum)) } else { Err(Damaged) }
            }
            _ => Err(Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(piece: &[u8], is_first: bool) -> Vec<u8> {
        let mut message = if is_first { HEADER.to_vec() } else { Vec::new() };
        message.extend_from_slice(&1_i16.to_be_bytes());
        message.extend_from_slice(&(piece.len() as i32).to_be_bytes());
        message.extend_from_slice(piece);
        message
    }

    fn piece(lines: &str) -> Vec<u8> {
        let mut piece = new_piece();
        piece.extend_from_slice(lines.as_bytes());
        piece
    }

    fn end(rows: u64, checksum: u64) -> Vec<u8> {
        end_piece(Sum { rows, checksum, bytes: 0 })
    }

    #[test]
    fn a_chunk_without_rows_is_complete() {
        let mut reader = Reader::default();
        assert_eq!(reader.read(&row(&end(0, 0), true)), Ok(Step::Complete(Sum::default())));
        assert_eq!(reader.read(&(-1_i16).to_be_bytes()), Ok(Step::Over));
    }

    #[test]
    fn a_chunk_is_complete_only_if_every_byte_is_as_it_was_sent() {
        let pieces = ["1\tone\n2\ttwo and more\n", "3\tthree\n"].map(piece);
        let mut sum = Sum { rows: 3, ..Sum::default() };
        pieces.iter().for_each(|piece| sum.add(content(piece)));
        let sent = |first: &[u8]| {
            let mut reader = Reader::default();
            let lines = reader.read(&row(first, true)).is_ok() && reader.read(&row(&pieces[1], false)).is_ok();
            (lines, reader.read(&row(&end_piece(sum), false)) == Ok(Step::Complete(sum)))
        };
        assert_eq!(sent(&pieces[0]), (true, true));
        for at in 1..pieces[0].len() {
            for bit in 0..8 {
                let mut changed = pieces[0].clone();
                changed[at] ^= 1 << bit;
                assert_eq!(sent(&changed), (true, false), "byte {at}, bit {bit}");
            }
        }
        assert_eq!(sent(&pieces[0][..pieces[0].len() - 1]), (true, false), "a byte less");
    }

    #[test]
    fn what_is_not_as_it_was_sent_is_damaged() {
        for message in [
            row(&end(0, 1), true),
            row(&end(0, 0), false),
            row(&end(0, 0)[..16], true),
            row(b"X", true),
            row(b"", true),
            row(&piece(""), true)[..HEADER.len() + 5].to_vec(),
            (-1_i16).to_be_bytes().to_vec(),
            Vec::new(),
        ] {
            assert_eq!(Reader::default().read(&message), Err(Damaged), "{message:?}");
        }
        let mut reader = Reader::default();
        assert!(reader.read(&row(&end(0, 0), true)).is_ok());
        assert_eq!(reader.read(&row(&end(0, 0), false)), Err(Damaged), "something after the end");
        assert_eq!(Reader::default().read(&[HEADER, &(-1_i16).to_be_bytes()].concat()), Err(Damaged), "no end");
    }
}
