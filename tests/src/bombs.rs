//! Modules that are valid and small, and that would keep a compiler busy for minutes or make it fill
//! the machine's memory.

/// A number as LEB128.
pub(crate) fn leb(bytes: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return;
        }
        bytes.push(low | 0x80);
    }
}

pub(crate) fn section(to: &mut Vec<u8>, id: u8, content: &[u8]) {
    to.push(id);
    leb(to, content.len());
    to.extend_from_slice(content);
}

/// A command whose functions, all of the type `[] -> []`, have these bodies; the first is `_start`.
pub(crate) fn command<'a>(bodies: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<u8> {
    let (mut functions, mut code) = (Vec::new(), Vec::new());
    leb(&mut functions, bodies.len());
    functions.extend(std::iter::repeat_n(0, bodies.len()));
    leb(&mut code, bodies.len());
    for body in bodies {
        leb(&mut code, body.len());
        code.extend_from_slice(body);
    }
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    section(&mut wasm, 1, &[1, 0x60, 0, 0]);
    section(&mut wasm, 3, &functions);
    section(&mut wasm, 7, &[&[1, 6][..], b"_start", &[0, 0]].concat());
    section(&mut wasm, 10, &code);
    wasm
}

/// Starts a body with so many locals of the type i32.
fn body_with_locals(count: usize) -> Vec<u8> {
    let mut body = vec![1];
    leb(&mut body, count);
    body.push(0x7f);
    body
}

fn alone(body: &[u8]) -> Vec<u8> {
    command(std::iter::once(body))
}

/// So many empty functions.
pub fn empty_functions(count: usize) -> Vec<u8> {
    command(vec![&[0u8, 0x0b][..]; count].into_iter())
}

/// So many functions, each of so many locals that nobody uses.
pub fn unused_locals(functions: usize, locals: usize) -> Vec<u8> {
    let mut body = body_with_locals(locals);
    body.push(0x0b);
    command(vec![&body[..]; functions].into_iter())
}

/// One function of so many additions in a row.
pub fn additions(count: usize) -> Vec<u8> {
    let mut body = vec![0, 0x41, 0];
    body.extend([0x41, 1, 0x6a].repeat(count));
    body.extend([0x1a, 0x0b]);
    alone(&body)
}

/// One function of so many loops in a row, with so many locals.
pub fn loops(count: usize, locals: usize) -> Vec<u8> {
    let mut body = body_with_locals(locals);
    body.extend([0x03, 0x40, 0x0b].repeat(count));
    body.push(0x0b);
    alone(&body)
}

/// One function of so many `if` blocks in a row, with so many locals.
pub fn conditions(count: usize, locals: usize) -> Vec<u8> {
    let mut body = body_with_locals(locals);
    for number in 0..count {
        body.extend([0x20, 0, 0x04, 0x40, 0x20, 1, 0x21]);
        leb(&mut body, number % locals);
        body.push(0x0b);
    }
    body.push(0x0b);
    alone(&body)
}

/// One function of so many loops within each other, each of which changes all of so many locals.
pub fn nested_loops(depth: usize, locals: usize) -> Vec<u8> {
    let mut body = body_with_locals(locals);
    for _ in 0..depth {
        body.extend([0x03, 0x40]);
        for local in 0..locals {
            body.push(0x20);
            leb(&mut body, local);
            body.push(0x20);
            leb(&mut body, (local + 1) % locals);
            body.extend([0x6a, 0x21]);
            leb(&mut body, local);
        }
    }
    for local in 0..depth {
        body.push(0x20);
        leb(&mut body, local % locals);
        body.extend([0x0d, 0, 0x0b]);
    }
    body.push(0x0b);
    alone(&body)
}

/// So many functions, each of one branch to one of so many places.
pub fn branches(functions: usize, targets: usize) -> Vec<u8> {
    let mut body = vec![0, 0x41, 0, 0x0e];
    leb(&mut body, targets);
    body.extend(std::iter::repeat_n(0, targets + 1));
    body.push(0x0b);
    command(vec![&body[..]; functions].into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bombs_are_as_small_as_they_are_said_to_be() {
        let sizes = [
            (empty_functions(900_000), 3_600_000),
            (unused_locals(1_000, 50_000), 7_100),
            (additions(1_700_000), 5_100_000),
            (nested_loops(300, 300), 900_000),
        ];
        for (wasm, about) in sizes {
            let size = wasm.len();
            assert!(wasm.starts_with(b"\0asm") && size > about / 10 * 8 && size < about / 10 * 13, "{size}");
        }
    }
}
