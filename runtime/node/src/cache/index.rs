//! What is in the cache, by name and by last use.

use std::collections::{BTreeMap, HashMap};

use super::{Key, verify::Stamp};

#[derive(Debug)]
pub(super) struct Entry {
    /// Tells it from an entry of the same key that was there before.
    pub(super) id: u64,
    pub(super) bytes: u64,
    used: u64,
    pub(super) pins: u32,
    /// The file as it was when it was last checked: a blob against its digest, code against its proof.
    pub(super) verified: Option<Stamp>,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) entries: HashMap<Key, Entry>,
    by_use: BTreeMap<u64, Key>,
    pub(super) bytes: u64,
    uses: u64,
}

impl Index {
    /// Returns the new entry's id.
    pub(super) fn add(&mut self, key: Key, bytes: u64, pins: u32, verified: Option<Stamp>) -> u64 {
        self.uses += 1;
        let id = self.uses;
        self.by_use.insert(id, key.clone());
        self.bytes += bytes;
        self.entries.insert(key, Entry { id, bytes, used: id, pins, verified });
        id
    }

    /// Pins an entry as used now and returns its id.
    pub(super) fn touch(&mut self, key: &Key) -> Option<u64> {
        let entry = self.entries.get_mut(key)?;
        self.uses += 1;
        self.by_use.remove(&entry.used);
        entry.used = self.uses;
        entry.pins += 1;
        self.by_use.insert(self.uses, key.clone());
        Some(entry.id)
    }

    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }

    /// The least recently used unpinned entry if `bytes` more do not fit.
    pub(super) fn victim(&self, bytes: u64, bytes_max: u64) -> Option<Key> {
        if self.bytes.saturating_add(bytes) <= bytes_max {
            return None;
        }
        self.by_use.values().find(|key| self.entries[*key].pins == 0).cloned()
    }
}
