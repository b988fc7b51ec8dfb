//! The driver `command`: the user's own backup program, by commands that setup is given.

use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};
use spock_recovery_cluster::ServerUser;

use super::archiving::Archiving;
use super::base::{self, BaseBackup, Kind};
use super::dir;
use super::driver::{self, Driver, Order, Progress};
use super::error::{Error, Result};
use super::program;
use super::repository::{self, MeshNode, Repository};
use super::setup;
use super::shell;
use super::wal::{Archive, History, Segment};

/// Commands for the shell. `{node}`, `{pgdata}`, `{dsn}` and `{bin_folder}` stand for what the repository knows of the node; each is
/// put in as one word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Templates {
    /// archive_command: `{path}` is the server's file, `{file}` its name.
    pub archive: String,
    /// Takes a backup; `{kind}` is full or incremental.
    pub take: String,
    /// Prints a JSON array of the complete backups, with the names of `spockctl backup list --format json`.
    pub list: String,
    /// Prints the names of the archived files, one a line.
    pub list_wal: String,
    /// Writes backup `{label}` into the empty folder `{target}`.
    pub fetch_base: String,
    /// Writes the archived file `{file}` to `{target}`; fails where it is not there.
    pub fetch_wal: String,
    /// Fails if backup `{label}` is damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<String>,
    /// Removes backup `{label}`, and the WAL that no other needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<String>,
}

const OF_THE_NODE: [&str; 4] = ["node", "pgdata", "dsn", "bin_folder"];

impl Templates {
    /// The option, the command, and the placeholders that it must have beside those of the node, which it may have.
    fn all(&self) -> Vec<(&'static str, &str, &'static [&'static str])> {
        let mut all: Vec<(&'static str, &str, &'static [&'static str])> = vec![
            ("--archive-command", &self.archive, &["path"]),
            ("--take-command", &self.take, &[]),
            ("--list-command", &self.list, &[]),
            ("--list-wal-command", &self.list_wal, &[]),
            ("--fetch-base-command", &self.fetch_base, &["label", "target"]),
            ("--fetch-wal-command", &self.fetch_wal, &["file", "target"]),
        ];
        all.extend(self.verify.iter().map(|command| ("--verify-command", command.as_str(), &["label"] as &[_])));
        all.extend(self.remove.iter().map(|command| ("--remove-command", command.as_str(), &["label"] as &[_])));
        all
    }

    /// Before anything is done with them.
    pub fn validate(&self) -> Result<()> {
        for (option, command, needed) in self.all() {
            let mut allowed: Vec<&str> = OF_THE_NODE.iter().chain(needed).copied().collect();
            match option {
                "--archive-command" => allowed.push("file"),
                "--take-command" => allowed.push("kind"),
                _ => {}
            }
            let names = placeholders(command);
            let stranger =
                names.iter().find(|name| !allowed.contains(name)).map(|name| format!("{{{name}}} means nothing in it"));
            let lacks = needed.iter().find(|name| !names.contains(name)).map(|name| format!("it lacks {{{name}}}"));
            let empty = command.trim().is_empty().then(|| "it is empty".to_owned());
            if let Some(reason) = stranger.or(lacks).or(empty) {
                return Err(Error::Template { option, reason });
            }
        }
        Ok(())
    }
}

/// What stands in braces, as far as it looks like a name: `${x}` and awk's blocks are the shell's.
fn placeholders(template: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for (at, _) in template.match_indices('{') {
        let name = template[at + 1..].split_once('}').map(|(name, _)| name);
        let is_ours = !template[..at].ends_with('$');
        names.extend(name.filter(|name| {
            is_ours && !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        }));
    }
    names
}

/// Puts in what is known; every value must be a word for the shell already.
fn expand(template: &str, values: &[(&str, String)]) -> String {
    let mut text = String::new();
    let mut rest = template;
    // What was put in is not looked at again.
    while let Some(at) = rest.find('{') {
        let found =
            values.iter().find(|(name, _)| rest[at + 1..].strip_prefix(name).is_some_and(|rest| rest.starts_with('}')));
        let (end, value) = match found.filter(|_| !rest[..at].ends_with('$')) {
            Some((name, value)) => (at + name.len() + 2, value.as_str()),
            None => (at + 1, "{"),
        };
        text.push_str(&rest[..at]);
        text.push_str(value);
        rest = &rest[end..];
    }
    text + rest
}

fn of_node(node: &MeshNode) -> Vec<(&'static str, String)> {
    vec![
        ("node", shell::word(Path::new(&node.name))),
        ("pgdata", shell::word(&node.pgdata)),
        ("dsn", shell::word(Path::new(&node.dsn))),
        ("bin_folder", shell::word(&node.bin_folder)),
    ]
}

/// For a setting in which the server replaces %f and %p.
fn setting(template: &str, node: &MeshNode, own: &[(&'static str, &str)]) -> String {
    let doubled = |text: &str| text.replace('%', "%%");
    let mut values = of_node(node);
    values.iter_mut().for_each(|(_, value)| *value = doubled(value));
    values.extend(own.iter().map(|&(name, value)| (name, value.to_owned())));
    expand(&doubled(template), &values)
}

#[derive(Debug)]
pub struct Commands {
    repository: Repository,
    templates: Templates,
}

impl Commands {
    pub fn new(repository: Repository, templates: Templates) -> Commands {
        Commands { repository, templates }
    }

    fn run(
        &self,
        template: &str,
        node: &MeshNode,
        own: &[(&'static str, String)],
        user: &ServerUser,
        look: impl FnMut(),
    ) -> Result<String> {
        let values: Vec<(&str, String)> = of_node(node).into_iter().chain(own.iter().cloned()).collect();
        let mut command = user.command(Path::new("/bin/sh"));
        command.arg("-c").arg(expand(template, &values));
        program::run(command, look)
    }

    /// Whom the node's folder belongs to.
    fn owner(&self, node: &MeshNode) -> Result<ServerUser> {
        let folder = self.repository.node_folder(&node.name);
        let closed = || Error::Closed { node: node.name.clone(), pgdata: folder.clone() };
        ServerUser::owner_of(&folder)?.ok_or_else(closed)
    }

    fn history(&self, node: &MeshNode, timeline: u32) -> Result<History> {
        let file = History::file_name(timeline);
        let folder = self.repository.node_folder(&node.name);
        self.fetch_wal(node, &file, &folder, &self.owner(node)?)?;
        let path = folder.join(&file);
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        History::parse(timeline, &String::from_utf8_lossy(&text))
            .ok_or_else(|| Error::Document { path, reason: "it is no history".into() })
    }
}

impl Driver for Commands {
    fn backups(&self, node: &MeshNode) -> Result<Vec<BaseBackup>> {
        if !self.repository.node_folder(&node.name).is_dir() {
            return Ok(Vec::new());
        }
        let printed = self.run(&self.templates.list, node, &[], &self.owner(node)?, || ())?;
        let broken = |error: serde_json::Error| Error::Printed { option: "--list-command", reason: error.to_string() };
        let mut backups: Vec<BaseBackup> = serde_json::from_str(&printed).map_err(broken)?;
        backups.sort_by(|a, b| a.ended_at.cmp(&b.ended_at));
        Ok(backups)
    }

    fn archive(&self, node: &MeshNode) -> Result<Archive> {
        let mut archive = Archive::new(node.wal_segment_bytes);
        if !self.repository.node_folder(&node.name).is_dir() {
            return Ok(archive);
        }
        let printed = self.run(&self.templates.list_wal, node, &[], &self.owner(node)?, || ())?;
        for line in printed.lines() {
            match archived(line, archive.segment_size) {
                Some(Archived::Segment(segment)) => drop(archive.segments.insert(segment, None)),
                Some(Archived::History(timeline)) => {
                    drop(archive.histories.insert(timeline, self.history(node, timeline)?))
                }
                None => {}
            }
        }
        Ok(archive)
    }

    fn fetch_base(
        &self,
        node: &MeshNode,
        label: &str,
        data: &Path,
        user: &ServerUser,
        progress: Progress<'_>,
    ) -> Result<()> {
        let backup = self.backup(node, label)?;
        dir::prepare_target(data, user)?;
        let own = [("label", shell::word(Path::new(label))), ("target", shell::word(data))];
        self.run(&self.templates.fetch_base, node, &own, user, || progress(dir::folder_bytes(data)))?;
        driver::complete(self, node, &backup, data, user)?;
        dir::sync_data(node, data, user)?;
        progress(dir::folder_bytes(data));
        Ok(())
    }

    fn fetch_wal(&self, node: &MeshNode, file: &str, folder: &Path, user: &ServerUser) -> Result<()> {
        let (partial, target) = (folder.join(format!("{file}.tmp")), folder.join(file));
        let own = [("file", shell::word(Path::new(file))), ("target", shell::word(&partial))];
        let fetched = self.run(&self.templates.fetch_wal, node, &own, user, || ());
        if fetched.is_err() || !partial.is_file() {
            let reason = fetched.err().map(|error| error.to_string());
            return Err(Error::NotFetched {
                node: node.name.clone(),
                file: file.into(),
                reason: reason.unwrap_or_else(|| "it wrote nothing".into()),
            });
        }
        File::open(&partial).and_then(|file| file.sync_all()).map_err(Error::io("flush", &partial))?;
        fs::rename(&partial, &target).map_err(Error::io("rename to", &target))?;
        repository::sync_folder(folder)
    }

    fn restore_command(&self, node: &MeshNode) -> Result<String> {
        Ok(setting(&self.templates.fetch_wal, node, &[("file", "%f"), ("target", "\"%p\"")]))
    }

    fn archiving(&self, node: &MeshNode, _: bool) -> Result<Archiving> {
        Ok(Archiving::Command(setting(&self.templates.archive, node, &[("file", "%f"), ("path", "\"%p\"")])))
    }

    fn prepare(&self, node: &MeshNode, user: &ServerUser) -> Result<()> {
        let folder = self.repository.node_folder(&node.name);
        repository::make_folder(&folder, user)?;
        setup::require_writable(&node.name, &folder, user)
    }

    fn sweep(&self, _: &MeshNode) -> Result<()> {
        Ok(())
    }

    fn decides_kind(&self) -> bool {
        true
    }

    fn restores_tablespaces(&self) -> bool {
        true
    }

    /// The one that the list has afterwards, and had not before.
    fn take(&self, order: &Order<'_>, now: &mut dyn FnMut() -> Result<String>, _: Progress<'_>) -> Result<BaseBackup> {
        let before = self.backups(order.node)?;
        let kind = order.asked.unwrap_or(if before.is_empty() { Kind::Full } else { Kind::Incremental });
        self.run(&self.templates.take, order.node, &[("kind", kind.name().into())], order.user, || ())?;
        let after = self.backups(order.node)?;
        let taken = after.iter().rfind(|backup| !before.iter().any(|known| known.label == backup.label));
        let none = || Error::Printed {
            option: "--list-command",
            reason: "it shows no new backup after --take-command".into(),
        };
        let taken = taken.ok_or_else(none)?;
        let chain = base::chain(&after, &taken.label);
        let chain =
            chain.ok_or_else(|| Error::BrokenChain { node: order.node.name.clone(), label: taken.label.clone() })?;
        self.verify(order.node, &chain, order.user)?;
        let verified_at = self.templates.verify.as_ref().map(|_| now()).transpose()?;
        Ok(BaseBackup { verified_at, ..taken.clone() })
    }

    fn verify(&self, node: &MeshNode, chain: &[&BaseBackup], user: &ServerUser) -> Result<()> {
        let (Some(template), Some(backup)) = (&self.templates.verify, chain.last()) else { return Ok(()) };
        self.run(template, node, &[("label", shell::word(Path::new(&backup.label)))], user, || ()).map(drop)
    }

    /// By fetching the newest: that of the others is the program's own business.
    fn verify_segment(&self, node: &MeshNode, file: &str, closely: bool, user: &ServerUser) -> Result<()> {
        if !closely {
            return Ok(());
        }
        let folder = self.repository.node_folder(&node.name);
        self.fetch_wal(node, file, &folder, user)?;
        let path = folder.join(file);
        let looked = dir::look_into_segment(node, &path, user);
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        looked
    }

    fn remove_backup(&self, node: &MeshNode, label: &str, user: &ServerUser) -> Result<()> {
        let template = self.templates.remove.as_ref().ok_or(Error::NoRemoveCommand)?;
        self.run(template, node, &[("label", shell::word(Path::new(label)))], user, || ()).map(drop)
    }

    /// The command that removes a backup does that.
    fn remove_wal_before(&self, _: &MeshNode, _: u64, _: &ServerUser, _: bool) -> Result<Option<(u64, u64)>> {
        Ok(None)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Archived {
    Segment(Segment),
    History(u32),
}

/// A line of the list: a path or a name, to which a program may have added a checksum (after -) or the kind of compression (after .).
fn archived(line: &str, segment_size: u64) -> Option<Archived> {
    let name = line.trim().rsplit('/').next()?;
    if let Some(timeline) = History::timeline_of(name) {
        return Some(Archived::History(timeline));
    }
    let (name, rest) = name.split_at_checked(24)?;
    let compressed = [".gz", ".lz4", ".zst", ".bz2", ".xz"].contains(&rest);
    let segment = Segment::parse(name, segment_size)?;
    (rest.is_empty() || rest.starts_with('-') || compressed).then_some(Archived::Segment(segment))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn node() -> MeshNode {
        MeshNode {
            name: "n'1".into(),
            dsn: "host=/tmp user=a".into(),
            pgdata: "/d 5%".into(),
            config_file: PathBuf::new(),
            port: 1,
            bin_folder: "/bin".into(),
            system_identifier: String::new(),
            pg_version: String::new(),
            wal_segment_bytes: 16 << 20,
        }
    }

    fn templates() -> Templates {
        let command = |text: &str| text.to_owned();
        Templates {
            archive: command("a {path}"),
            take: command("t {kind} ${x} '{print $1}'"),
            list: command("l {node}"),
            list_wal: command("w"),
            fetch_base: command("b {label} {target}"),
            fetch_wal: command("f {file} {target} 5%"),
            verify: None,
            remove: Some(command("r {label}")),
        }
    }

    #[test]
    fn commands_are_validated_by_their_placeholders() {
        assert!(templates().validate().is_ok());
        for (wrong, word) in [
            (Templates { archive: "a %p".into(), ..templates() }, "--archive-command: it lacks {path}"),
            (Templates { list: "l {nodes}".into(), ..templates() }, "--list-command: {nodes} means nothing"),
            (Templates { take: " ".into(), ..templates() }, "--take-command: it is empty"),
            (Templates { verify: Some("v".into()), ..templates() }, "--verify-command: it lacks {label}"),
        ] {
            let error = wrong.validate().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn values_are_words_and_what_the_shell_means_by_braces_stays() {
        let values = [("a", "{b}".to_owned()), ("b", "x".to_owned())];
        assert_eq!(expand("{a} {b} {c} ${b} {b", &values), "{b} x {c} ${b} {b");
        let restore = setting("f {node} {pgdata} {file} {target} 5%", &node(), &[("file", "%f"), ("target", "\"%p\"")]);
        assert_eq!(restore, r#"f 'n'\''1' '/d 5%%' %f "%p" 5%%"#);
    }

    #[test]
    fn archived_files_are_known_with_what_programs_add_to_their_names() {
        let segment = Some(Archived::Segment(Segment { timeline: 1, number: 5 }));
        let name = "000000010000000000000005";
        for line in
            [name, "archive/n1/17-1/0000000100000000/000000010000000000000005-a1b2.gz", "000000010000000000000005.zst"]
        {
            assert_eq!(archived(line, 16 << 20), segment, "{line}");
        }
        for line in ["", "x", "000000010000000000000005.partial", "000000010000000000000005.00000028.backup"] {
            assert_eq!(archived(line, 16 << 20), None, "{line}");
        }
        assert_eq!(archived("/w/00000002.history", 16 << 20), Some(Archived::History(2)));
    }
}
