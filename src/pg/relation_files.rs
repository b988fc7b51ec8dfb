//! The files of a relation in the data directory, which is the working directory of every server process
//! (storage/smgr/md.c). To look at them takes no lock, so nobody who holds a table holds up who wants an estimate.

use std::io;

/// The bytes of a fork by the path of its first segment, as pg_relation_filepath() returns it; further segments have a
/// number behind it. A file that is gone, because somebody has rewritten or dropped the relation since, has no bytes.
///
/// # Errors
/// If a file is there and cannot be looked at.
pub fn bytes(path: &str) -> io::Result<u64> {
    let mut total = 0;
    let mut segment = path.to_owned();
    for number in 1.. {
        match std::fs::metadata(&segment) {
            Ok(file) => total += file.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
        segment = format!("{path}.{number}");
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_segments_count_and_a_file_that_is_gone_has_none() {
        let folder = std::env::temp_dir().join(format!("relation files {}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder");
        let path = folder.join("16384").to_string_lossy().into_owned();
        assert_eq!(bytes(&path).expect("no file is no error"), 0);
        for (segment, length) in [("", 8192), (".1", 8192), (".2", 100), (".4", 8192)] {
            std::fs::write(format!("{path}{segment}"), vec![0; length]).expect("a file");
        }
        assert_eq!(bytes(&path).expect("files that are there"), 16484);
        assert!(bytes(&format!("{path}/under")).is_err(), "a file is no folder");
        std::fs::remove_dir_all(&folder).expect("the folder goes");
    }
}
