//! Paths in commands that the server runs through a shell (pure).

use std::path::Path;

/// One word for the shell, whatever the path holds.
pub fn word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// As a person types it: quoted where it must be.
pub fn typed(path: &Path) -> String {
    let plain = |byte| u8::is_ascii_alphanumeric(&byte) || b"/._-+:@,".contains(&byte);
    let text = path.display().to_string();
    if !text.is_empty() && text.bytes().all(plain) { text } else { word(path) }
}

/// The same in archive_command and restore_command, where the server replaces what follows a %.
pub fn setting_word(path: &Path) -> String {
    word(path).replace('%', "%%")
}

/// A line of postgresql.conf, in whose strings a backslash is an escape as well (guc-file.l, GUC_scanstr).
pub fn configuration_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', r"\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::{configuration_line, setting_word, typed};
    use std::path::Path;

    #[test]
    fn a_path_of_blanks_quotes_and_percents_stays_one_word() {
        assert_eq!(setting_word(Path::new("/b a/it's 5%")), r"'/b a/it'\''s 5%%'");
        assert_eq!(typed(Path::new("/b/a-1.x")), "/b/a-1.x");
        assert_eq!(typed(Path::new("/b a")), "'/b a'");
        assert_eq!(configuration_line("a", r"cp 'it'\''s'"), "a = 'cp ''it''\\\\''''s'''\n");
    }
}
