//! A segment of dynamic shared memory for one message there and one back (storage/dsm.h): what a session asks of a worker
//! has no bounded length, and neither has a place in the fixed shared memory.
//!
//! The segment lives as long as some process is attached. Who may read or write it when is decided under the lock of the
//! fixed shared memory, which also orders the accesses.

use pgrx::pg_sys;

/// The lengths of both messages.
#[repr(C)]
struct Head {
    question: usize,
    answer: usize,
}

/// A segment to which this process is attached. It is detached when this is dropped, and by the abort of the
/// transaction while an ERROR unwinds.
pub struct Segment(*mut pg_sys::dsm_segment);

impl Segment {
    /// Makes a segment with the question, and with room for an answer of `room` bytes.
    pub fn create(question: &[u8], room: usize) -> Segment {
        // SAFETY: within a transaction, whose resource owner detaches the segment if this value does not. The memory is
        // as large as was asked for.
        unsafe {
            let segment = pg_sys::dsm_create(size_of::<Head>() + question.len() + room, 0);
            let head = pg_sys::dsm_segment_address(segment).cast::<Head>();
            head.write(Head { question: question.len(), answer: 0 });
            let bytes = head.add(1).cast::<u8>();
            std::ptr::copy_nonoverlapping(question.as_ptr(), bytes, question.len());
            Segment(segment)
        }
    }

    /// Attaches to the segment; None if nobody is attached to it any more. Outside a transaction the segment stays attached
    /// until this is dropped or the process ends.
    pub fn attach(handle: u32) -> Option<Segment> {
        // SAFETY: a handle that `handle` has returned once; a segment that is gone gives null.
        let segment = unsafe { pg_sys::dsm_attach(handle) };
        (!segment.is_null()).then_some(Segment(segment))
    }

    pub fn handle(&self) -> u32 {
        // SAFETY: attached.
        unsafe { pg_sys::dsm_segment_handle(self.0) }
    }

    fn head(&self) -> *mut Head {
        // SAFETY: attached; laid out in `create`.
        unsafe { pg_sys::dsm_segment_address(self.0).cast() }
    }

    /// A part of what follows the head; None: the lengths do not fit the segment.
    fn bytes(&self, from: usize, length: usize) -> Option<*mut u8> {
        // SAFETY: attached; the part is within the segment.
        unsafe {
            let room = pg_sys::dsm_segment_map_length(self.0).checked_sub(size_of::<Head>())?;
            let is_within = from.checked_add(length).is_some_and(|end| end <= room);
            is_within.then(|| self.head().add(1).cast::<u8>().add(from))
        }
    }

    fn copy(&self, from: usize, length: usize) -> Vec<u8> {
        // SAFETY: a part of the segment, which nobody writes now.
        let part = self.bytes(from, length).map(|start| unsafe { std::slice::from_raw_parts(start, length) });
        part.map(<[u8]>::to_vec).unwrap_or_default()
    }

    pub fn question(&self) -> Vec<u8> {
        // SAFETY: written in `create`, and never again.
        let length = unsafe { (*self.head()).question };
        self.copy(0, length)
    }

    /// The answer; empty: there is none yet.
    pub fn answer(&self) -> Vec<u8> {
        // SAFETY: as in `question`; the caller knows that the answer is not being written.
        let (question, length) = unsafe { ((*self.head()).question, (*self.head()).answer) };
        self.copy(question, length)
    }

    /// Writes the answer. False: it is too long.
    pub fn set_answer(&mut self, answer: &[u8]) -> bool {
        // SAFETY: one process answers, and nobody reads before that is told.
        unsafe {
            let head = self.head();
            let Some(start) = self.bytes((*head).question, answer.len()) else { return false };
            std::ptr::copy_nonoverlapping(answer.as_ptr(), start, answer.len());
            (*head).answer = answer.len();
        }
        true
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: attached, and detached once.
            unsafe { pg_sys::dsm_detach(self.0) };
        }
    }
}
