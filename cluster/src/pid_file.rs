//! postmaster.pid, in which a server says who it is and how far it has come (utils/pidfile.h). A killed server leaves its own
//! behind.

use std::fs;
use std::path::Path;

#[derive(Debug, PartialEq, Eq)]
pub struct PidFile {
    /// Line 1. The process may be gone, and its id may be another's by now.
    pub pid: i32,
    /// The id of the shared memory segment, which line 7 names after its key.
    pub segment: Option<String>,
    /// Line 8: it takes connections.
    pub ready: bool,
}

impl PidFile {
    /// None: there is no such file, or not even the postmaster's id has been written yet.
    pub fn read(data: &Path) -> Option<PidFile> {
        PidFile::parse(&fs::read_to_string(data.join("postmaster.pid")).ok()?)
    }

    fn parse(text: &str) -> Option<PidFile> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        let segment = lines.nth(5).and_then(|line| line.split_whitespace().nth(1));
        let segment = segment.filter(|id| id.bytes().all(|byte| byte.is_ascii_digit())).map(str::to_owned);
        let ready = lines.next().is_some_and(|state| state.trim_end() == "ready");
        Some(PidFile { pid, segment, ready })
    }
}

#[cfg(test)]
mod tests {
    use super::PidFile;

    const FILE: &str = "4711\n/data\n1795200000\n5432\n/tmp\n\n  1310835    32768\nready   \n";

    #[test]
    fn the_segment_of_a_killed_server_is_found_in_its_file() {
        let segment_of = |file: &str| PidFile::parse(file).and_then(|file| file.segment);
        assert_eq!(segment_of(FILE).as_deref(), Some("32768"));
        assert_eq!(segment_of("4711\n/data\n"), None);
        assert_eq!(segment_of(&FILE.replace("32768", "-1")), None);
    }

    #[test]
    fn a_server_is_ready_once_it_says_so() {
        let ready = |file: &str| PidFile::parse(file).map(|file| (file.pid, file.ready));
        assert_eq!(ready(FILE), Some((4711, true)));
        assert_eq!(ready(&FILE.replace("ready   ", "starting")), Some((4711, false)));
        assert_eq!(ready("4711\n/data\n"), Some((4711, false)));
        assert_eq!(ready(""), None);
    }
}
