//! Records that are written one after the other and read back in that order: in memory as long as they are few, then in a
//! temporary file that goes with the process (storage/buffile.h).

use super::interrupts;
use pgrx::pg_sys;

/// Bytes that are kept in memory.
const IN_MEMORY: usize = 4 << 20;

#[derive(Default)]
pub struct Spill {
    memory: Vec<u8>,
    /// Holds all of the records, once there are too many.
    file: Option<*mut pg_sys::BufFile>,
    read_to: usize,
    pub count: u64,
}

impl Spill {
    pub fn push(&mut self, record: &[u8]) {
        let length = u32::try_from(record.len()).unwrap_or_else(|_| pgrx::error!("a key of more than 4 GB"));
        self.count += 1;
        self.memory.extend_from_slice(&length.to_ne_bytes());
        self.memory.extend_from_slice(record);
        if self.memory.len() >= IN_MEMORY {
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        // SAFETY: the file lives as long as the process, in its top memory context; it is not closed with a transaction.
        unsafe {
            let file = *self.file.get_or_insert_with(|| {
                let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
                let file = pg_sys::BufFileCreateTemp(true);
                pg_sys::MemoryContextSwitchTo(previous);
                file
            });
            pg_sys::BufFileWrite(file, self.memory.as_ptr().cast(), self.memory.len());
        }
        self.memory.clear();
    }

    /// Goes back to the first record. Nothing is pushed after this.
    pub fn rewind(&mut self) {
        self.read_to = 0;
        if self.file.is_some() {
            self.write_out();
        }
        if let Some(file) = self.file {
            // SAFETY: an open file; SEEK_SET.
            let failed = unsafe { pg_sys::BufFileSeek(file, 0, 0, 0) } != 0;
            if failed {
                pgrx::error!("could not rewind a temporary file");
            }
        }
    }

    /// The next record.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        interrupts::check();
        let mut length = [0; 4];
        if !self.read(&mut length) {
            return None;
        }
        let mut record = vec![0; u32::from_ne_bytes(length) as usize];
        self.read(&mut record).then_some(record)
    }

    fn read(&mut self, into: &mut [u8]) -> bool {
        match self.file {
            None => {
                let Some(bytes) = self.memory.get(self.read_to..self.read_to + into.len()) else { return false };
                into.copy_from_slice(bytes);
                self.read_to += into.len();
                true
            }
            Some(file) => {
                let length = into.len();
                // SAFETY: an open file, read into a buffer of that length.
                length == 0
                    || unsafe { pg_sys::BufFileReadMaybeEOF(file, into.as_mut_ptr().cast(), length, true) } == length
            }
        }
    }
}
