//! What a server is started with: its postgresql.conf, after initdb's own.

use std::path::Path;

use crate::client::literal;
use crate::installation::Installation;

/// What every server here is started with; `Configuration::settings` comes after and wins.
const SETTINGS: [(&str, &str); 11] = [
    ("wal_level", "logical"),
    ("track_commit_timestamp", "on"),
    ("max_worker_processes", "32"),
    ("max_replication_slots", "32"),
    ("max_wal_senders", "32"),
    ("max_logical_replication_workers", "16"),
    ("max_connections", "60"),
    ("shared_buffers", "64MB"),
    // A worker that lost its provider tries again soon: tests wait for it.
    ("wal_retrieve_retry_interval", "500ms"),
    ("autovacuum", "on"),
    ("log_line_prefix", "%m [%p] %b %d "),
];

/// What the servers of a cluster have in common.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// Loads spock_recovery.
    pub preloads_extension: bool,
    /// Survives a crash of the machine. A crash of the server alone loses nothing either way.
    pub durable: bool,
    /// Goes on running when this process ends.
    pub detached: bool,
    pub settings: Vec<(String, String)>,
}

impl Default for Configuration {
    fn default() -> Configuration {
        Configuration { preloads_extension: true, durable: false, detached: false, settings: Vec::new() }
    }
}

impl Configuration {
    /// The lines of the configuration file of one server. A later line wins.
    pub(crate) fn lines(&self, installation: &Installation, socket_folder: &Path, port: u16) -> String {
        let mut settings: Vec<(&str, &str)> = SETTINGS.to_vec();
        let port = port.to_string();
        let socket_folder = socket_folder.display().to_string();
        settings.push(("port", &port));
        settings.push(("unix_socket_directories", &socket_folder));
        // The socket alone, in a folder that its owner alone may enter: initdb's authentication is trust, and on an address every
        // account of the machine would get in.
        settings.push(("listen_addresses", ""));
        if self.preloads_extension {
            settings.push(("shared_preload_libraries", "spock_recovery"));
        }
        if installation.has_output_plugin_libraries {
            settings.push(("output_plugin_libraries", "pgoutput, test_decoding, spock_recovery"));
        }
        if !self.durable {
            // Segments as files of the data directory: those of a killed server would stay in /dev/shm.
            let segments = ("dynamic_shared_memory_type", "mmap");
            settings.extend([("fsync", "off"), ("full_page_writes", "off"), segments]);
        }
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        settings.into_iter().map(|(name, value)| format!("{name} = {}\n", literal(value))).collect()
    }
}
