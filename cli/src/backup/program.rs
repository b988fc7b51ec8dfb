//! Programs that may take hours: they end with this process, and somebody is told of their progress.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use spock_recovery_cluster::spawn;

use super::conninfo::Conninfo;
use super::error::Result;

/// As often as a bar moves.
const LOOK: Duration = Duration::from_millis(200);

/// A program of a few milliseconds is not waited for that long.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// What the program printed. Calls `look` while it runs. A failure is an error with what it printed.
pub fn run(mut command: Command, mut look: impl FnMut()) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = || spock_recovery_cluster::Error::io("run", Path::new(&program));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
    let mut child = spawn::tethered(command).map_err(failed())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let printed = [stdout.map(read), stderr.map(read)];
    let mut pause = FIRST_LOOK;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed())? {
            break status;
        }
        look();
        thread::sleep(pause);
        pause = LOOK.min(pause * 2);
    };
    let printed = printed.map(|reader| reader.and_then(|reader| reader.join().ok()).unwrap_or_default());
    if status.success() {
        let [stdout, _] = printed;
        return Ok(stdout);
    }
    let output = printed.concat().trim().to_owned();
    Err(spock_recovery_cluster::Error::Command { program, status: status.to_string(), output }.into())
}

/// Where other accounts of the machine do not see it.
pub fn with_password(command: &mut Command, conninfo: &Conninfo) {
    if let Some(password) = conninfo.password() {
        command.env("PGPASSWORD", password);
    }
}

/// What a program said in the end, for a message of one line.
pub fn last_line(text: &str) -> String {
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// Both outputs are read at the same time: a program that fills one pipe would wait for its reader.
fn read(mut output: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _: io::Result<usize> = output.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
