//! Paths in commands that the server runs through a shell (pure).

use std::path::Path;

/// One word for the shell, whatever the path holds.
pub fn word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// The same in archive_command and restore_command, where the server replaces what follows a %.
pub fn setting_word(path: &Path) -> String {
    word(path).replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::setting_word;
    use std::path::Path;

    #[test]
    fn a_path_of_blanks_quotes_and_percents_stays_one_word() {
        assert_eq!(setting_word(Path::new("/b a/it's 5%")), r"'/b a/it'\''s 5%%'");
    }
}
