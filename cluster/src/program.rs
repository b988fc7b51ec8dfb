//! The program that starts the servers, by its name: what its sessions call themselves, and its messages begin with.

use std::env;
use std::sync::OnceLock;

/// The name of the executable file.
pub fn name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let file =
            env::current_exe().ok().and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()));
        file.unwrap_or_else(|| "spock_recovery".into())
    })
}
