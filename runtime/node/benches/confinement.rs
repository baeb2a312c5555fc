//! What it costs to make sure that compiled code is the node's own: reading a file once through
//! HMAC-SHA256, as the cache does at its first use after a start, and looking at the stamp of an open
//! file, as it does each time after that.
//!
//! `cargo bench --workspace --bench confinement`

use std::{
    fs::{self, File},
    hint::black_box,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;

/// About what the compiled code of a large module has.
const BYTES: usize = 64 << 20;
const ROUNDS: usize = 9;
const LOOKS: u32 = 10_000;

fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("code");
    fs::write(&path, vec![0x5a; BYTES]).expect("a file");
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    let mut times: Vec<_> = (0..ROUNDS).map(|_| timed(|| _ = black_box(proof(&key, &path)))).collect();
    times.sort();
    let per_mib = times[ROUNDS / 2].as_secs_f64() * 1e3 / (BYTES >> 20) as f64;
    println!("{:<56} {per_mib:.3} ms", "cache check: a mebibyte of compiled code, once per start");
    let looks = timed(|| {
        for _ in 0..LOOKS {
            let metadata = File::open(&path).and_then(|file| file.metadata()).expect("the file");
            black_box((metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec()));
        }
    });
    let each = looks.as_secs_f64() * 1e6 / f64::from(LOOKS);
    println!("{:<56} {each:.2} us", "cache check: code that was checked before");
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn proof(key: &hmac::Key, path: &std::path::Path) -> hmac::Tag {
    let file = File::open(path).expect("the file");
    let mut context = hmac::Context::with_key(key);
    let (mut buffer, mut offset) = (vec![0; 256 << 10], 0);
    loop {
        match file.read_at(&mut buffer, offset).expect("is read") {
            0 => return context.sign(),
            count => {
                context.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
}
