//! Every hostile input of the list, and the files in which it is a test. The name of a test begins
//! with its number.

use gristmill_tests::repository;

use crate::tidy::sources;

/// Requests, through the server's own interface and on a socket.
const API: &str = "control-plane/server/tests/it/hostile_api.rs";
const NODE: &str = "control-plane/server/tests/it/hostile_node.rs";
const WIRE: &str = "control-plane/server/tests/it/hostile_wire.rs";
/// Archives.
const TREES: &str = "sdk/tree/src/unpack_tests.rs";
/// Publishing, through the server's own interface.
const PARSE: &str = "control-plane/server/tests/it/hostile_parse.rs";
/// Compiling, in the child that does it.
const COMPILE: &str = "runtime/executor/tests/it/hostile_compile.rs";
/// What the node makes of bytes that the server gives it.
const STAGING: &str = "runtime/node/tests/it/protocol.rs";
/// Runs in a process that serves others afterwards.
const RUNS: &str = "runtime/executor/tests/it/runs.rs";
/// What a guest computes and how it ends.
const CPU: &str = "runtime/sandbox/tests/it/hostile/cpu.rs";
const MEMORY: &str = "runtime/sandbox/tests/it/hostile/memory.rs";
const FILES: &str = "runtime/sandbox/tests/it/hostile/files.rs";
const LISTING: &str = "runtime/sandbox/src/host/listing.rs";
const PATHS: &str = "runtime/sandbox/tests/it/hostile/paths.rs";
const OUTPUT: &str = "runtime/sandbox/tests/it/hostile/output.rs";
const HOST_API: &str = "runtime/sandbox/tests/it/hostile/host_api.rs";
const COMPONENTS: &str = "runtime/sandbox/tests/it/hostile/components.rs";
/// Outputs on the node.
const COLLECT: &str = "runtime/node/src/attempt/collect.rs";
/// Where a job may run.
const PLACEMENT: &str = "control-plane/lifecycle/tests/it/placement.rs";
/// What a terminal shows.
const TERMINAL: &str = "sdk/cli/src/harmless.rs";
/// The whole system.
const JOBS: &str = "tests/it/hostile/jobs.rs";
const CRASHES: &str = "tests/it/hostile/crashes.rs";
const SLOT: &str = "tests/it/hostile/memory.rs";
const UPLOADS: &str = "tests/it/hostile/uploads.rs";

/// Numbers that wait for what they are about: signatures (23), Windows (55), masked secrets (65) and
/// the network (66 to 74).
const LATER: [u8; 12] = [23, 55, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74];

const TESTED: [(u8, &[&str]); 72] = [
    (1, &[PARSE]),                 // an empty file
    (2, &[PARSE]),                 // no WASM, native code, compiled code
    (3, &[PARSE]),                 // text
    (4, &[PARSE]),                 // cut or flipped at any byte
    (5, &[PARSE]),                 // one byte above the size limit
    (6, &[PARSE, UPLOADS]),        // counts that overflow
    (7, &[PARSE]),                 // a million of anything
    (8, &[PARSE, COMPILE]),        // locals and blocks that exhaust the compiler
    (9, &[PARSE, COMPILE]),        // one huge straight-line function
    (10, &[PARSE]),                // nested blocks
    (11, &[PARSE]),                // branch tables
    (12, &[PARSE]),                // nested component types
    (13, &[COMPILE]),              // a compiler that crashes
    (14, &[PARSE]),                // sections out of order, names that are no text
    (15, &[PARSE]),                // a gigabyte that is only declared
    (16, &[PARSE]),                // junk in custom sections
    (17, &[PARSE]),                // features that are off
    (18, &[PARSE]),                // imports that nothing provides
    (19, &[CPU, JOBS]),            // imports of the wrong type
    (20, &[PARSE]),                // no entry
    (21, &[CPU]),                  // a start function that does not end
    (22, &[PARSE, STAGING]),       // bytes of another digest
    (24, &[PARSE]),                // WASM that is also a page or an archive
    (25, &[CPU]),                  // a loop, by fuel
    (26, &[CPU]),                  // a loop, by wall time
    (27, &[CPU]),                  // recursion
    (28, &[CPU]),                  // mutual recursion and tail calls
    (29, &[COMPONENTS]),           // host and guest that call each other
    (30, &[CPU]),                  // giant bulk operations
    (31, &[CPU]),                  // operations whose fuel is cheap
    (32, &[CPU]),                  // a sleep without end
    (33, &[CPU]),                  // a hundred thousand subscriptions
    (34, &[CPU]),                  // a blocked read
    (35, &[CPU]),                  // a guest that ignores a cancel
    (36, &[CPU]),                  // bits of NaNs
    (37, &[MEMORY]),               // a minimum above the limit
    (38, &[MEMORY]),               // growing without end
    (39, &[MEMORY, SLOT]),         // touching all of it
    (40, &[MEMORY]),               // tables, references and exceptions
    (41, &[MEMORY]),               // many memories and instances
    (42, &[MEMORY]),               // every kind of fault
    (43, &[MEMORY]),               // edges of a memory
    (44, &[MEMORY]),               // residue of another guest
    (45, &[MEMORY]),               // residue of the same module
    (46, &[PATHS]),                // paths that lead out
    (47, &[PATHS]),                // links, renames and races
    (48, &[PATHS]),                // cutting what is read-only
    (49, &[FILES]),                // open files without end
    (50, &[FILES, RUNS]),          // descriptors moved about and closed twice
    (51, &[FILES]),                // filling the disk with bytes
    (52, &[FILES]),                // filling the disk with names
    (53, &[FILES]),                // sparse files
    (54, &[FILES, LISTING]),       // huge directories
    (56, &[COLLECT]),              // outputs that are no files
    (57, &[JOBS]),                 // outputs with evil names
    (58, &[OUTPUT]),               // ten gibibytes of log
    (59, &[OUTPUT, JOBS]),         // ten million tiny writes, and the neighbours
    (60, &[TERMINAL, JOBS]),       // escape sequences
    (61, &[JOBS]),                 // markup
    (62, &[TERMINAL, JOBS]),       // bytes that are no text
    (63, &[JOBS]),                 // forged markers
    (64, &[OUTPUT]),               // odd exit codes
    (75, &[HOST_API]),             // bad pointers
    (76, &[HOST_API]),             // random bytes without end
    (77, &[COMPONENTS]),           // leaked resources
    (78, &[COMPONENTS]),           // strings that are none
    (79, &[COMPONENTS]),           // enums and handles that are none
    (80, &[COMPONENTS]),           // giant lists
    (81, &[HOST_API, COMPONENTS]), // calls that are cut off
    (82, &[JOBS]),                 // two tenants in one process
    (83, &[CRASHES]),              // a module that always crashes
    (84, &[PLACEMENT, NODE]),      // a node that lacks a feature
];

/// Bad requests, in the same way.
const REQUESTS: [(u8, &[&str]); 24] = [
    (1, &[API]),    // JSON nested too deeply
    (2, &[API]),    // keys that are there twice
    (3, &[API]),    // numbers that are none
    (4, &[API]),    // unknown fields
    (5, &[API]),    // credentials
    (6, &[API]),    // what belongs to another tenant
    (7, &[NODE]),   // what belongs to another zone
    (8, &[API]),    // idempotency keys
    (9, &[API]),    // limits outside their range
    (10, &[API]),   // names
    (11, &[API]),   // signs of SQL
    (12, &[API]),   // page tokens
    (13, &[API]),   // paths that lead elsewhere
    (14, &[WIRE]),  // lengths that lie
    (15, &[API]),   // compressed bodies
    (16, &[API]),   // content types
    (17, &[API]),   // methods
    (18, &[API]),   // other origins
    (19, &[API]),   // ranges
    (20, &[TREES]), // archives that lead out
    (21, &[NODE]),  // leases that are stale or forged
    (22, &[NODE]),  // renewals of what has ended
    (23, &[NODE]),  // reports that change
    (24, &[NODE]),  // results that are too large
];

/// The numbers in the names of a file's tests that begin with a letter, sorted.
fn numbers(letter: char, text: &str) -> Vec<u8> {
    let start = format!("fn {letter}");
    let starts = text.match_indices(&start).filter_map(|(at, _)| text.get(at + 4..at + 7));
    let mut found: Vec<u8> =
        starts.filter(|name| name.ends_with('_')).filter_map(|name| name[..2].parse().ok()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn every_hostile_input_is_tested_in_exactly_the_files_of_the_list() {
    let mut listed: Vec<u8> = TESTED.iter().map(|(number, _)| *number).chain(LATER).collect();
    listed.sort_unstable();
    assert_eq!(listed, (1..=84).collect::<Vec<u8>>(), "the list names each number once");
    let listed: Vec<u8> = REQUESTS.iter().map(|(number, _)| *number).collect();
    assert_eq!(listed, (1..=24).collect::<Vec<u8>>(), "the list of requests names each number once");
    for (path, text) in sources(".", ".rs") {
        let shown = crate::tidy::shown(&path);
        let here = |files: &[&str]| files.iter().any(|file| *file == shown);
        for (letter, list) in [('h', &TESTED[..]), ('a', &REQUESTS[..])] {
            let expected: Vec<u8> =
                list.iter().filter(|(_, files)| here(files)).map(|(number, _)| *number).collect();
            assert_eq!(numbers(letter, &text), expected, "{shown}");
        }
    }
    for (number, files) in TESTED.into_iter().chain(REQUESTS) {
        for file in files {
            assert!(repository().join(file).is_file(), "{number}: there is no {file}");
        }
    }
    let changelog = std::fs::read_to_string(repository().join("CHANGELOG.md")).expect("it is there");
    let (tested, later) = (TESTED.len(), LATER.len());
    let said = format!("{tested} of {} are tests, each with its outcome; {later} are about", tested + later);
    assert!(changelog.contains(&said), "CHANGELOG.md does not say: {said}");
}
