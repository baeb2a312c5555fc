//! A list of files with their SHA-256, in the form of the program `sha256sum`.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Component, Path, PathBuf},
};

use gristmill_protocol::Digest;
use sha2::{Digest as _, Sha256};

/// Name of the list in its directory.
pub(crate) const FILE: &str = "SHA256SUMS";

/// Passes bytes on and takes their digest.
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    size: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, hasher: Sha256::new(), size: 0 }
    }

    /// The writer or reader, the digest of what passed, and its number of bytes.
    pub(crate) fn finish(self) -> (T, Digest, u64) {
        (self.inner, Digest::from_bytes(self.hasher.finalize().into()), self.size)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The digest of a file, and its number of bytes.
pub(crate) fn digest_of(path: &Path) -> io::Result<(Digest, u64)> {
    let mut hashing = Hashing::new(io::sink());
    copy(&mut File::open(path)?, &mut hashing)?;
    let (_, digest, size) = hashing.finish();
    Ok((digest, size))
}

/// Copies all bytes, in steps that are large enough for a disk.
pub(crate) fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut step = vec![0; 256 << 10];
    loop {
        match from.read(&mut step)? {
            0 => return Ok(()),
            read => to.write_all(&step[..read])?,
        }
    }
}

/// Writes one line. Paths are relative and plain: they have no line break in them.
pub(crate) fn write_line(list: &mut impl Write, digest: Digest, path: &Path) -> io::Result<()> {
    writeln!(list, "{}  {}", digest.hex(), path.display())
}

/// The lines of a list.
pub(crate) fn lines(
    list: &Path,
) -> io::Result<impl Iterator<Item = anyhow::Result<(Digest, PathBuf)>> + use<>> {
    let list = BufReader::new(File::open(list)?);
    Ok(list.lines().map(|line| parse(&line?)))
}

fn parse(line: &str) -> anyhow::Result<(Digest, PathBuf)> {
    let broken = || anyhow::anyhow!("{FILE} has a line that cannot be read: {line:?}");
    let (digest, path) = line.split_once("  ").ok_or_else(broken)?;
    let digest = format!("sha256:{digest}").parse().map_err(|_| broken())?;
    let path = PathBuf::from(path);
    // A list from elsewhere must not lead out of its directory.
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    if is_below && path.components().next().is_some() { Ok((digest, path)) } else { Err(broken()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written_and_leads_nowhere_else() {
        let digest = Digest::from_bytes([7; 32]);
        let mut list = Vec::new();
        write_line(&mut list, digest, Path::new("objects/a b")).expect("writes");
        let line = String::from_utf8(list).expect("text");
        assert_eq!(parse(line.trim_end()).expect("reads"), (digest, PathBuf::from("objects/a b")));
        for path in ["../x", "/x", "a/../../x", ""] {
            assert!(parse(&format!("{}  {path}", digest.hex())).is_err(), "{path}");
        }
        assert!(parse("abc  x").is_err());
    }
}
