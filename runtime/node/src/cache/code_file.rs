//! Compiled code that is known to be what this node has put into its cache. It is as good as the
//! node's own program, so a file that merely lies in the right place is not enough.
//!
//! The proof is an HMAC-SHA256 under a key that only the node has, over the code's name and bytes. It
//! lies in the entry's mark. It is checked once per start of the node, and again whenever the file is
//! another or was changed since: by the inode, the size and the time of change of the very descriptor
//! that is handed on afterwards.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use rustix::fs::{Mode, OFlags, fchmod};

use super::{Cache, Kind, Pinned, marks, verify::Stamp};
use crate::state::write_private;

const KEY_BYTES: usize = 32;

/// The node's secret by which it knows its own compiled code.
pub(crate) struct CodeKey(hmac::Key);

impl std::fmt::Debug for CodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CodeKey(…)")
    }
}

impl CodeKey {
    /// The key in the file at `path`, which is made if it is not there (mode 0600, random). A file that
    /// others could read or that holds no key is replaced: then all code is compiled anew. Blocks.
    pub(crate) fn load_or_make(path: &Path) -> io::Result<Self> {
        match read_key(path) {
            Ok(Some(key)) => return Ok(key),
            Ok(None) => {
                tracing::warn!("the key of the compiled code is damaged or not private; it is replaced");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut bytes = [0; KEY_BYTES];
        rand::fill(&mut bytes);
        write_private(path, &bytes)?;
        Ok(Self::of(&bytes))
    }

    fn of(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// The proof for the bytes of `file` under `name`. Reads the whole file and leaves its position.
    fn proof(&self, name: &str, file: &File) -> io::Result<hmac::Tag> {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&(name.len() as u64).to_le_bytes());
        context.update(name.as_bytes());
        let mut buffer = vec![0; 256 << 10];
        let mut offset = 0;
        loop {
            match file.read_at(&mut buffer, offset) {
                Ok(0) => return Ok(context.sign()),
                Ok(count) => {
                    context.update(&buffer[..count]);
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The key in a file; `None` if that is no private file with a key.
fn read_key(path: &Path) -> io::Result<Option<CodeKey>> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & 0o077 != 0 {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() == KEY_BYTES).then(|| CodeKey::of(&bytes)))
}

/// Opens a file for reading; a link is not followed, and a pipe does not block.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// An entry of compiled code, open for reading.
#[derive(Debug)]
pub(crate) struct OpenCode {
    pub(crate) pinned: Pinned,
    pub(crate) file: Arc<File>,
    stamp: Stamp,
}

/// What was found under a name.
#[derive(Debug)]
pub(crate) enum FoundCode {
    /// The node's own, for certain.
    Known(OpenCode),
    /// To be checked before anybody uses it.
    Unchecked(OpenCode),
}

impl Cache {
    /// Opens the code of this name, if there is some. Cheap.
    pub(crate) fn open_code(self: &Arc<Self>, name: &str) -> Option<FoundCode> {
        let pinned = self.pin(Kind::Code, name)?;
        let opened = open(&pinned.path()).and_then(|file| Ok((Stamp::of_open(&file)?, file)));
        match opened {
            Ok((stamp, file)) => {
                let is_known = self.verified(&pinned) == Some(stamp);
                let code = OpenCode { pinned, file: Arc::new(file), stamp };
                Some(if is_known { FoundCode::Known(code) } else { FoundCode::Unchecked(code) })
            }
            Err(error) => {
                tracing::warn!(name, %error, "compiled code cannot be opened; it is compiled again");
                self.discard(&pinned);
                None
            }
        }
    }

    /// Checks the proof of code, and drops it from the cache if it is not the node's own. Blocks for as
    /// long as reading it takes.
    pub(crate) fn check_code(&self, key: &CodeKey, code: OpenCode) -> Option<OpenCode> {
        let name = &code.pinned.key.1;
        let checked = fs::read(marks::mark(&self.root, &code.pinned.key)).and_then(|noted| {
            let proof = hex::encode(key.proof(name, &code.file)?);
            let is_genuine = verify_slices_are_equal(proof.as_bytes(), &noted).is_ok();
            Ok(is_genuine && Stamp::of_open(&code.file)? == code.stamp)
        });
        if matches!(checked, Ok(true)) {
            self.set_verified(&code.pinned, code.stamp);
            return Some(code);
        }
        let error = checked.err();
        tracing::warn!(name, ?error, "compiled code is not what this node put there; it is compiled again");
        self.discard(&code.pinned);
        None
    }

    /// Takes in compiled code that a child has just written to `temp`, whatever was there under this
    /// name before. Nobody writes to the file any more. Blocks for as long as reading it takes.
    pub(crate) fn keep_code(
        self: &Arc<Self>,
        key: &CodeKey,
        name: &str,
        temp: &Path,
    ) -> io::Result<OpenCode> {
        let file = open(temp)?;
        fchmod(&file, Mode::RUSR)?;
        let proof = hex::encode(key.proof(name, &file)?);
        if let Some(former) = self.pin(Kind::Code, name) {
            self.discard(&former);
        }
        fs::write(marks::mark(&self.root, &(Kind::Code, name.to_owned())), proof)?;
        let pinned = self.adopt(Kind::Code, name, temp, file.metadata()?.len())?;
        let stamp = Stamp::of_open(&file)?;
        self.set_verified(&pinned, stamp);
        Ok(OpenCode { pinned, file: Arc::new(file), stamp })
    }
}

#[cfg(test)]
#[path = "code_file_tests.rs"]
mod tests;
