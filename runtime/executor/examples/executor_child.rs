//! A stand-in for the `gristmill` binary in this crate's own tests: the two hidden subcommands, and
//! ways to misbehave.

use std::{os::fd::AsFd as _, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let uid = arguments.pop_if(|last| last.starts_with("--uid=")).and_then(|text| text[6..].parse().ok());
    let way = arguments.first().map_or("", String::as_str);
    if way == "without-landlock" {
        take_away_landlock();
    }
    match arguments.last().map(String::as_str) {
        // As if somebody ended whatever the node starts.
        Some(_) if way == "killed" && is_assigned() => {
            _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            ExitCode::FAILURE
        }
        Some("executor") => match way {
            "silent" if is_assigned() => loop {
                std::thread::park();
            },
            "dies" if is_assigned() => ExitCode::from(3),
            "babbles" if is_assigned() => {
                println!("this is no frame, and it goes on for quite a while, as babble does");
                ExitCode::SUCCESS
            }
            "swells" if is_assigned() => hunger(),
            "spins" if is_assigned() => spin(),
            "bloats" if is_assigned() => {
                let _held = vec![1u8; 200 << 20];
                gristmill_executor::executor_main(uid)
            }
            "leaks" if is_assigned() => {
                std::thread::spawn(leak);
                gristmill_executor::executor_main(uid)
            }
            "inherits" if std::env::vars().count() > 0 || descriptors() != 4 => ExitCode::FAILURE,
            _ => gristmill_executor::executor_main(uid),
        },
        Some("compile") => match way {
            "aborts" => std::process::abort(),
            "hungers" => hunger(),
            "idles" => loop {
                std::thread::park();
            },
            "runs-out-of-memory" => {
                eprintln!("memory allocation of 123 bytes failed");
                std::process::abort()
            }
            _ => gristmill_executor::compile_main(uid),
        },
        _ => ExitCode::from(2),
    }
}

fn hunger() -> ! {
    let mut held = Vec::new();
    loop {
        held.push(vec![1u8; 8 << 20]);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Uses every core, as a host gone wild would.
fn spin() -> ! {
    for _ in 0..4 {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    loop {
        std::thread::park();
    }
}

/// Loses a descriptor now and then.
fn leak() {
    loop {
        std::thread::sleep(std::time::Duration::from_millis(10));
        std::mem::forget(std::io::stderr().as_fd().try_clone_to_owned());
    }
}

/// Makes this process see a kernel without Landlock.
fn take_away_landlock() {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
    let rules = std::collections::BTreeMap::from([(libc::SYS_landlock_create_ruleset, Vec::new())]);
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().expect("an architecture with filters");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, absent, arch).expect("a filter");
    apply_filter(&BpfProgram::try_from(filter).expect("a program")).expect("applied");
}

/// Whether the first order is an assignment, and not only a trial.
fn is_assigned() -> bool {
    let mut kind = [0];
    let stdin = std::io::stdin();
    let received = rustix::net::recv(&stdin, &mut kind, rustix::net::RecvFlags::PEEK);
    received.is_ok() && kind == [3]
}

/// The standard three, and the directory in which it looks.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
