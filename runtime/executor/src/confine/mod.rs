//! What a child does to itself, in two stages, before it reads the first byte that is not the node's.
//!
//! At its start: it ties its life to the node's, takes its own user id, gives up what it never needs, and
//! forbids itself all system calls outside a list. At its assignment to a tenant: it forbids itself
//! all files outside that tenant's directories. Neither can be undone.

mod files;
mod syscalls;

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::Duration,
};

use gristmill_channel::{AssignSpec, Confinement};
use rustix::{
    fs::{FlockOperation, OFlags, fcntl_getfl, fcntl_lock, fcntl_setfl},
    net::{AddressFamily, SocketType, socket},
    process::{
        DumpableBehavior, Gid, Pid, Resource, Rlimit, Signal, Uid, geteuid, getppid, getrlimit, nice,
        prlimit, set_dumpable_behavior, set_parent_process_death_signal, setrlimit, test_kill_process,
    },
    thread::{
        CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use crate::outer;

/// Most descriptors that a child may hold, its own included. The limit on a guest's handles is
/// the sandbox's and comes first.
const OPEN_FILES_MAX: u64 = 1 << 20;

/// A process of the superuser that cannot take another user id gives up at least these.
const NO_CAPABILITIES: CapabilitySets = CapabilitySets {
    effective: CapabilitySet::empty(),
    permitted: CapabilitySet::empty(),
    inheritable: CapabilitySet::empty(),
};

/// The first stage. To be called before any thread is started. `uid` is the user and group to
/// become. What cannot be reached is missing in the answer; the node knows what to expect.
pub(crate) fn at_start(uid: Option<u32>) -> Confinement {
    // When memory runs out, guests go before the node. Not all kernels and containers allow it.
    _ = std::fs::write("/proc/self/oom_score_adj", "500");
    or_warn("have no privileges to regain", empty_bounding_set());
    let own_uid = uid.is_some_and(|uid| or_warn("take a user id of its own", take_user_id(uid)));
    // A change of the user id undoes the signal, so it is asked for after that.
    let parent = getppid();
    or_warn("die with the node", set_parent_process_death_signal(Some(Signal::KILL)));
    if getppid() != parent {
        std::process::abort();
    }
    or_warn("give up privileges", set_capabilities(None, NO_CAPABILITIES));
    or_warn("be closed to debuggers", set_dumpable_behavior(DumpableBehavior::NotDumpable));
    or_warn("write no core file", limit(Resource::Core, 0));
    or_warn("hold a bounded number of descriptors", raise_open_files());
    ignore_file_size_signal();
    or_warn("gain no privileges", set_no_new_privs(true));
    let seccomp = or_warn("use few system calls", syscalls::allow_few());
    Confinement { seccomp, landlock_abi: 0, own_uid }
}

/// The second stage, before any thread is started: no file but what lies in the directories that
/// came with the assignment. The answer is what holds now, which may be less than is expected.
pub(crate) fn at_assignment(
    reached: Confinement,
    spec: &AssignSpec,
    mut directories: Vec<OwnedFd>,
) -> Confinement {
    let writable = directories.split_off(spec.readable.min(directories.len()));
    let landlock_abi = match files::allow_only(&directories, &writable) {
        Ok(abi) => abi,
        Err(error) => {
            or_warn("keep to its files", Err(error));
            0
        }
    };
    Confinement { landlock_abi, ..reached }
}

/// Tries what must not work. The answer says what was really prevented.
pub(crate) fn try_out(claimed: Confinement, uid: Option<u32>) -> Confinement {
    let reaches_out = [AddressFamily::INET, AddressFamily::UNIX, AddressFamily::NETLINK]
        .into_iter()
        .any(|family| socket(family, SocketType::STREAM, None).is_ok());
    let starts_programs =
        Command::new("/proc/self/exe").arg("--version").stdout(Stdio::null()).spawn().is_ok();
    let reaches_node = getppid().is_some_and(|node| test_kill_process(node).is_ok() || limits(node));
    let abuses_descriptors = fcntl_lock(io::stdout(), FlockOperation::NonBlockingLockExclusive).is_ok()
        || fcntl_getfl(io::stdin()).is_ok_and(|flags| fcntl_setfl(io::stdin(), flags | signalling()).is_ok());
    let reads_files = ["/proc/self/status", "/etc/passwd", "/"].iter().any(|path| File::open(path).is_ok());
    let own = geteuid().as_raw();
    Confinement {
        seccomp: claimed.seccomp && !reaches_out && !starts_programs && !reaches_node && !abuses_descriptors,
        landlock_abi: if reads_files { 0 } else { claimed.landlock_abi },
        own_uid: claimed.own_uid && uid == Some(own),
    }
}

/// Whether this process can set limits of another one; it tries the one that is in force.
fn limits(other: Pid) -> bool {
    prlimit(Some(other), Resource::Core, getrlimit(Resource::Core)).is_ok()
}

/// The flag of a descriptor that sends a signal to whoever is named as its owner.
fn signalling() -> OFlags {
    OFlags::from_bits_retain(libc::O_ASYNC.cast_unsigned())
}

/// Leaves no capability that any program started from here could ever have. Who lacks the right to do
/// that lacks the others too.
fn empty_bounding_set() -> rustix::io::Result<()> {
    if !capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // The kernel has no more.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives up every group and user id but `uid`. Only this thread changes, so it has to be the only one.
fn take_user_id(uid: u32) -> rustix::io::Result<()> {
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(user, user, user)
}

/// Has this process, and every thread that it starts from now on, give way to others. To be called before
/// system calls are forbidden.
pub(crate) fn give_way() {
    or_warn("give way to guests", nice(outer::NICE).map(|_| ()));
}

/// Lets this process use no more CPU time, over all its threads.
pub(crate) fn limit_cpu(time: Duration) {
    or_warn("use bounded CPU time", limit(Resource::Cpu, time.as_secs() + 1));
}

/// Lets this process use no more address space.
pub(crate) fn limit_address_space(bytes: u64) {
    or_warn("use bounded address space", limit(Resource::As, bytes));
}

/// Lets this process make no file longer than this, from now on.
pub(crate) fn limit_output(bytes: u64) {
    or_warn("write bounded output", limit(Resource::Fsize, bytes));
}

/// Lets this process make no file longer than this: the fence behind the disk limit.
pub(crate) fn limit_file_size(bytes: u64) {
    let hard = getrlimit(Resource::Fsize).maximum;
    let soft = hard.map_or(bytes, |hard| bytes.min(hard));
    or_warn("write bounded files", setrlimit(Resource::Fsize, Rlimit { current: Some(soft), maximum: hard }));
}

fn limit(resource: Resource, value: u64) -> rustix::io::Result<()> {
    let hard = getrlimit(resource).maximum;
    let value = hard.map_or(value, |hard| value.min(hard));
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

fn raise_open_files() -> rustix::io::Result<()> {
    limit(Resource::Nofile, OPEN_FILES_MAX)
}

/// Whether it worked. A step that did not is one fence less behind others, so it is only reported.
fn or_warn<E: std::fmt::Display>(what: &str, result: Result<(), E>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            // Children have no log of their own: the node passes on what they write here.
            eprintln!("a child process could not be made to {what}: {error}");
            false
        }
    }
}

/// A write beyond the file-size limit is an error for the guest and not the end of the process.
#[expect(unsafe_code, reason = "no safe wrapper of signal(2) exists among the dependencies")]
fn ignore_file_size_signal() {
    // SAFETY: SIG_IGN is a valid disposition and installs no code.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
