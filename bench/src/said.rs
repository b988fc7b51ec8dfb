//! What spockctl says while it is measured: nothing on the screen, and all of it where it fails.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use spockctl::Screen;

use crate::error::{Error, Result};

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a command of spockctl.
pub fn quietly<T, E: Display>(command: impl FnOnce(&Screen) -> std::result::Result<T, E>) -> Result<T> {
    let said = Said::default();
    command(&Screen::plain(said.clone())).map_err(|error| {
        let lines = said.0.lock().unwrap_or_else(PoisonError::into_inner);
        Error::Verification(format!("{error}\n{}", String::from_utf8_lossy(&lines)))
    })
}
