//! postgresql.auto.conf of a node between its base backup and its opening (pure).

use std::path::Path;

use super::target::Target;
use crate::backup::shell;

/// What hot standby needs at least as large as it was when the WAL was written, with the names that pg_controldata has for it.
pub const AT_LEAST: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting:"),
    ("max_worker_processes", "max_worker_processes setting:"),
    ("max_wal_senders", "max_wal_senders setting:"),
    ("max_prepared_transactions", "max_prepared_xacts setting:"),
    ("max_locks_per_transaction", "max_locks_per_xact setting:"),
];

/// What a closed server is told.
pub struct Closed<'a> {
    pub socket_folder: &'a Path,
    pub hba: &'a Path,
    pub restore_command: &'a str,
    pub target: &'a Target,
    /// Of `AT_LEAST`.
    pub sizes: &'a [(&'static str, u64)],
    /// Without our own library, whose workers would begin to keep and to advance slots as soon as the node is promoted; None as long
    /// as its functions are needed, while it is paused and has no such workers.
    pub libraries: Option<&'a str>,
}

pub const HEADING: &str = "# spockctl: what follows is removed when the node is opened";

/// What a closed server needs beside its isolation, whatever its configuration says: it listens and logs as we expect, follows and
/// waits for nobody, and reads no target that an earlier recovery has left.
pub const QUIET: [(&str, &str); 18] = [
    ("unix_socket_permissions", "0700"),
    ("ssl", "off"),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("recovery_min_apply_delay", "0"),
    ("recovery_target", ""),
    ("recovery_target_name", ""),
    ("recovery_target_time", ""),
    ("recovery_target_xid", ""),
    ("recovery_target_lsn", ""),
    ("synchronous_standby_names", ""),
    ("max_slot_wal_keep_size", "-1"),
    ("external_pid_file", ""),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_min_messages", "warning"),
];

/// The settings that isolate a server: reached through the folder of its socket alone, and without workers of subscriptions.
pub fn isolation(socket_folder: &Path, hba: &Path) -> Vec<(&'static str, String)> {
    let path = |path: &Path| path.display().to_string();
    vec![
        ("listen_addresses", String::new()),
        ("unix_socket_directories", path(socket_folder)),
        ("hba_file", path(hba)),
        ("max_logical_replication_workers", "0".into()),
    ]
}

/// postgresql.auto.conf with further settings behind those of before: a later line wins.
pub fn appended(before: &str, heading: &str, settings: &[(&str, String)]) -> String {
    let mut lines = String::from(before);
    if !before.is_empty() && !before.ends_with('\n') {
        lines.push('\n');
    }
    lines.push_str(heading);
    lines.push('\n');
    for (name, value) in settings {
        lines.push_str(&shell::configuration_line(name, value));
    }
    lines
}

impl Closed<'_> {
    /// Behind the settings of before, of which a later line wins.
    pub fn text(&self, before: &str) -> String {
        appended(before, HEADING, &self.settings())
    }

    /// Those that isolate the server, also for its command line, which wins over every file.
    pub fn isolation(&self) -> Vec<(&'static str, String)> {
        isolation(self.socket_folder, self.hba)
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = self.isolation();
        settings.extend(QUIET.map(|(name, value)| (name, value.to_owned())));
        settings.push(("hot_standby", "on".into()));
        settings.push(("recovery_target_action", "pause".into()));
        settings.push(("restore_command", self.restore_command.to_owned()));
        settings.push(("recovery_target_timeline", self.target.timeline.to_string()));
        settings.extend(self.target.stop.settings());
        settings.extend(self.sizes.iter().map(|&(name, value)| (name, value.to_string())));
        match self.libraries {
            None => settings.push(("archive_mode", "off".into())),
            // Archiving goes on in the end: meanwhile the server notes what is to be archived, and archives nothing.
            Some(libraries) => {
                settings.push(("archive_command", String::new()));
                settings.push(("archive_library", String::new()));
                settings.push(("shared_preload_libraries", libraries.to_owned()));
            }
        }
        settings
    }
}

/// The library whose workers must not run before the node is open.
pub const LIBRARY: &str = "spock_recovery";

/// A list of libraries with another one, which comes last.
pub fn with(libraries: &str, library: &str) -> String {
    match libraries {
        "" => library.to_owned(),
        libraries => format!("{libraries}, {library}"),
    }
}

/// A list of libraries without one of them.
pub fn without(libraries: &str, library: &str) -> String {
    let kept = libraries.split(',').map(str::trim).filter(|name| !name.is_empty() && name.trim_matches('"') != library);
    kept.collect::<Vec<_>>().join(", ")
}

/// A number of pg_controldata's output.
pub fn control_value(text: &str, label: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(label))?.trim().parse().ok()
}

/// The arguments of postmaster.opts, without the program and its data directory (CreateOptsFile of postmaster.c: each quoted).
pub fn options(text: &str) -> Vec<String> {
    let quoted: Vec<&str> = text.split('"').collect();
    let mut arguments = quoted.iter().skip(1).step_by(2).map(|argument| (*argument).to_owned());
    let mut options = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == "-D" {
            arguments.next();
        } else if !argument.starts_with("-D") {
            options.push(argument);
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lsn::Lsn;
    use crate::restore::target::Stop;

    fn closed<'a>(target: &'a Target, libraries: Option<&'a str>) -> Closed<'a> {
        Closed {
            socket_folder: Path::new("/data/n1.restore"),
            hba: Path::new("/data/n1.restore/pg_hba.conf"),
            restore_command: "cp -- '/it''s/%f' \"%p\"",
            target,
            sizes: &[("max_connections", 60)],
            libraries,
        }
    }

    #[test]
    fn a_target_that_an_earlier_restore_has_left_does_not_count() {
        let stop = Stop::Point { name: "it's".into(), end: Lsn(1) };
        let target = Target { stop, timeline: 3, base: "b".into() };
        let text = closed(&target, None).text("recovery_target_xid = '5'\nport = '1'");
        let last = |name: &str| text.lines().rfind(|line| line.starts_with(&format!("{name} = "))).map(str::to_owned);
        assert_eq!(last("recovery_target_xid").as_deref(), Some("recovery_target_xid = ''"));
        assert_eq!(last("recovery_target_name").as_deref(), Some("recovery_target_name = 'it''s'"));
        assert_eq!(last("recovery_target_timeline").as_deref(), Some("recovery_target_timeline = '3'"));
        assert_eq!(last("archive_mode").as_deref(), Some("archive_mode = 'off'"));
        assert_eq!(last("port").as_deref(), Some("port = '1'"));
    }

    #[test]
    fn the_second_time_it_notes_what_is_to_be_archived() {
        let target = Target { stop: Stop::Before { lsn: Lsn(1) }, timeline: 1, base: "b".into() };
        let text = closed(&target, Some("auto_explain")).text("");
        assert!(!text.contains("archive_mode") && text.contains("archive_library = ''"));
        assert!(text.contains("shared_preload_libraries = 'auto_explain'"));
    }

    #[test]
    fn our_library_alone_is_left_out() {
        assert_eq!(without("spock_recovery", "spock_recovery"), "");
        assert_eq!(with("", "spock_recovery"), "spock_recovery");
        assert_eq!(without(&with("a, b", "spock_recovery"), "spock_recovery"), "a, b");
        assert_eq!(without("auto_explain, \"spock_recovery\",x", "spock_recovery"), "auto_explain, x");
    }

    #[test]
    fn a_postmasters_options_are_read_without_its_folder() {
        let text = "/usr/bin/postgres \"-D\" \"/data/n 1\" \"-c\" \"config_file=/etc/p.conf\"\n";
        assert_eq!(options(text), ["-c", "config_file=/etc/p.conf"]);
        assert_eq!(options("/usr/bin/postgres \"-D\" \"/data\"\n"), Vec::<String>::new());
        let control = "max_connections setting:              60\nmax_xlogs: 1\n";
        assert_eq!(control_value(control, "max_connections setting:"), Some(60));
    }
}
