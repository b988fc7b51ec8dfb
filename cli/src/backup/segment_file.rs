//! What the first page of a segment says of it (pure): XLogLongPageHeaderData of access/xlog_internal.h.

use super::wal::Segment;

/// Up to xlp_seg_size.
pub const HEADER_BYTES: usize = 36;

/// What is wrong with a file that has the name of this segment.
pub fn complaint(header: &[u8], segment: Segment, segment_size: u64, system_identifier: &str) -> Option<String> {
    let u64_at = |at: usize| header.get(at..at + 8)?.first_chunk::<8>().map(|bytes| u64::from_ne_bytes(*bytes));
    let u32_at = |at: usize| header.get(at..at + 4)?.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes));
    let (Some(timeline), Some(address)) = (u32_at(4), u64_at(8)) else { return Some("it is cut short".into()) };
    let (Some(system), Some(size)) = (u64_at(24), u32_at(32)) else { return Some("it is cut short".into()) };
    if u64::from(size) != segment_size || address != segment.start(segment_size).0 {
        return Some("its first page is not that of this segment".into());
    }
    if system.to_string() != system_identifier {
        return Some(format!(
            "it was written by a server with the system identifier {system}, not {system_identifier}"
        ));
    }
    // A timeline's first segment begins with pages of the one before.
    (timeline > segment.timeline).then(|| format!("it was written on timeline {timeline}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(timeline: u32, address: u64, system: u64, size: u32) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(timeline.to_ne_bytes());
        bytes.extend(address.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(system.to_ne_bytes());
        bytes.extend(size.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_segment_of_another_place_server_or_timeline_is_found() {
        let segment = Segment { timeline: 2, number: 5 };
        let complaint = |bytes: &[u8]| complaint(bytes, segment, 16 << 20, "42");
        assert_eq!(complaint(&header(2, 5 << 24, 42, 16 << 20)), None);
        assert_eq!(complaint(&header(1, 5 << 24, 42, 16 << 20)), None);
        for wrong in [
            header(3, 5 << 24, 42, 16 << 20),
            header(2, 6 << 24, 42, 16 << 20),
            header(2, 5 << 24, 43, 16 << 20),
            header(2, 5 << 24, 42, 1 << 20),
            vec![0; 40],
            vec![],
        ] {
            assert!(complaint(&wrong).is_some());
        }
    }
}
