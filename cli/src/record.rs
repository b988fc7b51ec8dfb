//! The record of a cluster that stays, in its folder: what a later process needs to find its servers.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, Uid};
use spock_recovery_cluster::pid_file::PidFile;
use spock_recovery_cluster::{
    Cluster, Error as ServerError, Installation, Server, ServerUser, client, deadline, process, run_folder,
};

use crate::cluster::{DATABASE, configuration};
use crate::error::{Error, Result};

const FILE: &str = "cluster";

/// How long a fast shutdown may take before the server is killed, which loses nothing that is still wanted.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A file of lines `<key> <value>`: version and bindir of the installation, `node <name> <port>` for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub version: String,
    pub bindir: PathBuf,
    pub nodes: Vec<(String, u16)>,
}

/// A cluster that a process before this one has left running.
#[derive(Debug, Clone)]
pub struct Kept {
    pub folder: PathBuf,
    pub record: Record,
}

impl Record {
    pub fn new(cluster: &Cluster) -> Record {
        Record {
            version: cluster.installation().version.clone(),
            bindir: cluster.installation().bindir.clone(),
            nodes: cluster.servers().iter().map(|server| (server.name().to_owned(), server.port())).collect(),
        }
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(FILE);
        fs::write(&path, self.text()).map_err(ServerError::io("write", &path))?;
        Ok(())
    }

    fn text(&self) -> String {
        let nodes: String = self.nodes.iter().map(|(name, port)| format!("node {name} {port}\n")).collect();
        format!("version {}\nbindir {}\n{nodes}", self.version, self.bindir.display())
    }

    fn parse(text: &str) -> std::result::Result<Record, String> {
        let mut record = Record { version: String::new(), bindir: PathBuf::new(), nodes: Vec::new() };
        for line in text.lines() {
            let node = |value: &str| {
                let (name, port) = value.split_once(' ')?;
                Some((name.to_owned(), port.parse().ok()?))
            };
            match line.split_once(' ') {
                Some(("version", value)) => record.version = value.to_owned(),
                Some(("bindir", value)) => record.bindir = PathBuf::from(value),
                Some(("node", value)) => {
                    record.nodes.push(node(value).ok_or_else(|| format!("unknown line \"{line}\""))?);
                }
                _ => return Err(format!("unknown line \"{line}\"")),
            }
        }
        match record {
            Record { ref nodes, ref bindir, .. } if nodes.is_empty() || bindir.as_os_str().is_empty() => {
                Err("it is not complete".into())
            }
            complete => Ok(complete),
        }
    }
}

impl Kept {
    /// Those of this user: whoever else may write to the folder for temporary files could name any program here.
    pub fn all() -> Result<Vec<Kept>> {
        let mut found = Vec::new();
        for folder in run_folder::kept() {
            let path = folder.join(FILE);
            if !fs::symlink_metadata(&path).is_ok_and(|file| file.is_file() && file.uid() == Uid::effective().as_raw())
            {
                continue;
            }
            let text = fs::read_to_string(&path).map_err(ServerError::io("read", &path))?;
            let record = Record::parse(&text).map_err(|reason| Error::Record { path, reason })?;
            found.push(Kept { folder, record });
        }
        Ok(found)
    }

    /// The one in the folder that was named; without a name the only one there is. None: there is none at all.
    pub fn chosen(there: Vec<Kept>, folder: Option<&Path>) -> Result<Option<Kept>> {
        if let Some(folder) = folder {
            let named = there.into_iter().find(|kept| kept.folder == folder);
            return named.map(Some).ok_or_else(|| Error::NoCluster(folder.to_owned()));
        }
        if there.len() > 1 {
            return Err(Error::SeveralClusters(there.into_iter().map(|kept| kept.folder).collect()));
        }
        Ok(there.into_iter().next())
    }

    pub fn config(&self, port: u16) -> postgres::Config {
        client::config(&self.folder, port, DATABASE)
    }

    /// The postmaster of a node, if it lives: one that was killed leaves its file behind, and its id may be another's by now.
    pub fn postmaster(&self, name: &str) -> Option<i32> {
        let data = self.folder.join(name);
        let pid = PidFile::read(&data)?.pid;
        let command = process::command_line(pid)?;
        (process::is_alive(pid) && command.ends_with(&format!("-D {}", data.display()))).then_some(pid)
    }

    /// A killed postmaster whose parent has not taken note of its end yet still holds the lock on its data folder.
    fn wait_gone(&self, name: &str) {
        if let Some(PidFile { pid, .. }) = PidFile::read(&self.folder.join(name)) {
            deadline::poll(STOP_LIMIT, || {
                // Where it was this process that started it.
                let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
                process::command_line(pid).is_none().then_some(())
            });
        }
    }

    /// Starts the nodes that do not run; their names.
    pub fn start_stopped(&self, user: &ServerUser) -> Result<Vec<String>> {
        let installation = Installation::find(&self.record.bindir.join("pg_config"), user)?;
        let mut started = Vec::new();
        for (name, port) in &self.record.nodes {
            if self.postmaster(name).is_none() {
                self.wait_gone(name);
                let server =
                    Server::existing(&installation, user, &self.folder, (name.as_str(), *port), configuration(true));
                server.start()?;
                server.release();
                started.push(name.clone());
            }
        }
        Ok(started)
    }

    /// Stops every node that runs, and removes the folder.
    pub fn remove(&self) -> Result<()> {
        for (name, _) in &self.record.nodes {
            let Some(pid) = self.postmaster(name) else { continue };
            let failed = |source| ServerError::Io { action: format!("stop server \"{name}\""), source };
            process::send(pid, Signal::SIGINT).and_then(|()| process::thaw(pid)).map_err(failed)?;
            if deadline::poll(STOP_LIMIT, || (!process::is_alive(pid)).then_some(())).is_none() {
                process::kill_all(pid).map_err(failed)?;
            }
        }
        fs::remove_dir_all(&self.folder).map_err(ServerError::io("remove", &self.folder))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, Record};
    use crate::error::Error;
    use std::path::{Path, PathBuf};

    #[test]
    fn one_of_several_clusters_must_be_named() {
        let record = Record { version: String::new(), bindir: PathBuf::new(), nodes: Vec::new() };
        let kept = |folder: &str| Kept { folder: folder.into(), record: record.clone() };
        let chosen = |there: &[&str], folder: Option<&str>| {
            let there = there.iter().map(|folder| kept(folder)).collect();
            Kept::chosen(there, folder.map(Path::new)).map(|kept| kept.map(|kept| kept.folder))
        };
        assert_eq!(chosen(&[], None).ok(), Some(None));
        assert_eq!(chosen(&["/a"], None).ok(), Some(Some("/a".into())));
        assert_eq!(chosen(&["/a", "/b"], Some("/b/")).ok(), Some(Some("/b".into())));
        assert!(matches!(chosen(&["/a", "/b"], None), Err(Error::SeveralClusters(both)) if both.len() == 2));
        assert!(matches!(chosen(&["/a"], Some("/b")), Err(Error::NoCluster(_))));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record {
            version: "PostgreSQL 17.11 (Debian 17.11-1)".into(),
            bindir: "/usr/lib/post gres/bin".into(),
            nodes: vec![("n1".into(), 5451), ("n2".into(), 5452)],
        };
        assert_eq!(Record::parse(&record.text()), Ok(record));
        for broken in ["", "node n1 5451", "bindir /b", "bindir /b\nnode n1 x", "bindir /b\nnode n1 5451\nelse"] {
            assert!(Record::parse(broken).is_err(), "{broken}");
        }
    }
}
