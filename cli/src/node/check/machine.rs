//! The machine of the new node: folder, account, room and programs, and the way to the living node from it.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use spock_recovery_cluster::ServerUser;

use super::Ground;
use crate::backup::conninfo::Conninfo;
use crate::backup::nodes::{Live, Registered};
use crate::backup::take::size;
use crate::backup::{dir, program, setup};
use crate::node::error::Result;

impl Ground<'_> {
    /// Folder, account, room and programs on this machine, and the way to the living node from it.
    pub(super) fn judge_machine(&mut self, from: &Conninfo) -> Result<(ServerUser, PathBuf)> {
        let pgdata = self.options.pgdata.clone();
        let nearest = pgdata.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned();
        let user = match ServerUser::owner_of(&nearest)? {
            Some(user) if user.name() == "root" => ServerUser::find()?,
            Some(user) => user,
            None if pgdata.exists() => {
                self.find(format!(
                    "this account does not own \"{}\": run spockctl as its owner, or as root",
                    pgdata.display()
                ));
                ServerUser::find()?
            }
            None => ServerUser::find()?,
        };
        if !dir::entries(&pgdata)?.is_empty() {
            self.find(format!("\"{}\" is not empty: move it away, or choose another --pgdata", pgdata.display()));
        }
        match pgdata.parent() {
            Some(parent) if parent.is_dir() => {
                if setup::require_writable(&self.options.name, parent, &user).is_err() {
                    self.find(format!(
                        "\"{}\" cannot write into \"{}\", beside the data directory: let it",
                        user.name(),
                        parent.display()
                    ));
                }
            }
            _ => self.find(format!("the folder above \"{}\" is not there: make it", pgdata.display())),
        }
        let bytes = self.own().number("bytes");
        if let Ok(file_system) = statvfs(&nearest) {
            let free = file_system.blocks_available() * file_system.fragment_size();
            if free < bytes {
                self.find(format!(
                    "\"{}\" has {} free, and about {} are needed: make room",
                    nearest.display(),
                    size(free),
                    size(bytes)
                ));
            }
        }
        let bin_folder = self.judge_programs(&user)?;
        let name = self.source.clone();
        let mut live = Live::meet(&Registered { name, conninfo: from.clone() })?;
        live.node.bin_folder = bin_folder.clone();
        if let Err(error) = setup::replication(&live, &user) {
            self.find(error.to_string());
        }
        Ok((user, bin_folder))
    }

    /// The server's programs are of the living node's major, and it has a configuration.
    fn judge_programs(&mut self, user: &ServerUser) -> Result<PathBuf> {
        let (major, hba) = (self.live()?.major, PathBuf::from(self.own().setting("hba_file")));
        let node = self.live()?.node.clone();
        let bin_folder = self.options.bin_folder.clone().unwrap_or(node.bin_folder);
        let mut command = user.command(&bin_folder.join("postgres"));
        command.arg("--version");
        match program::run(command, || ()) {
            Ok(text) if text.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty()) == Some(&major.to_string()) => {}
            Ok(text) => self.find(format!(
                "\"{}\" has {}, and the living node is of major {major}: name the folder of such a server's programs with --bin-folder",
                bin_folder.display(),
                text.trim()
            )),
            Err(_) => self.find(format!(
                "there is no server in \"{}\": name the folder of PostgreSQL {major}'s programs with --bin-folder",
                bin_folder.display()
            )),
        }
        let outside = [&node.config_file, &hba].into_iter().find(|file| !file.starts_with(&node.pgdata));
        match (&self.options.config_file, outside) {
            (None, Some(file)) => self.find(format!(
                "\"{}\", configuration of the living node, lies outside its data directory, and so in no base backup: write the new node's own, \
                 and name it with --config-file",
                file.display()
            )),
            (Some(file), _) if !file.is_file() => self.find(format!("there is no file \"{}\" for --config-file", file.display())),
            _ => {}
        }
        Ok(bin_folder)
    }

    /// Folders outside the data directory, and where they are to be.
    pub(super) fn judge_tablespaces(&mut self) -> Result<Vec<(String, PathBuf)>> {
        let outside = "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%' ORDER BY 1";
        let there: Vec<String> = self.live()?.query(outside)?.into_iter().flatten().flatten().collect();
        let mut mapped = Vec::new();
        for location in &there {
            match self.options.tablespaces.iter().find(|(from, _)| from == location) {
                None => self.find(format!(
                    "node \"{}\" has a tablespace in \"{location}\": say where the new node's is to be, with --tablespace '{location}=FOLDER'",
                    self.source
                )),
                Some((_, folder)) if !dir::entries(folder)?.is_empty() => {
                    self.find(format!("\"{}\", for a tablespace, is not empty: move it away, or choose another", folder.display()));
                }
                Some((_, folder)) => mapped.push((location.clone(), folder.clone())),
            }
        }
        let unknown: Vec<String> = self
            .options
            .tablespaces
            .iter()
            .filter(|(from, _)| !there.contains(from))
            .map(|(from, _)| from.clone())
            .collect();
        unknown.iter().for_each(|from| self.find(format!("node \"{}\" has no tablespace in \"{from}\"", self.source)));
        Ok(mapped)
    }
}
