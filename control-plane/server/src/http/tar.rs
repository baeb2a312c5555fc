//! All outputs of a job as one tar archive (POSIX pax), put together from blobs as it is sent.

use gristmill_protocol::{Timestamp, job::OutputEntry};
use sha2::{Digest as _, Sha256};

use super::segments::Segments;
use crate::error::ApiError;

/// A tar archive is made of blocks of this size.
const BLOCK: u64 = 512;
/// Largest size that the octal digits of a header can say.
const OCTAL_MAX: u64 = 0o77_777_777_777;
/// Longest path that a header can hold by itself.
const NAME_BYTES_MAX: usize = 100;

/// The archive of these outputs, in their order. The same outputs at the same time are the same bytes.
pub(super) fn archive(outputs: &[OutputEntry], at: Timestamp) -> Result<Segments, ApiError> {
    let mut archive = Segments::default();
    for output in outputs {
        archive.text(header(output, at).map_err(ApiError::internal)?);
        archive.append(Segments::blob(output.digest, output.size));
        archive.text(padding(output.size));
    }
    archive.text(vec![0; 2 * BLOCK as usize]);
    Ok(archive)
}

/// A strong entity tag of the archive.
pub(super) fn etag(outputs: &[OutputEntry], at: Timestamp) -> String {
    let mut hasher = Sha256::new();
    hasher.update(at.as_second().to_be_bytes());
    for output in outputs {
        hasher.update((output.path.len() as u64).to_be_bytes());
        hasher.update(&output.path);
        hasher.update(output.digest.as_bytes());
    }
    format!("\"tar-{}\"", hex::encode(&hasher.finalize()[..16]))
}

fn padding(size: u64) -> Vec<u8> {
    vec![0; (size.next_multiple_of(BLOCK) - size) as usize]
}

/// What stands before a file: its header, and before that a pax header for what does not fit into it.
/// Paths are relative and clean, which is checked when a node reports them.
fn header(output: &OutputEntry, at: Timestamp) -> std::io::Result<Vec<u8>> {
    let is_long = output.path.len() > NAME_BYTES_MAX || !output.path.is_ascii();
    let mut builder = tar::Builder::new(Vec::new());
    let size = output.size.to_string();
    let mut records = Vec::new();
    if is_long {
        records.push(("path", output.path.as_bytes()));
    }
    if output.size > OCTAL_MAX {
        records.push(("size", size.as_bytes()));
    }
    if !records.is_empty() {
        builder.append_pax_extensions(records)?;
    }
    let mut bytes = builder.get_ref().clone();
    let mut header = tar::Header::new_ustar();
    let shown = if is_long { output.digest.hex() } else { output.path.clone() };
    header.as_old_mut().name[..shown.len()].copy_from_slice(shown.as_bytes());
    header.set_size(output.size.min(OCTAL_MAX));
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(at.as_second().max(0).unsigned_abs());
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::Digest;

    use super::*;

    fn output(path: &str, size: u64) -> OutputEntry {
        OutputEntry { path: path.into(), size, digest: Digest::from_bytes([7; 32]) }
    }

    #[test]
    fn every_path_and_size_is_read_back_by_a_reader() {
        let at = Timestamp::from_second(1_700_000_000).expect("a time");
        // No line break: this reader, unlike others, ends a record at the first one.
        let long = format!("{}/é \"x", "d".repeat(400));
        for (path, size) in [("a", 0), ("-rf", 1), (&*"n".repeat(100), 512), (&long, 513), ("big", 9 << 30)] {
            let mut bytes = header(&output(path, size), at).expect("a header");
            bytes.extend(vec![0; 1_024]);
            let mut archive = tar::Archive::new(bytes.as_slice());
            let entry = archive.entries().expect("entries").next().expect("an entry").expect("reads");
            assert_eq!(entry.path_bytes(), path.as_bytes());
            assert_eq!((entry.size(), entry.header().mtime().ok()), (size, Some(1_700_000_000)));
        }
    }

    #[test]
    fn the_tag_changes_with_names_contents_and_time() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let tag = |path, second| etag(&[output(path, 1)], at(second));
        assert_eq!(tag("a", 1), tag("a", 1));
        assert_ne!(tag("a", 1), tag("b", 1));
        assert_ne!(tag("a", 1), tag("a", 2));
        assert_ne!(etag(&[], at(1)), tag("a", 1));
    }
}
