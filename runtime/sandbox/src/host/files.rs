//! The guest's open handles and what they mean for its limits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gristmill_protocol::attempt::LogStream;

use crate::{
    disk::{Disk, FileId},
    fault::Halt,
    memory::MemoryAccount,
    traffic::Traffic,
};

/// What a handle stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handle {
    /// A stream of the log.
    Log(LogStream),
    /// A directory; what is opened below it inherits whether the guest may write.
    Dir { writable: bool },
    /// A file in a writable mount, followed by the disk limit.
    File { id: FileId, append: bool, writable: bool },
    /// A file that can only be read.
    Input,
    /// Anything that takes no part in the disk limit.
    Other,
}

/// Handles by their number, which is a file descriptor in preview 1 and a resource in 0.2.
pub(crate) struct Files {
    disk: Arc<Mutex<Disk>>,
    handles: HashMap<u32, Handle>,
    handles_max: usize,
    /// Inode numbers as the guest sees them, in the reproducible mode.
    inodes: Option<Inodes>,
    memory: Arc<MemoryAccount>,
    traffic: Arc<Traffic>,
}

/// Inode numbers that count up in the order in which the guest meets files.
#[derive(Default)]
struct Inodes {
    shown: HashMap<u64, u64>,
    last: u64,
}

impl Files {
    pub(crate) fn new(
        disk: Arc<Mutex<Disk>>,
        handles: HashMap<u32, Handle>,
        handles_max: usize,
        reproducible: bool,
        memory: Arc<MemoryAccount>,
        traffic: Arc<Traffic>,
    ) -> Self {
        let inodes = reproducible.then(Inodes::default);
        Self { disk, handles, handles_max, inodes, memory, traffic }
    }

    /// What the guest holds of memory.
    pub(crate) fn memory(&self) -> &Arc<MemoryAccount> {
        &self.memory
    }

    /// What the guest read and wrote.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    pub(crate) fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk limit for a stream that lives on its own.
    pub(crate) fn shared_disk(&self) -> Arc<Mutex<Disk>> {
        Arc::clone(&self.disk)
    }

    pub(crate) fn get(&self, number: u32) -> Handle {
        self.handles.get(&number).copied().unwrap_or(Handle::Other)
    }

    /// Whether a number denotes something.
    pub(crate) fn is_open(&self, number: u32) -> bool {
        self.handles.contains_key(&number)
    }

    /// Whether a number denotes a file.
    pub(crate) fn is_file(&self, number: u32) -> bool {
        matches!(self.get(number), Handle::File { .. } | Handle::Input)
    }

    /// Any open directory.
    pub(crate) fn any_dir(&self) -> Option<u32> {
        self.handles
            .iter()
            .find(|(_, handle)| matches!(handle, Handle::Dir { .. }))
            .map(|(number, _)| *number)
    }

    /// Whether what is opened below this handle may be written.
    pub(crate) fn writable_dir(&self, number: u32) -> bool {
        self.get(number) == Handle::Dir { writable: true }
    }

    /// Called before a handle is made.
    pub(crate) fn check_room(&self) -> Result<(), Halt> {
        if self.handles.len() >= self.handles_max { Err(Halt::Handles) } else { Ok(()) }
    }

    /// A handle was made.
    pub(crate) fn insert(&mut self, number: u32, handle: Handle) {
        self.handles.insert(number, handle);
    }

    /// A handle was closed.
    pub(crate) fn remove(&mut self, number: u32) {
        if let Some(Handle::File { id, .. }) = self.handles.remove(&number) {
            self.disk().closed(id);
        }
    }

    /// A handle took the place of another.
    pub(crate) fn renumber(&mut self, from: u32, to: u32) {
        if from == to {
            return;
        }
        self.remove(to);
        if let Some(handle) = self.handles.remove(&from) {
            self.handles.insert(to, handle);
        }
    }

    /// Sets whether writes go to the end.
    pub(crate) fn set_append(&mut self, number: u32, on: bool) {
        if let Some(Handle::File { append, .. }) = self.handles.get_mut(&number) {
            *append = on;
        }
    }

    /// Whether files look the same on every node.
    pub(crate) fn reproducible(&self) -> bool {
        self.inodes.is_some()
    }

    /// The inode number to show: in the reproducible mode they count up in the order in which the
    /// guest meets them.
    pub(crate) fn shown_inode(&mut self, inode: u64) -> u64 {
        let Some(Inodes { shown, last }) = &mut self.inodes else { return inode };
        *shown.entry(inode).or_insert_with(|| {
            *last += 1;
            *last
        })
    }

    /// A file is gone. The host's file system may give its number to the next one, or not.
    pub(crate) fn forget_inode(&mut self, inode: u64) {
        if let Some(inodes) = &mut self.inodes {
            inodes.shown.remove(&inode);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(max: usize) -> Files {
        let disk = Arc::new(Mutex::new(Disk::new(100, 100)));
        Files::new(disk, HashMap::new(), max, true, MemoryAccount::new(100), Arc::default())
    }

    #[test]
    fn handles_are_counted_and_come_back() {
        let mut files = files(2);
        for number in [5, 6] {
            assert_eq!(files.check_room(), Ok(()));
            files.insert(number, Handle::Other);
        }
        assert_eq!(files.check_room(), Err(Halt::Handles));
        files.renumber(5, 6);
        assert_eq!(files.check_room(), Ok(()));
        assert_eq!(files.get(5), Handle::Other);
    }

    #[test]
    fn inode_numbers_count_up_in_the_reproducible_mode() {
        let mut files = files(2);
        assert_eq!([files.shown_inode(99), files.shown_inode(7), files.shown_inode(99)], [1, 2, 1]);
        files.forget_inode(99);
        assert_eq!(files.shown_inode(99), 3, "a number that the host uses again is a new file");
    }
}
