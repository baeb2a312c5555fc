//! Directories, disks and limits of this machine.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use gristmill_protocol::units::format_bytes;
use rustix::{
    fs::statvfs,
    process::{Resource, geteuid, getrlimit},
};

use super::Check;
use crate::{bench::baseline::fsyncs_per_second, configuration::Loaded, environment};

/// Below this much free space jobs with ordinary limits begin to fail.
const SPACE_LOW: u64 = 10 << 30;
/// Below this the server itself cannot be trusted to go on.
const SPACE_LEAST: u64 = 1 << 30;
/// Durable writes a second below which the queue is slow.
const SYNCS_LOW: f64 = 50.0;
/// How long the disk is measured.
const SYNC_TIME: Duration = Duration::from_millis(500);
/// Open files that a node with a few slots, or a server with its connections, is sure to get by with.
const OPEN_FILES_LOW: u64 = 4_096;

/// A directory that a command would use.
pub(super) struct Place {
    /// The setting, for people.
    what: &'static str,
    path: PathBuf,
    /// Whether a database lies in it.
    has_database: bool,
}

/// The directories that this machine's settings name; those of the private instance when none are.
pub(super) fn directories(loaded: &Loaded) -> anyhow::Result<Vec<Place>> {
    let settings = &loaded.settings;
    let mut places = Vec::new();
    let named = [
        ("server.data", &settings.server.data, true),
        ("node.state", &settings.node.state, false),
        ("dev.data", &settings.dev.data, true),
    ];
    for (what, path, has_database) in named {
        if let Some(path) = path {
            places.push(Place { what, path: std::path::absolute(path)?, has_database });
        }
    }
    if places.is_empty() {
        places.push(Place { what: "data directory", path: environment::data_dir()?, has_database: true });
    }
    Ok(places)
}

/// Permissions, space, speed and file system of one directory, or of where it would be made.
pub(super) fn directory(place: &Place) -> Vec<Check> {
    let existing = place.path.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let mut checks = vec![permissions(place, existing)];
    let is_writable = tempfile::tempdir_in(existing).is_ok();
    checks.extend(space(existing));
    if is_writable {
        checks.push(syncs(existing));
    }
    if place.has_database {
        checks.push(file_system(existing));
    }
    checks
}

fn permissions(place: &Place, existing: &Path) -> Check {
    const NAME: &str = "directory";
    let shown = format!("{} {}", place.what, place.path.display());
    if let Err(error) = tempfile::tempdir_in(existing) {
        let advice = format!("make {} writable for this user, or name another directory", existing.display());
        return Check::failed(
            NAME,
            format!("{shown}: nothing can be made in {}: {error}", existing.display()),
            advice,
        );
    }
    if existing != place.path {
        return Check::ok(NAME, format!("{shown} will be made"));
    }
    match fs::metadata(existing) {
        Ok(meta) if meta.uid() != geteuid().as_raw() => {
            let advice = "run Gristmill as the user who owns it";
            Check::warning(NAME, format!("{shown} belongs to another user"), advice)
        }
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => Check::warning(
            NAME,
            format!("{shown} can be entered by others"),
            format!("chmod 700 {}", existing.display()),
        ),
        _ => Check::ok(NAME, format!("{shown} is private")),
    }
}

fn space(dir: &Path) -> Option<Check> {
    let stat = statvfs(dir).ok()?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let detail = format!("{} free at {}", format_bytes(free), dir.display());
    let advice = "make room; a job may write 10 GiB unless it says less";
    Some(match free {
        free if free < SPACE_LEAST => Check::failed("disk space", detail, advice),
        free if free < SPACE_LOW => Check::warning("disk space", detail, advice),
        _ => Check::ok("disk space", detail),
    })
}

fn syncs(dir: &Path) -> Check {
    const NAME: &str = "disk speed";
    let measured = tempfile::tempdir_in(dir)
        .map_err(anyhow::Error::from)
        .and_then(|temporary| fsyncs_per_second(temporary.path(), SYNC_TIME));
    match measured {
        Ok(rate) if rate < SYNCS_LOW => Check::warning(
            NAME,
            format!("{rate:.0} durable writes a second at {}", dir.display()),
            "put the data on a local SSD; every accepted job waits for one durable write",
        ),
        Ok(rate) => Check::ok(NAME, format!("{rate:.0} durable writes a second at {}", dir.display())),
        Err(error) => {
            Check::failed(NAME, format!("{}: {error}", dir.display()), "check the disk and its mount")
        }
    }
}

fn file_system(dir: &Path) -> Check {
    const NAME: &str = "file system";
    let mounts = fs::read_to_string("/proc/self/mountinfo");
    let resolved = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let kind = mounts.map_err(drop).ok().and_then(|text| file_system_of(&text, &resolved));
    judge_file_system(NAME, kind.as_deref(), dir)
}

fn judge_file_system(name: &'static str, kind: Option<&str>, dir: &Path) -> Check {
    const NETWORK: [&str; 14] = [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "ceph",
        "lustre",
        "gpfs",
        "beegfs",
        "glusterfs",
        "afs",
        "ocfs2",
        "vboxsf",
    ];
    let shown = dir.display();
    match kind {
        None => Check::ok(name, format!("that of {shown} is unknown; it has to be a local one")),
        Some(kind) if NETWORK.contains(&kind) || kind.starts_with("fuse.") => Check::warning(
            name,
            format!("{shown} is on {kind}; SQLite's log is not safe on network file systems"),
            "put the data directory on a local disk",
        ),
        Some(kind @ ("tmpfs" | "ramfs")) => Check::warning(
            name,
            format!("{shown} is in memory ({kind}); accepted jobs are lost when the machine stops"),
            "put the data directory on a disk",
        ),
        Some(kind) => Check::ok(name, format!("{shown} is on {kind}")),
    }
}

/// The type of the mount that holds a path: the deepest mount point above it, the last one mounted
/// there.
fn file_system_of(mountinfo: &str, path: &Path) -> Option<String> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?.replace("\\040", " ");
        Some((PathBuf::from(point), right.split(' ').next()?.to_owned()))
    });
    let above = mounts.filter(|(point, _)| path.starts_with(point));
    above.max_by_key(|(point, _)| point.components().count()).map(|(_, kind)| kind)
}

/// How many files a process may have open.
pub(super) fn open_files() -> Check {
    judge_open_files(getrlimit(Resource::Nofile).current)
}

fn judge_open_files(limit: Option<u64>) -> Check {
    match limit {
        Some(limit) if limit < OPEN_FILES_LOW => Check::warning(
            "open files",
            format!("a process may have {limit} open"),
            "raise it: `ulimit -n 65536`, or LimitNOFILE= of the service",
        ),
        Some(limit) => Check::ok("open files", format!("a process may have {limit} open")),
        None => Check::ok("open files", "without a limit"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn the_deepest_mount_names_the_file_system() {
        let mounts = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /data rw shared:1 - nfs4 host:/x rw\n\
                      3 1 0:6 / /with\\040blank rw - tmpfs none rw\n";
        let of = |path: &str| file_system_of(mounts, Path::new(path));
        assert_eq!(of("/data/gristmill").as_deref(), Some("nfs4"));
        assert_eq!(of("/database").as_deref(), Some("ext4"));
        assert_eq!(of("/with blank/x").as_deref(), Some("tmpfs"));
    }

    #[test]
    fn a_database_on_a_network_or_in_memory_is_warned_of() {
        let verdict = |kind| judge_file_system("f", kind, Path::new("/d")).verdict;
        for kind in ["nfs4", "cifs", "fuse.sshfs", "tmpfs"] {
            assert_eq!(verdict(Some(kind)), Verdict::Warning, "{kind}");
        }
        assert_eq!((verdict(Some("xfs")), verdict(None)), (Verdict::Ok, Verdict::Ok));
    }

    #[test]
    fn few_open_files_are_warned_of() {
        let verdicts = [Some(1_024), Some(65_536), None].map(|limit| judge_open_files(limit).verdict);
        assert_eq!(verdicts, [Verdict::Warning, Verdict::Ok, Verdict::Ok]);
    }

    #[test]
    fn a_directory_is_private_open_to_others_or_cannot_be_made() {
        let temp = tempfile::tempdir().expect("a directory");
        let at = |path: PathBuf| {
            permissions(
                &Place { what: "server.data", path: path.clone(), has_database: true },
                path.ancestors().find(|dir| dir.is_dir()).expect("the root"),
            )
        };
        let set =
            |mode| fs::set_permissions(temp.path(), fs::Permissions::from_mode(mode)).expect("own directory");
        set(0o700);
        assert_eq!(at(temp.path().to_owned()).verdict, Verdict::Ok);
        assert!(at(temp.path().join("new")).detail.ends_with("will be made"));
        set(0o755);
        assert_eq!(at(temp.path().to_owned()).verdict, Verdict::Warning);
        assert_eq!(at("/proc/new".into()).verdict, Verdict::Failed);
    }
}
