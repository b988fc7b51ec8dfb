//! Programs that run to their end.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};

/// What the program printed on stdout. A program that ends with a failure is an error, with everything that it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().map_err(Error::io("run", Path::new(command.get_program())))?;
    let printed = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(printed(&output.stdout));
    }
    Err(Error::Command {
        program: command.get_program().to_string_lossy().into_owned(),
        status: output.status.to_string(),
        output: (printed(&output.stdout) + &printed(&output.stderr)).trim().to_owned(),
    })
}
