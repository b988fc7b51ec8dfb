//! Texts of limited length in shared memory.

use crate::node_name::NodeName;

/// The most bytes of an error message that are kept.
const MAX_ERROR: usize = 255;

/// A message, cut to what fits.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShortText {
    length: u8,
    bytes: [u8; MAX_ERROR],
}

impl ShortText {
    pub const EMPTY: ShortText = ShortText { length: 0, bytes: [0; MAX_ERROR] };

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    pub fn set(&mut self, text: &str) {
        let end = text.floor_char_boundary(MAX_ERROR);
        self.bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
        self.length = end as u8;
    }
}

/// A text that is kept whole if it fits, and not at all otherwise.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LongText {
    length: u16,
    bytes: [u8; LongText::CAPACITY],
}

impl LongText {
    pub const CAPACITY: usize = 2048;
    pub const EMPTY: LongText = LongText { length: 0, bytes: [0; LongText::CAPACITY] };

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    pub fn set(&mut self, text: &str) {
        let text = if text.len() <= LongText::CAPACITY { text.as_bytes() } else { &[] };
        self.bytes[..text.len()].copy_from_slice(text);
        self.length = text.len() as u16;
    }
}

/// A name of at most 63 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ShortName {
    length: u8,
    bytes: [u8; 63],
}

impl ShortName {
    pub const EMPTY: ShortName = ShortName { length: 0, bytes: [0; 63] };

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    pub fn set(&mut self, name: &str) {
        let end = name.floor_char_boundary(self.bytes.len());
        self.bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        self.length = end as u8;
    }
}

impl ShortName {
    /// The name as a message may repeat it. A name that another node has sent and that cannot be a node's is not
    /// repeated.
    pub fn shown(&self) -> String {
        let name = self.as_str();
        if name.is_empty() {
            String::new()
        } else {
            NodeName::parse(name).map_or(NO_NAME.to_owned(), |name| name.to_string())
        }
    }
}

/// What is shown in place of a name that cannot be a node's.
const NO_NAME: &str = "(a name that no node can have)";
