//! What a history has done, for whoever looks at a seed that fails.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What was done, with the seconds since the beginning; shown where a seed fails.
pub struct Script {
    pub begun: Instant,
    text: Mutex<String>,
}

impl Script {
    pub fn new() -> Script {
        Script { begun: Instant::now(), text: Mutex::default() }
    }

    pub fn say(&self, line: &str) {
        let at = self.begun.elapsed().as_secs_f64();
        // Nothing can fail in writing to a text.
        let _ = writeln!(self.text.lock().unwrap_or_else(PoisonError::into_inner), "{at:7.2} {line}");
    }

    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
