//! Modules of nearly the largest size that is allowed.

use crate::bombs::{command, leb, section};

/// A command of so many bytes of code, in functions of 64 KiB that nothing calls.
pub fn code(bytes: usize) -> Vec<u8> {
    const BODY_BYTES: usize = 64 << 10;
    // No locals; `i32.const 0; drop` again and again; the end.
    let body = [&[0][..], &[0x41, 0, 0x1a].repeat((BODY_BYTES - 8) / 3), &[0x0b]].concat();
    let start: &[u8] = &[0, 0x0b];
    let bodies = std::iter::once(start).chain(std::iter::repeat_n(&body[..], bytes / BODY_BYTES));
    command(bodies.collect::<Vec<_>>().into_iter())
}

/// A command of so many bytes of data, in passive segments of 4 KiB, that ends at once.
pub fn data(bytes: usize) -> Vec<u8> {
    const SEGMENT_BYTES: usize = 4 << 10;
    let mut segment = vec![1];
    leb(&mut segment, SEGMENT_BYTES);
    let count = bytes / SEGMENT_BYTES;
    let mut content = Vec::with_capacity(bytes + 16 * count);
    leb(&mut content, count);
    for number in 0..count {
        content.extend_from_slice(&segment);
        content.extend((number as u64).to_le_bytes().iter().cycle().take(SEGMENT_BYTES));
    }
    let start: &[u8] = &[0, 0x0b];
    let mut wasm = command([start].into_iter());
    section(&mut wasm, 11, &content);
    wasm
}
