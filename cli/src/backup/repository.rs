//! The repository R on the disk, as every driver has it.
//!
//! ```text
//! R/mesh.json                 which driver, and the nodes: refreshed by setup and take, never a password
//! R/<node>/lock               locked by whoever changes something of the node
//! R/<node>/wal/               with the driver dir: archived segments and histories under PostgreSQL's names
//! R/<node>/base/<label>/      with the driver dir: what pg_basebackup wrote, with its backup_manifest
//! R/<node>/base/<label>.json  written last: a base backup without it is unfinished, and is not used
//! ```
//!
//! Files and folders belong to the owner of the data directory, who archives into them, and nobody else may read them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spock_recovery_cluster::ServerUser;

use super::command::Templates;
use super::error::{Error, Result};

const MESH: &str = "mesh.json";

/// The layout of `mesh.json`; a greater number is refused.
const VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverName {
    Dir,
    Barman,
    Command,
}

impl DriverName {
    pub fn name(self) -> &'static str {
        match self {
            DriverName::Dir => "dir",
            DriverName::Barman => "barman",
            DriverName::Command => "command",
        }
    }
}

/// One node as it was when setup or take last spoke to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshNode {
    pub name: String,
    /// Without its password: that comes from PGPASSWORD or the password file.
    pub dsn: String,
    pub pgdata: PathBuf,
    /// May lie outside `pgdata`, and is then in no backup.
    pub config_file: PathBuf,
    pub port: u16,
    /// Where the programs of this server are.
    pub bin_folder: PathBuf,
    /// Text, for it has more digits than a JSON number keeps.
    pub system_identifier: String,
    pub pg_version: String,
    pub wal_segment_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    pub version: u32,
    pub driver: DriverName,
    pub database: String,
    pub nodes: Vec<MeshNode>,
    /// With the driver `command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Templates>,
}

#[derive(Debug, Clone)]
pub struct Repository {
    path: PathBuf,
    pub mesh: Mesh,
}

impl Repository {
    pub fn open(path: &Path) -> Result<Repository> {
        let file = path.join(MESH);
        match fs::metadata(&file) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(Error::Forbidden(path.into())),
            Err(_) => return Err(Error::NoRepository(path.into())),
        }
        let mesh: Mesh = read_document(&file)?;
        if mesh.version > VERSION {
            return Err(Error::Document { path: file, reason: format!("it has version {}", mesh.version) });
        }
        let path = fs::canonicalize(path).map_err(Error::io("look at", path))?;
        Ok(Repository { path, mesh })
    }

    /// A new one, or the one that is there, which must have the same driver. Nothing is written yet.
    pub fn open_or_new(path: &Path, driver: Option<DriverName>, database: &str) -> Result<Repository> {
        if !path.join(MESH).exists() {
            let path = resolved(&std::path::absolute(path).map_err(Error::io("look at", path))?)?;
            if path.to_str().is_none() {
                return Err(Error::NotText(path));
            }
            let driver = driver.unwrap_or(DriverName::Dir);
            let mesh = Mesh { version: VERSION, driver, database: database.into(), nodes: Vec::new(), command: None };
            return Ok(Repository { path, mesh });
        }
        let there = Repository::open(path)?;
        if driver.is_some_and(|driver| there.mesh.driver != driver) {
            return Err(Error::OtherDriver { path: there.path, driver: there.mesh.driver });
        }
        Ok(there)
    }

    /// Takes over what a node says of itself. A node of the same name that is another system is another node.
    /// Returns whether anything of it is new.
    pub fn note(&mut self, node: &MeshNode) -> Result<bool> {
        if node.name.contains('/') || node.name.starts_with('.') || node.name == MESH {
            return Err(Error::NodeName(node.name.clone()));
        }
        match self.mesh.nodes.iter_mut().find(|known| known.name == node.name) {
            Some(known) if known.system_identifier != node.system_identifier && self.path.join(&node.name).exists() => {
                Err(Error::OtherSystem {
                    node: node.name.clone(),
                    now: node.system_identifier.clone(),
                    then: known.system_identifier.clone(),
                    folder: self.path.join(&node.name),
                })
            }
            Some(known) => {
                let is_new = known != node;
                known.clone_from(node);
                Ok(is_new)
            }
            None => {
                self.mesh.nodes.push(node.clone());
                self.mesh.nodes.sort_by(|a, b| a.name.cmp(&b.name));
                Ok(true)
            }
        }
    }

    /// `owner`: of the nodes' data directories.
    pub fn write(&self, owner: &ServerUser) -> Result<()> {
        write_document(&self.path.join(MESH), &self.mesh, owner)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn nodes(&self) -> &[MeshNode] {
        &self.mesh.nodes
    }

    pub fn node(&self, name: &str) -> Result<&MeshNode> {
        self.mesh.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
            let known: Vec<String> = self.mesh.nodes.iter().map(|node| format!("\"{}\"", node.name)).collect();
            Error::UnknownNode { name: name.into(), known: known.join(", ") }
        })
    }

    pub fn node_folder(&self, node: &str) -> PathBuf {
        self.path.join(node)
    }

    pub fn wal_folder(&self, node: &str) -> PathBuf {
        self.path.join(node).join("wal")
    }

    pub fn base_folder(&self, node: &str) -> PathBuf {
        self.path.join(node).join("base")
    }

    /// Held until the file is dropped: one take, expire or setup at a time changes a node's part.
    pub fn lock(&self, node: &str, owner: &ServerUser) -> Result<File> {
        let path = self.node_folder(node).join("lock");
        let file = lock_file(&path, owner)?;
        file.try_lock().map_err(|_| Error::Locked(node.into()))?;
        Ok(file)
    }
}

/// As it will be called once it is there: servers are told this path, and a later setup compares it.
fn resolved(path: &Path) -> Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if !path.exists() => Ok(resolved(parent)?.join(name)),
        _ => Ok(fs::canonicalize(path).map_err(Error::io("look at", path))?),
    }
}

/// A folder, and those above it that are missing, that nobody but `owner` may enter. One that is there stays as it is.
pub fn make_folder(path: &Path, owner: &ServerUser) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent, owner)?;
    }
    fs::DirBuilder::new().mode(0o700).create(path).map_err(Error::io("create the folder", path))?;
    Ok(owner.own(path)?)
}

/// Whoever reads finds either the old text or the whole new one, also after a crash of the machine.
pub fn write_document(path: &Path, document: &impl Serialize, owner: &ServerUser) -> Result<()> {
    let broken = |error: serde_json::Error| Error::Document { path: path.into(), reason: error.to_string() };
    let text = serde_json::to_string_pretty(document).map_err(broken)?;
    write_file(path, &format!("{text}\n"), owner)
}

/// The same for any text.
pub fn write_file(path: &Path, text: &str, owner: &ServerUser) -> Result<()> {
    write_bytes(path, text.as_bytes(), owner)
}

/// The same for any bytes. The folder may be the owner's, who is not trusted with what root may do: a link that is in the
/// way is not followed.
pub fn write_bytes(path: &Path, bytes: &[u8], owner: &ServerUser) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let failed = || Error::io("write", &partial);
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed()(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&partial).map_err(failed())?;
    owner.own_file(&file, &partial)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed())?;
    fs::rename(&partial, path).map_err(Error::io("rename to", path))?;
    sync_folder(path.parent().unwrap_or(Path::new("/")))
}

/// A file to be locked, which stays. A link in its place is not followed.
pub fn lock_file(path: &Path, owner: &ServerUser) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
    let file = options.open(path).map_err(Error::io("open", path))?;
    owner.own_file(&file, path)?;
    Ok(file)
}

pub fn read_document<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| Error::Document { path: path.into(), reason: error.to_string() })
}

/// A rename or a removal is lasting after that.
pub fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(Error::io("flush the folder", path))
}
