//! User ids for executors: a range that no other node on this machine has.
//!
//! One id for each slot, so that executors of different tenants cannot reach each other even where
//! everything else fails. A range belongs to a node as long as it holds a lock on it.

use std::{
    fs, io,
    ops::Range,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, fstat, mkdirat, openat},
    process::geteuid,
};

/// Ids in a range; more than a node has slots.
const COUNT: u32 = 4_096;
/// Where ranges lie: above what containers are given by custom, below what the kernel treats apart.
const CUSTOMARY: Range<u32> = 0x7000_0000..0x7ffe_0000;
/// Where they lie in a user namespace that has none of those: few people are numbered so high, and
/// services above.
const IN_NAMESPACES: Range<u32> = 10_000..60_000;
/// Where the lock lies: what is not there, or belongs to somebody else, is passed over.
const LOCK_DIRS: [&str; 2] = ["/run/lock", "/tmp"];

/// A range of user and group ids. Other nodes take others while this lives.
#[derive(Debug)]
pub(crate) struct Uids {
    first: u32,
    _lock: OwnedFd,
}

impl Uids {
    /// Takes a range that is free. Blocks shortly.
    ///
    /// # Errors
    /// When the user namespace of this process has too few ids, all ranges are taken, or no lock can
    /// be held.
    pub(crate) fn take() -> io::Result<Self> {
        let mapped = [Map::of("uid")?, Map::of("gid")?];
        let named = [named_ids("/etc/passwd"), named_ids("/etc/group")].concat();
        let ranges = ranges(&mapped, &named);
        if ranges.is_empty() {
            return Err(io::Error::other("this user namespace has no room for a range of ids"));
        }
        // Not the first that is free: containers may share ids without sharing the lock.
        let start = rand::random::<u32>() as usize % ranges.len();
        Self::lock_one(ranges.iter().cycle().skip(start).take(ranges.len()).copied())
    }

    fn lock_one(mut ranges: impl Iterator<Item = u32>) -> io::Result<Self> {
        let file = lock_file()?;
        let first = ranges.find(|first| lock(&file, *first));
        let first = first.ok_or_else(|| io::Error::other("other nodes have all ranges of ids"))?;
        Ok(Self { first, _lock: file })
    }

    /// The id of a slot.
    pub(crate) fn of(&self, slot: u32) -> io::Result<u32> {
        let id = (slot < COUNT).then(|| self.first + slot);
        id.ok_or_else(|| io::Error::other(format!("there are no more than {COUNT} user ids for slots")))
    }
}

/// The ids that a user namespace has: `(first, count)`, in order, without gaps between neighbours.
#[derive(Debug, PartialEq)]
struct Map(Vec<(u64, u64)>);

impl Map {
    fn of(kind: &str) -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string(format!("/proc/self/{kind}_map"))?))
    }

    /// From lines of the first id inside, the first id outside, and how many; see
    /// user_namespaces(7).
    fn parse(text: &str) -> Self {
        let mut parts: Vec<(u64, u64)> = text
            .lines()
            .filter_map(|line| {
                let mut numbers = line.split_whitespace().map(|word| word.parse().ok());
                Some((numbers.next()??, numbers.nth(1)??))
            })
            .collect();
        parts.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::new();
        for (first, count) in parts {
            match joined.last_mut() {
                Some(last) if last.0 + last.1 == first => last.1 += count,
                _ => joined.push((first, count)),
            }
        }
        Self(joined)
    }

    fn holds(&self, range: u32) -> bool {
        let (start, end) = (u64::from(range), u64::from(range) + u64::from(COUNT));
        self.0.iter().any(|&(first, count)| first <= start && end <= first + count)
    }
}

/// The first ids of all ranges that may be taken.
fn ranges(mapped: &[Map], named: &[u32]) -> Vec<u32> {
    let within = |bounds: Range<u32>| -> Vec<u32> {
        (0..(bounds.end - bounds.start) / COUNT)
            .map(|number| bounds.start + number * COUNT)
            .filter(|first| mapped.iter().all(|map| map.holds(*first)))
            .filter(|first| !named.iter().any(|id| (*first..first + COUNT).contains(id)))
            .collect()
    };
    let customary = within(CUSTOMARY);
    if customary.is_empty() { within(IN_NAMESPACES) } else { customary }
}

/// The ids that have a name on this machine: the third field of each line.
fn named_ids(file: &str) -> Vec<u32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.split(':').nth(2)?.parse().ok()).collect()
}

/// The file in which every range has a byte to lock, in a directory that only this user can write.
fn lock_file() -> io::Result<OwnedFd> {
    let mut problem = io::Error::from(io::ErrorKind::NotFound);
    for parent in LOCK_DIRS {
        match lock_file_in(Path::new(parent)) {
            Ok(file) => return Ok(file),
            Err(error) => problem = error,
        }
    }
    Err(io::Error::new(problem.kind(), format!("the user ids of executors cannot be locked: {problem}")))
}

fn lock_file_in(parent: &Path) -> io::Result<OwnedFd> {
    let dir = parent.join("gristmill");
    match mkdirat(CWD, &dir, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(CWD, &dir, flags, Mode::empty())?;
    let found = fstat(&opened)?;
    let others_write = Mode::from_raw_mode(found.st_mode).intersects(Mode::WGRP | Mode::WOTH);
    if found.st_uid != geteuid().as_raw() || others_write {
        return Err(io::Error::other(format!("{} can be written by others", dir.display())));
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(&opened, "uids", flags, Mode::RUSR | Mode::WUSR)?)
}

/// Locks the byte of a range for as long as the file is open; false if somebody else has it.
#[expect(
    unsafe_code,
    reason = "no safe wrapper of locks on parts of open files exists among the dependencies"
)]
fn lock(file: &OwnedFd, range: u32) -> bool {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut wanted: libc::flock = unsafe { std::mem::zeroed() };
    wanted.l_type = libc::F_WRLCK as libc::c_short;
    wanted.l_whence = libc::SEEK_SET as libc::c_short;
    wanted.l_start = libc::off_t::from(range / COUNT);
    wanted.l_len = 1;
    // SAFETY: the descriptor is open, and the structure outlives the call, which only reads it.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const wanted) == 0 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn maps(text: &str) -> [Map; 2] {
        [Map::parse(text), Map::parse(text)]
    }

    #[test]
    fn ranges_lie_where_the_namespace_has_ids_and_nobody_is_named() {
        let all = ranges(&maps("         0          0 4294967295\n"), &[]);
        assert_eq!((all[0], all.len()), (CUSTOMARY.start, 65_504));
        assert!(all.iter().all(|first| *first >= CUSTOMARY.start && first + COUNT <= CUSTOMARY.end));
        let container = ranges(&maps("0 100000 65536"), &[]);
        assert_eq!((container.first(), container.len()), (Some(&10_000), 12));
        let in_parts = ranges(&maps("0 1000 1\n1 100000 65535\n"), &[]);
        assert_eq!(in_parts, container, "neighbouring parts count as one");
        assert_eq!(ranges(&maps("0 100000 65536"), &[10_001, 14_095]).len(), 11, "two names, one range");
        assert!(ranges(&maps("0 1000 1"), &[]).is_empty());
        let groups_differ = [Map::parse("0 0 4294967295"), Map::parse("0 100000 65536")];
        assert_eq!(ranges(&groups_differ, &[]), container, "both kinds of ids must be there");
    }

    #[test]
    fn two_nodes_never_have_one_range_and_a_range_is_free_after_its_node() {
        let temp = tempfile::tempdir().expect("a directory");
        let open = || lock_file_in(temp.path()).expect("a lock file");
        let (one, two) = (open(), open());
        assert!(lock(&one, COUNT) && lock(&one, 3 * COUNT));
        assert!(!lock(&two, COUNT) && lock(&two, 2 * COUNT) && !lock(&two, 3 * COUNT));
        drop(one);
        assert!(lock(&two, COUNT));
    }

    #[test]
    fn a_lock_where_others_can_write_is_none() {
        let temp = tempfile::tempdir().expect("a directory");
        let dir = temp.path().join("gristmill");
        symlink("/tmp", &dir).expect("a link");
        assert!(lock_file_in(temp.path()).is_err(), "a link");
        fs::remove_file(&dir).expect("removed");
        fs::create_dir(&dir).expect("a directory");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("a mode");
        let error = lock_file_in(temp.path()).expect_err("anybody can write there").to_string();
        assert!(error.contains("written by others"), "{error}");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).expect("a mode");
        lock_file_in(temp.path()).expect("only this user can");
    }

    #[test]
    fn a_slot_beyond_the_range_gets_no_id() {
        let temp = tempfile::tempdir().expect("a directory");
        let uids = Uids { first: 10_000, _lock: lock_file_in(temp.path()).expect("a lock file") };
        assert_eq!(uids.of(COUNT - 1).expect("the last"), 10_000 + COUNT - 1);
        assert!(uids.of(COUNT).is_err());
    }
}
