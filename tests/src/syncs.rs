//! What a process makes durable: every `fsync` and `fdatasync` that succeeded, in order, noted by a
//! library that is loaded into it before its own. No tracing is needed, so that it works in any container.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Takes the place of both calls and passes them on.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int noted = -1;

static void note(const char *what) {
    char line[4200];
    int length = snprintf(line, sizeof line, "%s\n", what);
    if (noted >= 0 && write(noted, line, length) != length) abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("GRISTMILL_TEST_SYNCS");
    if (path == NULL) return;
    noted = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    note("loaded");
}

static int passed_on(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real(fd);
    int error = errno;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (result == 0 && length > 0) {
        path[length] = 0;
        note(path);
    }
    errno = error;
    return result;
}

int fsync(int fd) { return passed_on("fsync", fd); }
int fdatasync(int fd) { return passed_on("fdatasync", fd); }
"#;

/// The record of one process and its children.
#[derive(Debug)]
pub struct Syncs {
    library: PathBuf,
    record: PathBuf,
}

impl Syncs {
    /// Builds the library in `dir` with the C compiler that building the product needs, too.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn prepare(dir: &Path) -> Self {
        let (source, library) = (dir.join("syncs.c"), dir.join("syncs.so"));
        std::fs::write(&source, LIBRARY).expect("the directory is writable");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
        let compiled = compile.output().expect("there is a C compiler");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Self { library, record: dir.join("syncs.txt") }
    }

    /// What the process needs in its environment.
    pub fn variables(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("GRISTMILL_TEST_SYNCS".to_owned(), text(&self.record)),
        ]
    }

    /// The paths, at the time of each call, of the files and directories that were made durable so far.
    ///
    /// # Panics
    /// When the library was not loaded, so that nothing would be noted.
    pub fn paths(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.record).unwrap_or_default();
        assert!(text.starts_with("loaded\n"), "the process did not load {}", self.library.display());
        text.lines().filter(|line| *line != "loaded").map(str::to_owned).collect()
    }
}
