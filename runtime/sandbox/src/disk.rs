//! The disk limit: bytes and entries in everything that the guest can write.
//!
//! The guest is the only writer, so sizes are known without asking the file system: a file's size is
//! read once when it is opened and then followed. A small write costs one map lookup and no system
//! call. Sizes are logical, so a sparse file counts in full. Space comes back when a file is
//! truncated, or when its last name and its last handle are gone, as on a real disk.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _, path::Path};

use crate::fault::Halt;

/// A file, whatever names and handles it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId(pub(crate) u64, pub(crate) u64);

/// What the guest holds on disk.
#[derive(Debug)]
pub(crate) struct Disk {
    bytes_max: u64,
    files_max: u64,
    bytes: u64,
    files: u64,
    bytes_peak: u64,
    open: HashMap<FileId, OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    size: u64,
    handles: u32,
    /// The last name is gone; the space comes back with the last handle.
    unlinked: bool,
}

impl Disk {
    pub(crate) fn new(bytes_max: u64, files_max: u64) -> Self {
        Self { bytes_max, files_max, bytes: 0, files: 0, bytes_peak: 0, open: HashMap::new() }
    }

    /// Counts what a writable directory holds before the guest starts. That alone never exceeds the
    /// limit: only growth does.
    pub(crate) fn count_existing(&mut self, dir: &Path) -> std::io::Result<()> {
        let mut pending = vec![dir.to_owned()];
        while let Some(dir) = pending.pop() {
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                self.files += 1;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    pending.push(entry.path());
                } else if kind.is_file() {
                    self.bytes += entry.metadata()?.size();
                }
            }
        }
        self.bytes_peak = self.bytes_peak.max(self.bytes);
        Ok(())
    }

    /// Largest number of bytes held at a time.
    pub(crate) fn bytes_peak(&self) -> u64 {
        self.bytes_peak
    }

    /// A handle on a file came to be. `size_before` is the file's size before the call that opened
    /// it, which may have cut it to `size`.
    pub(crate) fn opened(&mut self, id: FileId, size_before: u64, size: u64) {
        let file = self.open.entry(id).or_insert(OpenFile { size: size_before, handles: 0, unlinked: false });
        file.handles += 1;
        self.bytes = self.bytes.saturating_sub(file.size).saturating_add(size);
        file.size = size;
    }

    /// A handle is gone.
    pub(crate) fn closed(&mut self, id: FileId) {
        let Some(file) = self.open.get_mut(&id) else { return };
        file.handles -= 1;
        if file.handles == 0 {
            if file.unlinked {
                self.bytes = self.bytes.saturating_sub(file.size);
            }
            self.open.remove(&id);
        }
    }

    /// The size of an open file as far as it is known.
    pub(crate) fn size(&self, id: FileId) -> u64 {
        self.open.get(&id).map_or(0, |file| file.size)
    }

    /// The guest writes up to `end` in an open file. Called before the write.
    pub(crate) fn extend(&mut self, id: FileId, end: u64) -> Result<(), Halt> {
        if end > self.size(id) { self.resize(id, end) } else { Ok(()) }
    }

    /// Whether an open file may come to hold `end` bytes. Changes nothing.
    pub(crate) fn check(&self, id: FileId, end: u64) -> Result<(), Halt> {
        self.total_with(id, end).map(|_| ())
    }

    /// All bytes if an open file comes to hold `size` of them; `None` if nobody has it open.
    fn total_with(&self, id: FileId, size: u64) -> Result<Option<u64>, Halt> {
        let Some(file) = self.open.get(&id) else { return Ok(None) };
        let total = (self.bytes - file.size.min(self.bytes)).saturating_add(size);
        if size > file.size && total > self.bytes_max { Err(Halt::DiskBytes) } else { Ok(Some(total)) }
    }

    /// The size of an open file becomes `size`. Called before the change if it may grow.
    pub(crate) fn resize(&mut self, id: FileId, size: u64) -> Result<(), Halt> {
        let Some(total) = self.total_with(id, size)? else { return Ok(()) };
        if let Some(file) = self.open.get_mut(&id) {
            file.size = size;
        }
        self.bytes = total;
        self.bytes_peak = self.bytes_peak.max(total);
        Ok(())
    }

    /// Corrects the size of an open file after a change that did not happen, or only in part.
    pub(crate) fn settle(&mut self, id: FileId, size: u64) {
        if let Some(file) = self.open.get_mut(&id) {
            self.bytes = self.bytes.saturating_sub(file.size).saturating_add(size);
            file.size = size;
        }
    }

    /// A file, directory or link came to be.
    pub(crate) fn entry_added(&mut self) -> Result<(), Halt> {
        self.files += 1;
        if self.files > self.files_max { Err(Halt::DiskFiles) } else { Ok(()) }
    }

    /// A name is gone. `file` is given for a regular file: its identity, its size and how many names
    /// it had.
    pub(crate) fn entry_removed(&mut self, file: Option<(FileId, u64, u64)>) {
        self.files = self.files.saturating_sub(1);
        let Some((id, size, names)) = file else { return };
        if names > 1 {
            return;
        }
        match self.open.get_mut(&id) {
            Some(open) => open.unlinked = true,
            None => self.bytes = self.bytes.saturating_sub(size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: FileId = FileId(1, 1);

    #[test]
    fn writes_count_up_to_the_limit_and_not_beyond() {
        let mut disk = Disk::new(100, 10);
        disk.opened(A, 0, 0);
        assert_eq!(disk.extend(A, 60), Ok(()));
        assert_eq!(disk.extend(A, 50), Ok(()), "writing over old bytes takes no space");
        assert_eq!(disk.extend(A, 100), Ok(()));
        assert_eq!(disk.extend(A, 101), Err(Halt::DiskBytes));
        assert_eq!((disk.check(A, 100), disk.check(A, 101)), (Ok(()), Err(Halt::DiskBytes)));
        assert_eq!((disk.bytes, disk.bytes_peak()), (100, 100));
    }

    #[test]
    fn truncation_and_deletion_give_space_back() {
        let mut disk = Disk::new(100, 10);
        disk.opened(A, 0, 0);
        disk.extend(A, 100).expect("fits");
        disk.resize(A, 10).expect("shrinks");
        assert_eq!(disk.bytes, 10);
        disk.closed(A);
        assert_eq!(disk.bytes, 10, "closing keeps the file");
        disk.entry_removed(Some((A, 10, 1)));
        assert_eq!((disk.bytes, disk.bytes_peak()), (0, 100));
    }

    #[test]
    fn a_deleted_file_takes_space_until_its_last_handle_is_closed() {
        let mut disk = Disk::new(100, 10);
        disk.opened(A, 0, 0);
        disk.opened(A, 0, 0);
        disk.extend(A, 80).expect("fits");
        disk.entry_removed(Some((A, 80, 1)));
        disk.closed(A);
        assert_eq!(disk.bytes, 80);
        disk.closed(A);
        assert_eq!(disk.bytes, 0);
    }

    #[test]
    fn a_second_name_keeps_the_file() {
        let mut disk = Disk::new(100, 10);
        disk.bytes = 40;
        disk.entry_removed(Some((A, 40, 2)));
        assert_eq!(disk.bytes, 40);
        disk.entry_removed(Some((A, 40, 1)));
        assert_eq!(disk.bytes, 0);
    }

    #[test]
    fn opening_with_truncation_gives_the_old_size_back() {
        let mut disk = Disk::new(100, 10);
        disk.bytes = 70;
        disk.opened(A, 70, 0);
        assert_eq!(disk.bytes, 0);
        disk.extend(A, 30).expect("fits");
        disk.opened(A, 30, 0);
        assert_eq!(disk.bytes, 0, "also when it was open already");
    }

    #[test]
    fn entries_are_counted_and_what_was_there_is_no_fault_of_the_guest() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("d")).expect("a directory");
        fs::write(dir.path().join("d/f"), [0; 50]).expect("a file");
        let mut disk = Disk::new(10, 3);
        disk.count_existing(dir.path()).expect("counts");
        assert_eq!((disk.bytes, disk.files), (50, 2));
        assert_eq!(disk.entry_added(), Ok(()));
        assert_eq!(disk.entry_added(), Err(Halt::DiskFiles));
        disk.opened(A, 50, 50);
        assert_eq!(disk.resize(A, 40), Ok(()), "shrinking is allowed above the limit");
        assert_eq!(disk.extend(A, 41), Err(Halt::DiskBytes));
    }

    #[test]
    fn an_absurd_size_is_refused_without_overflow() {
        let mut disk = Disk::new(100, 10);
        disk.opened(A, 0, 0);
        assert_eq!(disk.extend(A, u64::MAX), Err(Halt::DiskBytes));
    }
}
