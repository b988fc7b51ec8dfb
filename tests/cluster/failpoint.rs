//! Failpoints, armed per node: files in the data folder that the extension looks at when it was built with the feature `failpoints`.
//! Their names are constants of the extension, `failpoint_names` here.

use std::fs;
use std::path::PathBuf;

use super::{Node, wait_for};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The process that gets there kills itself with SIGKILL, once.
    Crash,
    /// It raises an ERROR, once.
    Error,
    /// It waits until `disarm`.
    Wait,
}

impl Node {
    /// The next process of this node that comes to the failpoint does `action`.
    pub fn arm(&self, name: &str, action: Action) {
        match action {
            Action::Crash => self.disturb(),
            // The extension's message names the failpoint.
            Action::Error => self.expect_log(&format!("failpoint \"{name}\"")),
            Action::Wait => {}
        }
        let content = match action {
            Action::Crash => "crash",
            Action::Error => "error",
            Action::Wait => "wait",
        };
        let armed = self.write_failpoint(name, content);
        armed.unwrap_or_else(|error| panic!("{}: failpoint \"{name}\": {error}", self.name()));
    }

    fn write_failpoint(&self, name: &str, content: &str) -> spock_recovery_cluster::Result<()> {
        let folder = self.failpoints();
        let server = self.server();
        if !folder.is_dir() {
            server.user().make_folder(&folder)?;
        }
        let hit = folder.join(format!("{name}.hit"));
        if hit.exists() {
            fs::remove_file(&hit).map_err(spock_recovery_cluster::Error::io("remove", &hit))?;
        }
        // Renamed into place: the extension never reads half a word.
        let fresh = folder.join(format!("{name}.new"));
        fs::write(&fresh, content).map_err(spock_recovery_cluster::Error::io("write", &fresh))?;
        server.user().own(&fresh)?;
        fs::rename(&fresh, folder.join(name)).map_err(spock_recovery_cluster::Error::io("rename", &fresh))
    }

    /// Waits until a process has come to the failpoint since `arm`.
    pub fn wait_hit(&self, name: &str) {
        let hit = self.failpoints().join(format!("{name}.hit"));
        wait_for(&format!("failpoint \"{name}\" on {}", self.name()), || hit.exists());
    }

    /// Lets a waiting process go on; does nothing if the failpoint is not armed.
    pub fn disarm(&self, name: &str) {
        let path = self.failpoints().join(name);
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            panic!("{}: failpoint \"{name}\": {error}", self.name());
        }
    }

    fn failpoints(&self) -> PathBuf {
        self.data().join("spock_failpoints")
    }
}
