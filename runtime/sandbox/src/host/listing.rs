//! Directory listings: read once per pass, sorted by name, bounded in memory.
//!
//! The engine's own `fd_readdir` reads the whole directory again for every buffer that the guest
//! passes, which is quadratic, and in the order of the host's file system, which differs by node.

use std::collections::VecDeque;

use crate::memory::Held;

/// Bytes of one entry's fixed part, as preview 1 lays it out.
pub(crate) const HEAD_BYTES: usize = 24;
/// Entries kept over all listings; the least recent ones go first.
const ENTRIES_KEPT: usize = 200_000;
/// Listings kept.
const LISTINGS_KEPT: usize = 16;

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) inode: u64,
    pub(crate) kind: u8,
}

impl Entry {
    /// What it takes of memory.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.name.capacity()
    }
}

/// The entries of one directory, and the memory that they hold.
pub(crate) struct Listing {
    entries: Vec<Entry>,
    _held: Held,
}

impl Listing {
    pub(crate) fn new(entries: Vec<Entry>, held: Held) -> Self {
        Self { entries, _held: held }
    }
}

/// Listings of the directories that the guest is reading.
#[derive(Default)]
pub(crate) struct Listings(VecDeque<(u32, Listing)>);

impl Listings {
    /// The listing of a handle, if it is still there.
    pub(crate) fn get(&self, number: u32) -> Option<&[Entry]> {
        self.0.iter().find(|(of, _)| *of == number).map(|(_, listing)| listing.entries.as_slice())
    }

    pub(crate) fn forget(&mut self, number: u32) {
        self.0.retain(|(of, _)| *of != number);
    }

    pub(crate) fn keep(&mut self, number: u32, listing: Listing) {
        self.forget(number);
        self.0.push_back((number, listing));
        while self.0.len() > LISTINGS_KEPT
            || self.0.len() > 1
                && self.0.iter().map(|(_, listing)| listing.entries.len()).sum::<usize>() > ENTRIES_KEPT
        {
            self.0.pop_front();
        }
    }
}

/// Reads entries as preview 1 lays them out, and sorts them: `.` and `..`, then by name.
pub(crate) fn parse(mut bytes: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    while let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) {
        let inode = u64::from_le_bytes(head[8..16].try_into().expect("8 bytes"));
        let name_len = u32::from_le_bytes(head[16..20].try_into().expect("4 bytes")) as usize;
        let Some((name, rest)) = rest.split_at_checked(name_len) else { break };
        entries.push(Entry { name: name.to_owned(), inode, kind: head[20] });
        bytes = rest;
    }
    entries.sort_by(|a, b| {
        let rank = |entry: &Entry| match entry.name.as_slice() {
            b"." => 0,
            b".." => 1,
            _ => 2,
        };
        rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name))
    });
    entries
}

/// Lays entries out from `cookie` on until `room` bytes are full; the last one may be cut, which
/// tells the guest to come back with a larger buffer or from there.
pub(crate) fn lay_out(entries: &[Entry], cookie: usize, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room.min(64 << 10));
    for (index, entry) in entries.iter().enumerate().skip(cookie) {
        if out.len() >= room {
            break;
        }
        out.extend_from_slice(&(index as u64 + 1).to_le_bytes());
        out.extend_from_slice(&entry.inode.to_le_bytes());
        out.extend_from_slice(&(entry.name.len() as u32).to_le_bytes());
        out.extend_from_slice(&[entry.kind, 0, 0, 0]);
        out.extend_from_slice(&entry.name);
    }
    out.truncate(room);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::memory::MemoryAccount;

    fn listing(entries: usize) -> Listing {
        let held = MemoryAccount::new(1).hold(1).expect("fits");
        Listing::new(vec![entry("x", 1); entries], held)
    }

    fn entry(name: &str, inode: u64) -> Entry {
        Entry { name: name.into(), inode, kind: 4 }
    }

    #[test]
    fn entries_are_sorted_and_survive_their_layout() {
        let all = [entry("b", 3), entry("..", 2), entry("A", 4), entry(".", 1), entry("-", 5)];
        let parsed = parse(&lay_out(&all, 0, 10_000));
        let names: Vec<_> = parsed.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect();
        assert_eq!(names, [".", "..", "-", "A", "b"]);
        assert_eq!(parsed[4], entry("b", 3));
    }

    #[test]
    fn a_small_buffer_cuts_the_last_entry_and_a_cookie_goes_on_from_there() {
        let all = [entry("first", 1), entry("second", 2)];
        assert_eq!(lay_out(&all, 0, 40).len(), 40);
        assert_eq!(parse(&lay_out(&all, 0, 40)).len(), 1);
        assert_eq!(parse(&lay_out(&all, 1, 100))[0].name, b"second");
        assert!(lay_out(&all, 2, 100).is_empty());
    }

    #[test]
    fn h54_a_million_entries_are_read_one_by_one_through_a_tiny_buffer() {
        const ENTRIES: usize = 1_000_000;
        let all: Vec<_> = (0..ENTRIES).rev().map(|n| entry(&format!("{n:06}"), n as u64)).collect();
        let account = MemoryAccount::new(1 << 30);
        let bytes = all.iter().map(Entry::bytes).sum();
        let mut listings = Listings::default();
        listings
            .keep(3, Listing::new(parse(&lay_out(&all, 0, usize::MAX)), account.hold(bytes).expect("fits")));
        let entries = listings.get(3).expect("kept, however large");
        let (mut cookie, mut largest) = (0, 0);
        loop {
            let bytes = lay_out(entries, cookie, 40);
            let Some(next) = bytes.get(..8) else { break };
            let number = u64::from_le_bytes(next.try_into().expect("8 bytes")) as usize;
            assert_eq!(number, cookie + 1, "one at a time, and each once");
            (cookie, largest) = (number, largest.max(bytes.len()));
        }
        assert_eq!((cookie, largest), (ENTRIES, 40));
        assert!((30..200).contains(&(account.peak_bytes() / ENTRIES as u64)), "{}", account.peak_bytes());
        listings.forget(3);
        assert!(account.hold(1 << 30).is_some(), "all of it is given back");
    }

    #[test]
    fn old_listings_make_room_for_new_ones() {
        let mut listings = Listings::default();
        for number in 0..20 {
            listings.keep(number, listing(1));
        }
        assert!(listings.get(0).is_none() && listings.get(19).is_some());
        listings.keep(50, listing(ENTRIES_KEPT + 1));
        assert!(listings.get(19).is_none() && listings.get(50).is_some());
    }
}
