//! Control groups of both versions, by writing their files; see cgroups(7).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use gristmill_protocol::OuterLimit;
use rustix::process::{Pid, Signal, kill_process};

/// Length of the period in which CPU time is given out, in microseconds.
const PERIOD_US: u64 = 100_000;
/// The shortest time in a period that the kernel accepts, in microseconds.
const QUOTA_US_MIN: u64 = 1_000;

type Place = fn(&str, &str) -> io::Result<Layout>;

/// Where this process may make control groups.
#[derive(Debug)]
pub(super) struct Groups {
    layout: Layout,
    /// The kernel's list of what memory can be swapped to.
    swaps: &'static str,
}

#[derive(Debug, Clone)]
enum Layout {
    /// One directory with all controllers.
    V2(PathBuf),
    /// One directory for each controller.
    V1 { cpu: PathBuf, memory: PathBuf, pids: Option<PathBuf> },
}

/// The control group of one child; removed when dropped.
#[derive(Debug)]
pub(super) struct Group {
    layout: Layout,
    set: Option<(u32, u64)>,
}

impl Layout {
    fn dirs(&self) -> Vec<&Path> {
        match self {
            Self::V2(dir) => vec![dir],
            Self::V1 { cpu, memory, pids } => {
                let mut dirs: Vec<&Path> = [Some(cpu), Some(memory), pids.as_ref()]
                    .into_iter()
                    .flatten()
                    .map(PathBuf::as_path)
                    .collect();
                // Controllers can be mounted together.
                dirs.sort_unstable();
                dirs.dedup();
                dirs
            }
        }
    }

    fn below(&self, name: &str) -> Self {
        match self {
            Self::V2(dir) => Self::V2(dir.join(name)),
            Self::V1 { cpu, memory, pids } => Self::V1 {
                cpu: cpu.join(name),
                memory: memory.join(name),
                pids: pids.as_ref().map(|dir| dir.join(name)),
            },
        }
    }

    /// Makes the groups, all or none. One that is there already is somebody else's, and an error.
    fn make(&self) -> io::Result<()> {
        let dirs = self.dirs();
        for (number, dir) in dirs.iter().enumerate() {
            if let Err(error) = fs::create_dir(dir) {
                dirs[..number].iter().for_each(|made| _ = fs::remove_dir(made));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets limited groups stand in these.
    fn delegate(&self) -> io::Result<()> {
        match self {
            Self::V2(dir) => fs::write(dir.join("cgroup.subtree_control"), "+cpu +memory +pids"),
            Self::V1 { .. } => Ok(()),
        }
    }

    /// Makes groups of this process again that somebody removed while they were empty.
    fn make_missing(&self) -> io::Result<()> {
        let missing: Vec<&Path> = self.dirs().into_iter().filter(|dir| !dir.is_dir()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        missing.into_iter().try_for_each(fs::create_dir)?;
        self.delegate()
    }

    /// Removes groups in which no process is left. The kernel may take a moment to notice that.
    fn remove(&self) {
        for dir in self.dirs() {
            for _ in 0..50 {
                match fs::remove_dir(dir) {
                    Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                        std::thread::sleep(std::time::Duration::from_millis(2));
                    }
                    _ => break,
                }
            }
        }
    }
}

impl Groups {
    /// Finds a place for groups, by making one there and setting its limits.
    pub(super) fn find(most: OuterLimit) -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let name = unique_name();
        let mut reasons = Vec::new();
        let candidates = [(OuterLimit::CgroupV2, v2_place as Place), (OuterLimit::CgroupV1, v1_place)];
        for (_, candidate) in candidates.into_iter().filter(|(level, _)| *level <= most) {
            match candidate(&own, &mounts).and_then(|place| try_out(&place, &name, "/proc/swaps")) {
                Ok(groups) => return Ok(groups),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(io::Error::other(reasons.join("; ")))
    }

    pub(super) fn level(&self) -> OuterLimit {
        match self.layout {
            Layout::V2(_) => OuterLimit::CgroupV2,
            Layout::V1 { .. } => OuterLimit::CgroupV1,
        }
    }

    pub(super) fn make(&self, number: u64, pids_max: u64) -> io::Result<Group> {
        self.layout.make_missing()?;
        let layout = self.layout.below(&number.to_string());
        layout.make()?;
        let group = Group { layout, set: None };
        match &group.layout {
            Layout::V2(dir) => {
                fs::write(dir.join("pids.max"), pids_max.to_string())?;
                // The whole child ends, or nothing of it. Kernels before 4.19 lack it.
                _ = fs::write(dir.join("memory.oom.group"), "1");
                forbid_swap(&dir.join("memory.swap.max"), self.swaps)?;
            }
            Layout::V1 { pids: Some(pids), .. } => fs::write(pids.join("pids.max"), pids_max.to_string())?,
            Layout::V1 { pids: None, .. } => {}
        }
        Ok(group)
    }

    pub(super) fn remove(&self) {
        self.layout.remove();
    }
}

impl Group {
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        self.layout
            .dirs()
            .into_iter()
            .try_for_each(|dir| fs::write(dir.join("cgroup.procs"), pid.to_string()))
    }

    pub(super) fn limit(&mut self, cpus_milli: u32, memory_bytes: u64) -> io::Result<()> {
        if self.set == Some((cpus_milli, memory_bytes)) {
            return Ok(());
        }
        let quota = (u64::from(cpus_milli) * PERIOD_US / 1_000).max(QUOTA_US_MIN);
        match &self.layout {
            Layout::V2(dir) => {
                fs::write(dir.join("cpu.max"), format!("{quota} {PERIOD_US}"))?;
                fs::write(dir.join("memory.max"), memory_bytes.to_string())?;
            }
            Layout::V1 { cpu, memory, .. } => {
                fs::write(cpu.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                fs::write(cpu.join("cpu.cfs_quota_us"), quota.to_string())?;
                limit_memory_v1(memory, memory_bytes)?;
            }
        }
        self.set = Some((cpus_milli, memory_bytes));
        Ok(())
    }

    /// Has this group give way to others: the weight that a process of [`super::NICE`] has beside others.
    pub(super) fn give_way(&self) -> io::Result<()> {
        match &self.layout {
            Layout::V2(dir) => fs::write(dir.join("cpu.weight"), "51"),
            Layout::V1 { cpu, .. } => fs::write(cpu.join("cpu.shares"), "526"),
        }
    }

    pub(super) fn ran_out_of_memory(&self) -> bool {
        let (file, key) = match &self.layout {
            Layout::V2(dir) => (dir.join("memory.events"), "oom_kill "),
            Layout::V1 { memory, .. } => (memory.join("memory.oom_control"), "oom_kill "),
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().filter_map(|line| line.strip_prefix(key)).any(|count| count.trim() != "0")
    }

    /// The most memory that its processes held under the limit in force, in bytes. Kernels before 5.19 do
    /// not say it of groups of version 2.
    pub(super) fn memory_peak_bytes(&self) -> Option<u64> {
        let file = match &self.layout {
            Layout::V2(dir) => dir.join("memory.peak"),
            Layout::V1 { memory, .. } => memory.join("memory.max_usage_in_bytes"),
        };
        let peak: u64 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
        // It may be from a former run, whose limit was larger.
        Some(self.set.map_or(peak, |(_, limit)| peak.min(limit)))
    }

    pub(super) fn kill(&self) {
        if let Layout::V2(dir) = &self.layout
            && fs::write(dir.join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for dir in self.layout.dirs() {
            let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            for pid in text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
                _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        self.layout.remove();
    }
}

/// Swap counts in a second limit, which must never be the smaller one; kernels without swap accounting
/// lack it.
fn limit_memory_v1(dir: &Path, bytes: u64) -> io::Result<()> {
    let (memory, swap) = (dir.join("memory.limit_in_bytes"), dir.join("memory.memsw.limit_in_bytes"));
    let text = bytes.to_string();
    if !swap.exists() {
        return fs::write(memory, text);
    }
    // When the limit rises, the second one has to go first.
    fs::write(&swap, &text).and_then(|()| fs::write(&memory, &text)).or_else(|_| {
        fs::write(&memory, &text)?;
        fs::write(&swap, &text)
    })
}

/// Such as `gristmill-4711-0f3a…`: the process that a group belongs to, and what nobody else can have
/// chosen, since processes of other containers can have the same number.
fn unique_name() -> String {
    format!("gristmill-{}-{:016x}", std::process::id(), rand::random::<u64>())
}

/// Keeps a group of version 2 from moving its memory to swap, where its maximum does not reach. A
/// kernel may lack the file; that matters if it has swap.
fn forbid_swap(file: &Path, swaps: &str) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).open(file) {
        Ok(mut file) => io::Write::write_all(&mut file, b"0"),
        // One line is the heading.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let in_use = fs::read_to_string(swaps).is_ok_and(|text| text.lines().count() > 1);
            let problem = || io::Error::other("this kernel cannot keep control groups from using swap");
            if in_use { Err(problem()) } else { Ok(()) }
        }
        Err(error) => Err(error),
    }
}

/// Removes what nodes that were killed left behind: their executors died with them.
fn remove_stale(place: &Layout) {
    for dir in place.dirs() {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        for group in entries.flatten().filter(|entry| is_stale(&entry.file_name().to_string_lossy())) {
            let below = fs::read_dir(group.path()).into_iter().flatten().flatten();
            // A group with a process in it cannot be removed, and has not been left behind.
            below.filter(|entry| entry.path().is_dir()).for_each(|entry| _ = fs::remove_dir(entry.path()));
            _ = fs::remove_dir(group.path());
        }
    }
}

/// Whether a group is named after a process that is no more.
fn is_stale(name: &str) -> bool {
    let owner = name.strip_prefix("gristmill-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// This process's groups, after a trial.
fn try_out(place: &Layout, name: &str, swaps: &'static str) -> io::Result<Groups> {
    remove_stale(place);
    let in_words =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", place.dirs()[0].display()));
    let layout = place.below(name);
    layout.make().map_err(in_words)?;
    let groups = Groups { layout, swaps };
    let tried = groups
        .layout
        .delegate()
        .and_then(|()| groups.make(0, 64))
        .and_then(|mut group| group.limit(1_000, 64 << 20));
    if tried.is_err() {
        groups.remove();
    }
    tried.map(|()| groups).map_err(in_words)
}

/// This process's own group of version 2. Groups with limits can stand only beside processes, not
/// below them, so this one must be given to the node alone (`Delegate=yes`): then the process moves
/// into a group of its own first.
fn v2_place(own: &str, mounts: &str) -> io::Result<Layout> {
    let missing = |what: &str| io::Error::other(format!("cgroup v2: {what}"));
    let root = mount_point(mounts, "cgroup2", None).ok_or_else(|| missing("not mounted"))?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::/")).ok_or_else(|| missing("no group"))?;
    let dir = root.join(path.trim_end_matches("/gristmill-node"));
    let controllers = fs::read_to_string(dir.join("cgroup.controllers"))?;
    let has = |name: &str| controllers.split_whitespace().any(|found| found == name);
    if !["cpu", "memory", "pids"].into_iter().all(has) {
        return Err(missing("the controllers cpu, memory and pids are not all there"));
    }
    let control = dir.join("cgroup.subtree_control");
    if fs::write(&control, "+cpu +memory +pids").is_err() {
        let leaf = dir.join("gristmill-node");
        fs::create_dir_all(&leaf)?;
        for pid in fs::read_to_string(dir.join("cgroup.procs"))?.lines() {
            if pid == std::process::id().to_string() {
                fs::write(leaf.join("cgroup.procs"), pid)?;
            }
        }
        fs::write(&control, "+cpu +memory +pids")?;
    }
    Ok(Layout::V2(dir))
}

/// This process's own groups of version 1.
fn v1_place(own: &str, mounts: &str) -> io::Result<Layout> {
    let place = |controller: &str| {
        let root = mount_point(mounts, "cgroup", Some(controller))?;
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let names = parts.next()?;
            names.split(',').any(|name| name == controller).then(|| parts.next())?
        })?;
        // In a container the path can be that of the host.
        let dir = root.join(path.trim_start_matches('/'));
        Some(if dir.is_dir() { dir } else { root })
    };
    let missing = |what| io::Error::other(format!("cgroup v1: no controller {what}"));
    Ok(Layout::V1 {
        cpu: place("cpu").ok_or_else(|| missing("cpu"))?,
        memory: place("memory").ok_or_else(|| missing("memory"))?,
        pids: place("pids"),
    })
}

/// Where a control-group file system is mounted, from the text of `/proc/self/mountinfo`.
fn mount_point(mounts: &str, kind: &str, controller: Option<&str>) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut after = after.split(' ');
        let (found, options) = (after.next()?, after.nth(1)?);
        let fits =
            found == kind && controller.is_none_or(|name| options.split(',').any(|option| option == name));
        fits.then(|| before.split(' ').nth(4).map(PathBuf::from))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        36 30 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    /// A directory of plain files, as a kernel with version 2 shows it; the fake takes whatever is
    /// written.
    fn second_version() -> (tempfile::TempDir, String) {
        let temp = tempfile::tempdir().expect("a directory");
        let own = temp.path().join("user.slice/node");
        fs::create_dir_all(&own).expect("directories");
        fs::write(own.join("cgroup.controllers"), "cpuset cpu io memory pids\n").expect("a file");
        fs::write(own.join("cgroup.procs"), "").expect("a file");
        let mounts = format!("31 30 0:27 / {} rw - cgroup2 cgroup2 rw\n", temp.path().display());
        (temp, mounts)
    }

    #[test]
    fn the_second_version_is_driven_by_writing_its_files() {
        let (temp, mounts) = second_version();
        let place = v2_place("0::/user.slice/node\n", &mounts).expect("a place");
        let own = temp.path().join("user.slice/node");
        let read = |path: &Path| fs::read_to_string(path).expect("was written");
        assert_eq!(read(&own.join("cgroup.subtree_control")), "+cpu +memory +pids");
        let name = unique_name();
        let groups = try_out(&place, &name, "/dev/null").expect("tried");
        assert_eq!(groups.level(), OuterLimit::CgroupV2);
        let parent = own.join(&name);
        assert_eq!(read(&parent.join("cgroup.subtree_control")), "+cpu +memory +pids");

        let mut group = groups.make(7, 512).expect("a group");
        let dir = parent.join("7");
        group.add(4_711).expect("added");
        group.limit(1_500, 8 << 30).expect("limited");
        group.give_way().expect("weighed");
        let written = ["cgroup.procs", "pids.max", "memory.oom.group", "cpu.max", "memory.max", "cpu.weight"]
            .map(|file| read(&dir.join(file)));
        assert_eq!(written, ["4711", "512", "1", "150000 100000", "8589934592", "51"]);
        group.limit(1, 8 << 30).expect("limited");
        assert_eq!(read(&dir.join("cpu.max")), "1000 100000", "no less than the kernel takes");
        for (events, is_out) in [("oom 0\noom_kill 0\n", false), ("oom 3\noom_kill 1\n", true)] {
            fs::write(dir.join("memory.events"), events).expect("a file");
            assert_eq!(group.ran_out_of_memory(), is_out, "{events}");
        }
        assert_eq!(group.memory_peak_bytes(), None, "an older kernel");
        for (peak, under_limit) in [("4096\n", 4_096), ("9999999999\n", 8 << 30)] {
            fs::write(dir.join("memory.peak"), peak).expect("a file");
            assert_eq!(group.memory_peak_bytes(), Some(under_limit), "{peak}");
        }
        drop(group);
        assert_eq!(read(&dir.join("cgroup.kill")), "1", "whatever is in it ends with it");
    }

    #[test]
    fn a_place_without_the_controllers_or_the_right_is_refused() {
        let (temp, mounts) = second_version();
        let own = temp.path().join("user.slice/node");
        fs::write(own.join("cgroup.controllers"), "cpu pids\n").expect("a file");
        let refused = v2_place("0::/user.slice/node\n", &mounts).expect_err("no memory controller");
        assert!(refused.to_string().contains("memory"), "{refused}");
        assert!(v2_place("1:cpu:/\n", &mounts).is_err(), "only groups of version 1");
        assert!(v2_place("0::/\n", MOUNTS.lines().next().expect("a line")).is_err(), "not mounted");
    }

    #[test]
    fn groups_of_others_are_neither_used_nor_removed() {
        let temp = tempfile::tempdir().expect("a directory");
        let place = Layout::V2(temp.path().to_owned());
        fs::create_dir(temp.path().join("taken")).expect("a directory");
        assert_eq!(
            try_out(&place, "taken", "/dev/null").expect_err("is there").kind(),
            io::ErrorKind::AlreadyExists
        );
        let groups = Groups { layout: place, swaps: "/dev/null" };
        let error = groups.make(1, 1).and_then(|_| groups.make(1, 1)).expect_err("is there");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        fs::create_dir(temp.path().join("2")).expect("a directory");
        assert!(groups.make(2, 1).is_err() && temp.path().join("2").is_dir());
        assert_ne!(unique_name(), unique_name());
    }

    #[test]
    fn swap_is_forbidden_or_there_is_none() {
        let temp = tempfile::tempdir().expect("a directory");
        let (file, swaps) = (temp.path().join("memory.swap.max"), temp.path().join("swaps"));
        let swaps = swaps.to_str().expect("a text");
        fs::write(swaps, "Filename Type Size Used Priority\n").expect("a file");
        forbid_swap(&file, swaps).expect("no swap to forbid");
        fs::write(swaps, "Filename Type Size Used Priority\n/dev/sda2 partition 8 0 -2\n").expect("a file");
        assert!(forbid_swap(&file, swaps).is_err(), "memory could be moved out of the group's bound");
        fs::write(&file, "max").expect("a file");
        forbid_swap(&file, swaps).expect("forbidden");
        assert_eq!(fs::read_to_string(&file).expect("a file"), "0ax", "written from the start");
        assert!(forbid_swap(temp.path(), swaps).is_err(), "what cannot be written is an error");
    }

    #[test]
    fn groups_of_processes_that_are_no_more_are_stale() {
        assert!(!is_stale(&format!("gristmill-{}-0", std::process::id())));
        assert!(!is_stale(&unique_name()));
        assert!(is_stale("gristmill-4294967295-3"));
        for other in ["gristmill-node", "gristmill-", "4294967295", "system.slice"] {
            assert!(!is_stale(other), "{other}");
        }
    }

    #[test]
    fn mounted_controllers_are_found() {
        let found = |kind, controller| mount_point(MOUNTS, kind, controller);
        assert_eq!(found("cgroup2", None), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(found("cgroup", Some("cpu")), Some("/sys/fs/cgroup/cpu,cpuacct".into()));
        assert_eq!(found("cgroup", Some("memory")), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(found("cgroup", Some("pids")), None);
    }
}
