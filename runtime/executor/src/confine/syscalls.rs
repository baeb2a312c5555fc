//! The system calls of a child. Everything else fails with EPERM.
//!
//! The list is what the engine, the language's runtime and the C library were seen to use when they
//! compile and run programs, and what replaces those calls on other versions of the C library.
//! None of them makes a socket, starts or watches a process, loads a program, mounts or loads
//! anything into the kernel.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

/// Calls whose arguments do not matter: memory, threads of this process, time, and open files.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Memory. The engine makes pages executable after it wrote code to them.
    libc::SYS_brk, libc::SYS_madvise, libc::SYS_membarrier, libc::SYS_memfd_create,
    libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_munmap,
    // Threads and signals.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_futex, libc::SYS_getcpu, libc::SYS_getpid,
    libc::SYS_getppid, libc::SYS_gettid, libc::SYS_get_robust_list, libc::SYS_restart_syscall, libc::SYS_rseq,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield, libc::SYS_set_robust_list, libc::SYS_set_tid_address, libc::SYS_sigaltstack,
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
    // Time and randomness.
    libc::SYS_clock_getres, libc::SYS_clock_gettime, libc::SYS_clock_nanosleep, libc::SYS_getrandom,
    libc::SYS_getrusage, libc::SYS_gettimeofday, libc::SYS_nanosleep, libc::SYS_times,
    // Waiting.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_eventfd2, libc::SYS_ppoll,
    // Open descriptors.
    libc::SYS_close, libc::SYS_close_range, libc::SYS_dup, libc::SYS_dup3, libc::SYS_fstat,
    libc::SYS_lseek, libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2, libc::SYS_pwrite64, libc::SYS_pwritev, libc::SYS_pwritev2,
    libc::SYS_read, libc::SYS_readv, libc::SYS_recvmsg, libc::SYS_write, libc::SYS_writev,
    // Files; which ones is decided by the file rules.
    libc::SYS_copy_file_range, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_fadvise64,
    libc::SYS_fallocate, libc::SYS_fdatasync, libc::SYS_fstatfs, libc::SYS_fsync, libc::SYS_ftruncate,
    libc::SYS_getcwd, libc::SYS_getdents64, libc::SYS_linkat, libc::SYS_mkdirat, libc::SYS_newfstatat,
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_readlinkat, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_statx, libc::SYS_symlinkat, libc::SYS_sync_file_range, libc::SYS_unlinkat, libc::SYS_utimensat,
    // What the second stage of the confinement itself needs; it can only forbid more.
    libc::SYS_landlock_add_rule, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_restrict_self,
    libc::SYS_uname, libc::SYS_sysinfo,
];

/// Older names of the same calls, which some C libraries use on this architecture.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_TOO: &[c_long] = &[
    libc::SYS_access, libc::SYS_arch_prctl, libc::SYS_dup2, libc::SYS_epoll_wait, libc::SYS_lstat,
    libc::SYS_mkdir, libc::SYS_open, libc::SYS_poll, libc::SYS_readlink, libc::SYS_rename, libc::SYS_rmdir,
    libc::SYS_stat, libc::SYS_time, libc::SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_TOO: &[c_long] = &[];

/// Absent from the C library's headers of most systems; see the kernel's `linux/prctl.h`.
const PR_GET_AUXV: libc::c_int = 0x4155_5856;

/// Forbids this thread, and those it starts, all other system calls.
pub(super) fn allow_few() -> Result<(), Error> {
    let programs = programs()?;
    programs.iter().try_for_each(|program| apply_filter(program))
}

fn programs() -> Result<[BpfProgram; 2], Error> {
    let forbid = SeccompAction::Errno(libc::EPERM as u32);
    let allowed = SeccompFilter::new(rules()?, forbid, SeccompAction::Allow, arch()?)?;
    // With this answer the C library falls back to the older call, whose flags a filter can see.
    let unknown = SeccompAction::Errno(libc::ENOSYS as u32);
    let of_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let clone3 = SeccompFilter::new(of_clone3, SeccompAction::Allow, unknown, arch()?)?;
    // The strict one comes last: it does not allow a further one.
    Ok([clone3.try_into()?, allowed.try_into()?])
}

fn rules() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, Error> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        ALLOWED.iter().chain(ALLOWED_TOO).map(|&call| (call, Vec::new())).collect();
    // A second answer for it stands in the other filter.
    rules.insert(libc::SYS_clone3, Vec::new());
    // Threads, no processes.
    let thread = u64::from((libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND).cast_unsigned());
    rules.insert(libc::SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // Signals to this process only.
    let own = u64::from(std::process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![when(0, SeccompCmpOp::Eq, own)?]);
    }
    // Limits of this process only.
    rules.insert(libc::SYS_prlimit64, vec![when(0, SeccompCmpOp::Eq, 0)?]);
    rules.insert(libc::SYS_fcntl, commands_of_fcntl()?);
    // Names of threads and of memory, giving up privileges once more, and what the kernel said about
    // this machine at the start.
    let names = [
        libc::PR_SET_NAME,
        libc::PR_SET_VMA,
        libc::PR_SET_NO_NEW_PRIVS,
        libc::PR_GET_NO_NEW_PRIVS,
        PR_GET_AUXV,
    ]
    .map(|option| u64::from(option.cast_unsigned()));
    let names =
        names.map(|option| when(0, SeccompCmpOp::Eq, option)).into_iter().collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_prctl, names);
    // How many bytes can be read, which is asked of pipes and files.
    let questions =
        [libc::FIONREAD, libc::FIONBIO, libc::TCGETS].map(|question| when(1, SeccompCmpOp::Eq, question));
    rules.insert(libc::SYS_ioctl, questions.into_iter().collect::<Result<_, _>>()?);
    Ok(rules)
}

/// Copies and flags of descriptors, and seals of memory files; not whom a descriptor signals, nor that it
/// signals at all.
fn commands_of_fcntl() -> Result<Vec<SeccompRule>, Error> {
    let is = |command: c_int| condition(1, SeccompCmpOp::Eq, u64::from(command.cast_unsigned()));
    let harmless = [
        libc::F_DUPFD,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_ADD_SEALS,
        libc::F_GET_SEALS,
    ];
    let mut commands = harmless
        .into_iter()
        .map(|command| Ok(SeccompRule::new(vec![is(command)?])?))
        .collect::<Result<Vec<_>, Error>>()?;
    let signals = u64::from(libc::O_ASYNC.cast_unsigned());
    let quiet = condition(2, SeccompCmpOp::MaskedEq(signals), 0)?;
    commands.push(SeccompRule::new(vec![is(libc::F_SETFL)?, quiet])?);
    Ok(commands)
}

/// The 32-bit argument number `index` compares so.
fn condition(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?)
}

/// A rule of one condition.
fn when(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, Error> {
    Ok(SeccompRule::new(vec![condition(index, operator, value)?])?)
}

fn arch() -> Result<TargetArch, Error> {
    Ok(std::env::consts::ARCH.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_built_and_allow_nothing_that_reaches_out() {
        let [clone3, allowed] = programs().expect("filters");
        assert!(!allowed.is_empty() && !clone3.is_empty());
        let rules = rules().expect("rules");
        let dangers = [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_ptrace,
            libc::SYS_process_vm_writev,
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_sched_setaffinity,
            libc::SYS_setresuid,
            libc::SYS_mknodat,
            libc::SYS_fchmodat,
            libc::SYS_perf_event_open,
            libc::SYS_keyctl,
        ];
        for danger in dangers {
            assert!(!rules.contains_key(&danger), "{danger}");
        }
    }

    #[test]
    fn descriptors_can_be_copied_but_not_made_to_signal_anybody() {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let tried = move || {
            allow_few().expect("filters");
            let call = |command, argument: c_int| fcntl(&reader, command, argument);
            let own = std::process::id().cast_signed();
            let allowed = [
                call(libc::F_DUPFD_CLOEXEC, 3),
                call(libc::F_GETFL, 0),
                call(libc::F_SETFL, libc::O_NONBLOCK),
                call(libc::F_SETFD, libc::FD_CLOEXEC),
            ];
            let forbidden = [
                call(libc::F_SETFL, libc::O_ASYNC),
                call(libc::F_SETFL, libc::O_NONBLOCK | libc::O_ASYNC),
                call(libc::F_SETOWN, own),
                call(F_SETSIG, libc::SIGKILL),
                call(libc::F_SETLEASE, libc::F_RDLCK),
                call(libc::F_NOTIFY, 1),
                call(libc::F_SETPIPE_SZ, 1 << 20),
            ];
            (allowed, forbidden)
        };
        // The filter holds for a thread, so this one ends with it.
        let (allowed, forbidden) = std::thread::spawn(tried).join().expect("no panic");
        assert!(allowed.iter().all(Result::is_ok), "{allowed:?}");
        assert!(forbidden.iter().all(|result| *result == Err(libc::EPERM)), "{forbidden:?}");
    }

    /// Absent from the headers that `libc` follows; see the kernel's `fcntl.h`.
    const F_SETSIG: c_int = 10;

    #[expect(unsafe_code, reason = "the commands to be refused have no safe wrapper")]
    fn fcntl(of: &impl std::os::fd::AsRawFd, command: c_int, argument: c_int) -> Result<c_int, c_int> {
        // SAFETY: the descriptor is open, and all these commands take a number.
        let result = unsafe { libc::fcntl(of.as_raw_fd(), command, argument) };
        let error = std::io::Error::last_os_error().raw_os_error().unwrap_or_default();
        if result < 0 { Err(error) } else { Ok(result) }
    }
}
