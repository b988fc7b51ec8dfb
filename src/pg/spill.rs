//! Records that are written one after the other and read back in that order. They are kept in memory while they are
//! few, and then in a temporary file that is deleted when the process ends (storage/buffile.h).

use super::interrupts;
use pgrx::pg_sys;

/// How many bytes are kept in memory.
const IN_MEMORY: usize = 4 << 20;

#[derive(Default)]
pub struct Spill {
    memory: Vec<u8>,
    /// Contains all records, once there are too many for the memory.
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
        let file = *self.file.get_or_insert_with(create);
        // SAFETY: an open file.
        unsafe { pg_sys::BufFileWrite(file, self.memory.as_ptr().cast(), self.memory.len()) };
        self.memory.clear();
    }

    /// Goes back to the first record. No record may be pushed afterwards.
    pub fn rewind(&mut self) {
        self.read_to = 0;
        if self.file.is_some() {
            self.write_out();
        }
        if let Some(file) = self.file {
            seek(file, (0, 0));
        }
    }

    /// Returns the next record; None at the end.
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

/// Records that are read back one by one, in any order, in a temporary file that is deleted when the process ends.
#[derive(Default)]
pub struct Shelf {
    file: Option<*mut pg_sys::BufFile>,
    /// The end of the file. The file itself does not report its size while a part is in memory.
    end: (core::ffi::c_int, pg_sys::off_t),
}

/// The place of a record in its shelf.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    begin: (core::ffi::c_int, pg_sys::off_t),
    length: usize,
}

impl Shelf {
    /// Forgets all records. Their room is used again.
    pub fn clear(&mut self) {
        self.end = (0, 0);
    }

    pub fn put(&mut self, record: &[u8]) -> Place {
        let file = *self.file.get_or_insert_with(create);
        let begin = self.end;
        seek(file, begin);
        // SAFETY: an open file.
        unsafe {
            pg_sys::BufFileWrite(file, record.as_ptr().cast(), record.len());
            pg_sys::BufFileTell(file, &mut self.end.0, &mut self.end.1);
        }
        Place { begin, length: record.len() }
    }

    /// Returns the record that was put at that place.
    pub fn get(&mut self, place: Place) -> Vec<u8> {
        let file = *self.file.get_or_insert_with(create);
        let mut record = vec![0; place.length];
        seek(file, place.begin);
        // SAFETY: an open file, read into a buffer of that length; a shorter file raises an ERROR.
        unsafe { pg_sys::BufFileReadExact(file, record.as_mut_ptr().cast(), record.len()) };
        record
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        // While an ERROR unwinds nothing of PostgreSQL is called: the file is then deleted when the process ends.
        if let Some(file) = self.file.take()
            && !std::thread::panicking()
        {
            // SAFETY: an open file, which nobody uses afterwards.
            unsafe { pg_sys::BufFileClose(file) };
        }
    }
}

fn seek(file: *mut pg_sys::BufFile, (segment, offset): (core::ffi::c_int, pg_sys::off_t)) {
    // SAFETY: an open file, which lives as long as the process.
    if unsafe { pg_sys::BufFileSeek(file, segment, offset, libc::SEEK_SET) } != 0 {
        pgrx::error!("could not seek in a temporary file");
    }
}

/// Creates a temporary file that lives as long as the process: it is not closed at the end of a transaction.
fn create() -> *mut pg_sys::BufFile {
    // SAFETY: the file's memory is that of the process.
    unsafe {
        let previous = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let file = pg_sys::BufFileCreateTemp(true);
        pg_sys::MemoryContextSwitchTo(previous);
        file
    }
}
