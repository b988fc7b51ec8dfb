//! postgresql.auto.conf of the new node: closed, and open (pure).

use std::path::Path;

use crate::restore::settings::{HEADING, QUIET, appended, isolation};

/// Our own library, whose workers begin only when the node is wired.
pub const LIBRARY: &str = "spock_recovery";

/// What the closed server is told.
pub struct Closed<'a> {
    pub socket_folder: &'a Path,
    pub hba: &'a Path,
    pub libraries: &'a str,
}

impl Closed<'_> {
    /// Those that isolate the server, also for its command line, which wins over every file.
    pub fn isolation(&self) -> Vec<(&'static str, String)> {
        isolation(self.socket_folder, self.hba)
    }

    /// Behind the settings of before, of which a later line wins.
    pub fn text(&self, before: &str) -> String {
        let mut settings = self.isolation();
        settings.extend(QUIET.map(|(name, value)| (name, value.to_owned())));
        let recovery = [
            // Up to where the base backup is consistent, which is its end, on its own timeline.
            ("recovery_target", "immediate"),
            ("recovery_target_timeline", "current"),
            ("recovery_target_action", "promote"),
            // All that is needed is in pg_wal; a recovery must be told some command.
            ("restore_command", "false"),
            // Nobody reads it before its recovery has ended.
            ("hot_standby", "off"),
            // WAL of a server of another identifier is nothing for the living node's archive.
            ("archive_mode", "off"),
            ("synchronized_standby_slots", ""),
        ];
        settings.extend(recovery.map(|(name, value)| (name, value.to_owned())));
        settings.push(("shared_preload_libraries", self.libraries.to_owned()));
        appended(before, HEADING, &settings)
    }
}

/// What holds for the living node alone, and what the user has said.
pub fn own(
    port: u16,
    socket: Option<&Path>,
    listen: Option<&str>,
    further: &[(String, String)],
) -> Vec<(String, String)> {
    // Standbys that are the living node's, its archive, and files that two servers cannot share.
    let mut settings: Vec<(String, String)> = [
        ("archive_mode", "off"),
        ("archive_command", ""),
        ("archive_library", ""),
        ("synchronous_standby_names", ""),
        ("synchronized_standby_slots", ""),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("external_pid_file", ""),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    settings.push(("port".into(), port.to_string()));
    settings.extend(socket.map(|folder| ("unix_socket_directories".into(), folder.display().to_string())));
    settings.extend(listen.map(|addresses| ("listen_addresses".into(), addresses.to_owned())));
    settings.extend(further.iter().cloned());
    settings
}

/// postgresql.auto.conf of the open node.
pub fn open(before: &str, settings: &[(String, String)]) -> String {
    let settings: Vec<(&str, String)> = settings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    appended(before, "# spockctl node create", &settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last<'a>(text: &'a str, name: &str) -> Option<&'a str> {
        text.lines().rfind(|line| line.starts_with(&format!("{name} = ")))
    }

    #[test]
    fn a_closed_server_recovers_to_the_end_of_its_backup_and_reaches_nobody() {
        let closed = Closed {
            socket_folder: Path::new("/d/n4.node"),
            hba: Path::new("/d/n4.node/hba"),
            libraries: "auto_explain",
        };
        let text = closed.text("recovery_target_xid = '7'\nlisten_addresses = '*'\narchive_mode = 'on'");
        assert_eq!(last(&text, "recovery_target_xid"), Some("recovery_target_xid = ''"));
        assert_eq!(last(&text, "recovery_target"), Some("recovery_target = 'immediate'"));
        assert_eq!(last(&text, "listen_addresses"), Some("listen_addresses = ''"));
        assert_eq!(last(&text, "archive_mode"), Some("archive_mode = 'off'"));
        assert_eq!(last(&text, "max_logical_replication_workers"), Some("max_logical_replication_workers = '0'"));
        assert_eq!(last(&text, "shared_preload_libraries"), Some("shared_preload_libraries = 'auto_explain'"));
    }

    #[test]
    fn what_the_user_says_wins() {
        let further = [("archive_mode".to_owned(), "on".to_owned())];
        let text = open("port = '1'\n", &own(5432, Some(Path::new("/s")), None, &further));
        assert_eq!(last(&text, "archive_mode"), Some("archive_mode = 'on'"));
        assert_eq!(last(&text, "port"), Some("port = '5432'"));
        assert_eq!(last(&text, "listen_addresses"), None);
    }
}
