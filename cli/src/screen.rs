//! What is shown: lines, and while something takes its time a spinner or a bar, on a terminal alone.
//!
//! Nothing here fails: whoever reads may have gone, and the work is to be finished, and cleaned up, all the same.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// As often as an eye follows.
const TICK: Duration = Duration::from_millis(100);

/// Shared by who works and who is told by a server.
#[derive(Clone)]
pub struct Screen {
    output: Arc<Mutex<Output>>,
}

enum Output {
    /// With what moves at the moment: a line for each.
    Terminal(MultiProgress),
    Plain(Box<dyn Write + Send>),
}

impl Screen {
    pub fn stdout() -> Screen {
        Screen::new(if io::stdout().is_terminal() {
            Output::Terminal(MultiProgress::with_draw_target(ProgressDrawTarget::stdout()))
        } else {
            Output::Plain(Box::new(io::stdout()))
        })
    }

    /// Plain lines into anything that takes them.
    pub fn plain(writer: impl Write + Send + 'static) -> Screen {
        Screen::new(Output::Plain(Box::new(writer)))
    }

    fn new(output: Output) -> Screen {
        Screen { output: Arc::new(Mutex::new(output)) }
    }

    pub fn line(&self, text: impl AsRef<str>) {
        let text = text.as_ref();
        self.with(|output| match output {
            Output::Terminal(bars) => bars.suspend(|| println_quietly(text)),
            Output::Plain(writer) => {
                let _ = writeln!(writer, "{text}").and_then(|()| writer.flush());
            }
        });
    }

    /// Something of unknown length begins; it ends when the step is dropped.
    pub fn spinner(&self, text: impl Into<String>) -> Step {
        self.step(text, None)
    }

    /// Something begins that has so many parts.
    pub fn bar(&self, text: impl Into<String>, parts: u64) -> Step {
        self.step(text, Some(parts))
    }

    fn step(&self, text: impl Into<String>, parts: Option<u64>) -> Step {
        let text = text.into();
        let bar = self.with(|output| {
            let Output::Terminal(bars) = output else { return None };
            let (bar, template) = match parts {
                Some(parts) => (ProgressBar::new(parts), "{bar:30} {pos}/{len} {msg}, {eta} left"),
                None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
            };
            let bar = bars.add(bar);
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(text);
            bar.enable_steady_tick(TICK);
            Some(bar)
        });
        Step { screen: self.clone(), bar }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Output) -> T) -> T {
        act(&mut self.output.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What moves on the screen until it is dropped.
#[must_use]
pub struct Step {
    screen: Screen,
    bar: Option<ProgressBar>,
}

impl Step {
    pub fn set(&self, part: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(part);
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
            self.screen.with(|output| {
                if let Output::Terminal(bars) = output {
                    bars.remove(&bar);
                }
            });
        }
    }
}

fn println_quietly(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}
