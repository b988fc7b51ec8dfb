//! Commands of spockctl, called as functions: what they show, and how they end.

use std::fmt::Display;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use spockctl::Screen;

/// A name of a repository that every command must quote.
pub const NAME: &str = "it's a repo, 5% \"full\" $HOME";

#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Seen where a test fails.
        eprint!("{}", String::from_utf8_lossy(bytes));
        self.0.lock().expect("nobody panics while writing").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a command showed, and how it ended.
pub type Ended<E> = (String, Result<(), E>);

pub fn ended<E>(act: impl FnOnce(&Screen) -> Result<(), E>) -> Ended<E> {
    let shown = Shown::default();
    let result = act(&Screen::plain(shown.clone()));
    let bytes = shown.0.lock().expect("nobody panics while writing").clone();
    (String::from_utf8(bytes).expect("UTF-8"), result)
}

#[track_caller]
pub fn done<E: Display>((text, result): Ended<E>) -> String {
    result.unwrap_or_else(|error| panic!("{error}, after\n{text}"));
    text
}
