//! What a module may import: the host interfaces that every node provides.

use gristmill_protocol::ErrorCode;

use crate::refusal::Refusal;

/// The core module namespace of WASI preview 1.
const P1: &str = "wasi_snapshot_preview1";

/// Every function of WASI preview 1.
const P1_FUNCTIONS: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// The interfaces of the world `wasi:cli/command` 0.2. Programs with a standard library import the
/// sockets nominally; the sandbox refuses their use.
const P2_INTERFACES: [&str; 28] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
    "wasi:clocks/timezone",
];

fn refused(what: &str, hint: &str) -> Refusal {
    let detail = format!("the module imports {what}, which no node provides");
    Refusal::new(ErrorCode::ImportNotAllowed, detail, hint)
}

/// Checks an import of a core module.
pub(crate) fn check_core(module: &str, name: &str, is_function: bool) -> Result<(), Refusal> {
    if module == P1 && is_function && P1_FUNCTIONS.contains(&name) {
        return Ok(());
    }
    let hint = match module {
        P1 => "only the functions of WASI preview 1 are there",
        "wasi_unstable" => "it is built for the WASI of 2019: rebuild it for wasm32-wasip1",
        "wasi" => "it is built for threads: rebuild it for wasm32-wasip1",
        "env" | "a" => {
            "it is built for a JavaScript host or has undefined symbols: build it as a WASI command \
             (wasm32-wasip1), and link what is missing"
        }
        "gojs" | "go" => "build it with GOOS=wasip1 GOARCH=wasm",
        "wbg" | "__wbindgen_placeholder__" => {
            "it is built for wasm-bindgen: build it as a WASI command (wasm32-wasip1)"
        }
        _ => "build it as a WASI command: wasm32-wasip1, or wasm32-wasip2 for a component",
    };
    let shown: String = format!("{module}.{name}").chars().take(200).collect();
    Err(refused(&shown, hint))
}

/// Checks an import of a component; `is_instance` tells interfaces from bare functions and types.
pub(crate) fn check_component(name: &str, is_instance: bool) -> Result<(), Refusal> {
    let shown: String = name.chars().take(200).collect();
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    if !is_instance || !interface.starts_with("wasi:") {
        return Err(refused(&shown, "compose it with what it needs (wasm-tools compose) first"));
    }
    if !is_0_2(version) {
        return Err(refused(&shown, "nodes provide WASI 0.2: build the component for wasm32-wasip2"));
    }
    if P2_INTERFACES.contains(&interface) {
        return Ok(());
    }
    let hint = if interface.starts_with("wasi:http/") {
        "guests have no network yet; give the data as an input"
    } else {
        "only the interfaces of the world wasi:cli/command 0.2 are there"
    };
    Err(refused(&shown, hint))
}

/// Whether a version text is one of WASI 0.2.
pub(crate) fn is_0_2(version: &str) -> bool {
    semver::Version::parse(version).is_ok_and(|v| v.major == 0 && v.minor == 2 && v.pre.is_empty())
}
