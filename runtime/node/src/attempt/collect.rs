//! What the guest left below `/out`: found, measured, digested. The tree is hostile: no link is
//! followed, and only regular files count.

use std::{
    io,
    path::{Path, PathBuf},
};

use cap_std::{ambient_authority, fs::Dir};
use gristmill_protocol::{Digest, Limits, job::OutputEntry};
use sha2::{Digest as _, Sha256};

/// Longest output path, in bytes.
const PATH_BYTES_MAX: usize = 1_024;
/// Deepest output path, in parts.
const DEPTH_MAX: usize = 64;

/// An output that is ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CollectedOutput {
    /// Its name, digest and size.
    pub(crate) entry: OutputEntry,
    /// Where its bytes lie on the node.
    pub(crate) file: PathBuf,
}

/// Everything below `/out`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    /// Regular files, sorted by path.
    pub(crate) outputs: Vec<CollectedOutput>,
    /// Entries that are no outputs: links, sockets, pipes, and names that are not UTF-8.
    pub(crate) ignored: u64,
    /// The guest removed its `/out`, or put something else in its place.
    pub(crate) is_out_gone: bool,
}

impl Collected {
    /// Bytes of all outputs.
    pub(crate) fn bytes(&self) -> u64 {
        self.outputs.iter().map(|output| output.entry.size).sum()
    }

    /// The outcome's message together with what the user should know about these outputs.
    pub(crate) fn with_note(&self, message: Option<String>) -> Option<String> {
        let note = if self.is_out_gone {
            "nothing was collected: /out is no directory any more, the program removed or replaced it"
                .to_owned()
        } else if self.ignored > 0 {
            let ignored = self.ignored;
            format!(
                "{ignored} entries below /out were ignored: they are no regular files, or their names are not UTF-8"
            )
        } else {
            return message;
        };
        Some(match message {
            Some(text) => format!("{text}; {note}"),
            None => note,
        })
    }
}

/// Why outputs cannot be collected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// They are more, larger or longer in name than the limits allow.
    #[error("{0}")]
    TooLarge(String),
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Finds and digests the outputs of an attempt laid out in `dir`. Blocks; holds no file in memory.
pub(crate) fn collect(dir: &Path, limits: &Limits) -> Result<Collected, CollectError> {
    let base = dir.join("rw/root/out");
    // An executor gone bad may have put a link in the way; none leads out of the attempt's directory.
    let root = Dir::open_ambient_dir(dir, ambient_authority())?.open_dir("rw/root")?;
    // A guest may have removed its `/out`, or put a link there.
    let is_out_gone = match root.symlink_metadata("out") {
        Ok(metadata) => !metadata.is_dir(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error.into()),
    };
    let mut collected = Collected { is_out_gone, ..Collected::default() };
    if collected.is_out_gone {
        return Ok(collected);
    }
    let out = root.open_dir("out")?;
    let mut found = find(&out, limits, &mut collected.ignored)?;
    found.sort();
    for (path, size) in found {
        let file = out.open(&path)?;
        let (digest, read) = digest(file)?;
        if read != size {
            return Err(io::Error::other("an output changed while it was read").into());
        }
        let file = base.join(&path);
        collected.outputs.push(CollectedOutput { entry: OutputEntry { path, digest, size }, file });
    }
    Ok(collected)
}

fn find(out: &Dir, limits: &Limits, ignored: &mut u64) -> Result<Vec<(String, u64)>, CollectError> {
    let mut found = Vec::new();
    let mut bytes: u64 = 0;
    let mut waiting = vec![String::new()];
    while let Some(dir) = waiting.pop() {
        let listed = if dir.is_empty() { out.entries()? } else { out.read_dir(&dir)? };
        for entry in listed {
            let entry = entry?;
            let kind = entry.file_type()?;
            let Ok(name) = entry.file_name().into_string() else {
                *ignored += 1;
                continue;
            };
            let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            if kind.is_file() || kind.is_dir() {
                check_output_path(&path)?;
            }
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                let size = entry.metadata()?.len();
                bytes = bytes.saturating_add(size);
                found.push((path, size));
            } else {
                *ignored += 1;
            }
            check_limits(found.len() as u64, bytes, limits)?;
        }
    }
    Ok(found)
}

/// Fixed limits: a larger `--output-max` does not help, and the message says so.
fn check_output_path(path: &str) -> Result<(), CollectError> {
    let (bytes, parts) = (path.len(), path.split('/').count());
    let problem = if parts > DEPTH_MAX {
        format!("lies more than {DEPTH_MAX} directories deep")
    } else if bytes > PATH_BYTES_MAX {
        format!("has a path of {bytes} bytes, more than {PATH_BYTES_MAX}")
    } else {
        return Ok(());
    };
    let start = &path[..path.floor_char_boundary(80)];
    Err(CollectError::TooLarge(format!(
        "the output /out/{start}… {problem}; this limit is fixed: use fewer or shorter names, or pack the files into an archive"
    )))
}

fn check_limits(files: u64, bytes: u64, limits: &Limits) -> Result<(), CollectError> {
    if files > limits.output_files {
        return Err(CollectError::TooLarge(format!(
            "more than {} files lie below /out; raise the limit output_files of the job (--output-max is about bytes), or pack them into an archive",
            limits.output_files
        )));
    }
    if bytes > limits.output_bytes {
        return Err(CollectError::TooLarge(format!(
            "the files below /out hold more than {} bytes; raise --output-max",
            limits.output_bytes
        )));
    }
    Ok(())
}

fn digest(mut file: impl io::Read) -> io::Result<(Digest, u64)> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_bytes(hash.finalize().into()), bytes)),
            Ok(count) => {
                hash.update(&buffer[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt};

    use gristmill_protocol::{LimitsSpec, limits::SlotSize};

    use super::*;

    fn limits(output_bytes: u64, output_files: u64) -> Limits {
        let spec = LimitsSpec {
            output_bytes: Some(output_bytes),
            output_files: Some(output_files),
            ..LimitsSpec::default()
        };
        spec.resolve(SlotSize::default()).expect("in range")
    }

    fn attempt() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().expect("a directory");
        let out = temp.path().join("rw/root/out");
        fs::create_dir_all(&out).expect("directories");
        (temp, out)
    }

    #[test]
    fn h56_regular_files_are_outputs_sorted_by_path_and_the_rest_is_counted() {
        let (temp, out) = attempt();
        fs::create_dir_all(out.join("b/c")).expect("directories");
        fs::write(out.join("b/c/file"), "hello").expect("a file");
        fs::write(out.join("a\n<b>"), "").expect("a file with a strange name");
        fs::write(out.join(OsStr::from_bytes(b"\xff")), "x").expect("a file without a text name");
        std::os::unix::fs::symlink("/etc/passwd", out.join("link")).expect("a link");
        std::os::unix::fs::symlink("/etc", out.join("dirlink")).expect("a link");
        drop(std::os::unix::net::UnixListener::bind(out.join("socket")).expect("a socket"));
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, out.join("pipe"), pipe, 0o600.into(), 0).expect("a pipe");
        let collected = collect(temp.path(), &limits(100, 10)).expect("collected");
        let paths: Vec<_> = collected.outputs.iter().map(|output| output.entry.path.as_str()).collect();
        assert_eq!(paths, ["a\n<b>", "b/c/file"]);
        assert_eq!((collected.ignored, collected.bytes()), (5, 5));
        let digest = collected.outputs[1].entry.digest.hex();
        assert_eq!(digest, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    }

    #[test]
    fn an_out_directory_that_is_gone_or_became_a_link_has_no_outputs() {
        let (temp, out) = attempt();
        let gone = Collected { is_out_gone: true, ..Collected::default() };
        assert_eq!(collect(temp.path(), &limits(100, 10)).expect("collected"), Collected::default());
        fs::remove_dir(&out).expect("removed");
        assert_eq!(collect(temp.path(), &limits(100, 10)).expect("collected"), gone);
        fs::create_dir(temp.path().join("rw/root/elsewhere")).expect("a directory");
        fs::write(temp.path().join("rw/root/elsewhere/file"), "x").expect("a file");
        std::os::unix::fs::symlink("elsewhere", &out).expect("a link");
        assert_eq!(collect(temp.path(), &limits(100, 10)).expect("collected"), gone);
    }

    #[test]
    fn a_link_in_the_place_of_any_directory_on_the_way_leads_nowhere() {
        let elsewhere = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(elsewhere.path().join("rw/root/out")).expect("directories");
        for file in ["secret", "out/secret", "root/out/secret", "rw/root/out/secret"] {
            let file = elsewhere.path().join(file);
            fs::create_dir_all(file.parent().expect("a parent")).expect("directories");
            fs::write(file, "x").expect("a file");
        }
        for part in ["rw", "rw/root", "rw/root/out"] {
            let (temp, _) = attempt();
            fs::remove_dir_all(temp.path().join(part)).expect("removed");
            std::os::unix::fs::symlink(elsewhere.path(), temp.path().join(part)).expect("a link");
            match collect(temp.path(), &limits(100, 10)) {
                Ok(collected) => assert!(collected.is_out_gone && collected.outputs.is_empty(), "{part}"),
                Err(CollectError::Io(_)) => assert_ne!(part, "rw/root/out"),
                Err(error) => panic!("{part}: {error}"),
            }
        }
    }

    #[test]
    fn the_message_says_what_was_not_collected() {
        let ignored = |ignored| Collected { ignored, ..Collected::default() };
        assert_eq!(ignored(0).with_note(None), None);
        assert!(ignored(2).with_note(None).is_some_and(|text| text.starts_with("2 entries")));
        let both = ignored(1).with_note(Some("first".into())).expect("a message");
        assert!(both.starts_with("first; 1 entries"));
        let gone = Collected { is_out_gone: true, ..Collected::default() };
        assert!(gone.with_note(None).is_some_and(|text| text.contains("/out is no directory")));
    }

    #[test]
    fn too_many_bytes_files_or_parts_are_refused_and_the_message_names_the_limit() {
        let (temp, out) = attempt();
        fs::write(out.join("a"), "12345").expect("a file");
        fs::write(out.join("b"), "12345").expect("a file");
        collect(temp.path(), &limits(10, 2)).expect("at the limits");
        let refusal = |bytes, files| match collect(temp.path(), &limits(bytes, files)) {
            Err(CollectError::TooLarge(text)) => text,
            other => panic!("{other:?}"),
        };
        let text = refusal(9, 2);
        assert!(text.contains("more than 9 bytes") && text.contains("raise --output-max"), "{text}");
        let text = refusal(10, 1);
        assert!(text.contains("more than 1 files") && text.contains("output_files"), "{text}");
        fs::create_dir_all(out.join("d/".repeat(65))).expect("directories");
        let text = refusal(10, 2);
        assert!(text.contains("64 directories deep") && text.contains("fixed"), "{text}");
        let long = check_output_path(&format!("é/{}", "x".repeat(1_100))).expect_err("too long").to_string();
        assert!(long.contains("1103 bytes, more than 1024") && long.contains("fixed"), "{long}");
    }
}
