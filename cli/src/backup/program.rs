//! Programs that may take hours: they end with this process, and somebody is told of their progress.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use spock_recovery_cluster::spawn;

use super::error::Result;

/// As often as a bar moves.
const LOOK: Duration = Duration::from_millis(200);

/// What the program printed. Calls `look` while it runs. A failure is an error with what it printed.
pub fn run(mut command: Command, mut look: impl FnMut()) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = || spock_recovery_cluster::Error::io("run", Path::new(&program));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn::tethered(command).map_err(failed())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let printed = [stdout.map(read), stderr.map(read)];
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed())? {
            break status;
        }
        look();
        thread::sleep(LOOK);
    };
    let printed = printed.map(|reader| reader.and_then(|reader| reader.join().ok()).unwrap_or_default());
    if status.success() {
        let [stdout, _] = printed;
        return Ok(stdout);
    }
    let output = printed.concat().trim().to_owned();
    Err(spock_recovery_cluster::Error::Command { program, status: status.to_string(), output }.into())
}

/// Both outputs are read at the same time: a program that fills one pipe would wait for its reader.
fn read(mut output: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _: io::Result<usize> = output.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
