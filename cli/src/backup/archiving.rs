//! What a server must be told so that it archives, and what it needs a restart for (pure).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::shell;

/// A segment with a restore point is archived that soon on a server that writes little.
pub const TIMEOUT: &str = "60s";

/// pg_basebackup takes one for the files and one for the WAL.
const SENDERS: u32 = 2;

/// How a server is to archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archiving {
    /// Core's module basic_archive, which never overwrites a file, and flushes before it renames.
    Module(PathBuf),
    Command(String),
}

impl Archiving {
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        match self {
            Archiving::Module(folder) => vec![
                ("basic_archive.archive_directory", folder.display().to_string()),
                ("archive_library", "basic_archive".into()),
            ],
            Archiving::Command(command) => vec![("archive_command", command.clone())],
        }
    }
}

/// Copies into a folder (.tmp, for a promoted server archives a segment of its own that ends in .partial): a file that is there already is left alone, and is a failure unless it is the same; a new one gets its name
/// when it is on the disk.
pub fn command(folder: &Path) -> String {
    let folder = shell::setting_word(folder);
    format!(
        "umask 077; d={folder}; if test -e \"$d/%f\"; then cmp -s -- \"%p\" \"$d/%f\"; \
         else cp -- \"%p\" \"$d/%f.tmp\" && sync \"$d/%f.tmp\" && mv -- \"$d/%f.tmp\" \"$d/%f\" && sync \"$d\"; fi"
    )
}

/// Settings of a server: those of this moment, and for what archive_mode = off hides, those of its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Current {
    pub major: u32,
    pub settings: BTreeMap<String, String>,
    pub senders_in_use: u32,
}

impl Current {
    fn get(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub changes: Vec<(&'static str, String)>,
    /// For what a restart is needed, in words.
    pub restart: Vec<String>,
}

/// The setting of the user's own that is in the way, with its value.
#[derive(Debug, PartialEq, Eq)]
pub struct Foreign {
    pub name: &'static str,
    pub value: String,
}

/// The settings that say where the segments go.
const WAY: [&str; 3] = ["archive_command", "archive_library", "basic_archive.archive_directory"];

pub fn is_way(name: &str) -> bool {
    WAY.contains(&name)
}

/// What is to be changed. `ours`: what an earlier setup may have set, which may be replaced.
pub fn plan(current: &Current, wanted: &Archiving, ours: &[Archiving], timeout: Option<&str>) -> Result<Plan, Foreign> {
    let is_ours = |name: &str, value: &str| {
        let of = |archiving: &Archiving| archiving.settings().iter().any(|(ours, own)| *ours == name && own == value);
        value.is_empty() || of(wanted) || ours.iter().any(of)
    };
    for name in WAY {
        let value = current.get(name);
        if !is_ours(name, value) {
            return Err(Foreign { name, value: value.into() });
        }
    }
    let mut plan = Plan::default();
    // Both at once are an error of the archiver.
    let other = if matches!(wanted, Archiving::Module(_)) { "archive_command" } else { "archive_library" };
    plan.want(current, other, "");
    for (name, value) in wanted.settings() {
        plan.want(current, name, &value);
    }
    match (timeout, current.get("archive_timeout")) {
        (Some(timeout), _) => plan.want(current, "archive_timeout", timeout),
        (None, "" | "0") => plan.want(current, "archive_timeout", TIMEOUT),
        _ => {}
    }
    if current.major >= 17 {
        plan.want(current, "summarize_wal", "on");
    }
    plan.want_restart(current);
    Ok(plan)
}

impl Plan {
    fn want(&mut self, current: &Current, name: &'static str, value: &str) {
        if current.get(name) != value {
            self.changes.push((name, value.into()));
        }
    }

    fn want_restart(&mut self, current: &Current) {
        if current.get("archive_mode") == "off" {
            self.changes.push(("archive_mode", "on".into()));
            self.restart.push("archive_mode = on".into());
        }
        if current.get("wal_level") == "minimal" {
            self.changes.push(("wal_level", "logical".into()));
            self.restart.push("wal_level = logical".into());
        }
        let senders = current.get("max_wal_senders").parse().unwrap_or(0);
        let needed = current.senders_in_use + SENDERS;
        if senders < needed {
            self.changes.push(("max_wal_senders", needed.to_string()));
            self.restart.push(format!(
                "max_wal_senders = {needed} ({} are in use, a backup takes {SENDERS})",
                current.senders_in_use
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(settings: &[(&str, &str)]) -> Current {
        let defaults = [
            ("archive_mode", "on"),
            ("wal_level", "logical"),
            ("max_wal_senders", "10"),
            ("summarize_wal", "on"),
            ("archive_timeout", "60"),
        ];
        let settings = defaults.iter().chain(settings).map(|&(name, value)| (name.into(), value.into())).collect();
        Current { major: 17, settings, senders_in_use: 3 }
    }

    fn module() -> Archiving {
        Archiving::Module("/r/n1/wal".into())
    }

    #[test]
    fn a_server_of_defaults_is_told_everything_and_must_be_restarted() {
        let current = current(&[
            ("archive_mode", "off"),
            ("wal_level", "minimal"),
            ("max_wal_senders", "4"),
            ("summarize_wal", "off"),
            ("archive_timeout", "0"),
        ]);
        let plan = plan(&current, &module(), &[], None).expect("nothing is in the way");
        let names: Vec<&str> = plan.changes.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "basic_archive.archive_directory",
                "archive_library",
                "archive_timeout",
                "summarize_wal",
                "archive_mode",
                "wal_level",
                "max_wal_senders"
            ]
        );
        assert_eq!(plan.restart.len(), 3);
    }

    #[test]
    fn a_second_setup_changes_nothing() {
        let there = current(&[("archive_library", "basic_archive"), ("basic_archive.archive_directory", "/r/n1/wal")]);
        assert_eq!(plan(&there, &module(), &[], None), Ok(Plan::default()));
    }

    #[test]
    fn a_command_of_the_users_own_is_in_the_way_and_one_of_ours_is_replaced() {
        let command = Archiving::Command(command(Path::new("/r/n1/wal")));
        let theirs = current(&[("archive_command", "cp %p /x/%f")]);
        let foreign = Foreign { name: "archive_command", value: "cp %p /x/%f".into() };
        assert_eq!(plan(&theirs, &module(), std::slice::from_ref(&command), None), Err(foreign));
        let ours = current(&[("archive_command", &super::command(Path::new("/r/n1/wal")))]);
        let replaced = plan(&ours, &module(), &[command], None).expect("it is ours");
        assert_eq!(replaced.changes[0], ("archive_command", String::new()));
    }

    #[test]
    fn a_timeout_of_the_users_own_stays_unless_another_is_asked_for() {
        let there = current(&[("archive_timeout", "300")]);
        let command = Archiving::Command("x".into());
        let names = |plan: Plan| plan.changes.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(plan(&there, &command, &[], None).map(names), Ok(vec!["archive_command"]));
        assert_eq!(plan(&there, &command, &[], Some("10s")).map(names), Ok(vec!["archive_command", "archive_timeout"]));
    }

    /// As the server runs it: with %p and %f replaced, and %% for %.
    #[test]
    fn the_command_never_overwrites_and_takes_the_same_file_twice() {
        use std::os::unix::fs::PermissionsExt;
        use std::{env, fs, process};

        let here = env::temp_dir().join(format!("spockctl it's 5% \"$HOME\" {}", process::id()));
        let (folder, file) = (here.join("wal"), here.join("segment"));
        fs::create_dir_all(&folder).expect("it can be made");
        let archive = |bytes: &str| {
            fs::write(&file, bytes).expect("it can be written");
            // %% last, for what stands in for the others has a % of its own.
            let command = command(&folder).replace("%%", "\0").replace("%f", "0A").replace("%p", "segment");
            let mut shell = process::Command::new("/bin/sh");
            shell
                .arg("-c")
                .arg(command.replace('\0', "%"))
                .current_dir(&here)
                .status()
                .is_ok_and(|status| status.success())
        };
        let archived = || fs::read_to_string(folder.join("0A")).unwrap_or_default();
        assert!(archive("one") && archived() == "one");
        assert!(archive("one") && archived() == "one");
        assert!(!archive("two") && archived() == "one");
        assert_eq!(fs::metadata(folder.join("0A")).expect("it is there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), 1);
        fs::remove_dir_all(&here).expect("it can be removed");
    }
}
