//! Many JSON values in one body, taken apart as they come: one a line, or the elements of an array.

use bytes::{Buf as _, Bytes, BytesMut};
use gristmill_protocol::ErrorCode;

use crate::error::ApiError;

/// How the values of a body stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// One a line; empty lines are passed over.
    Lines,
    /// The elements of one array.
    Array,
}

/// Where the reader of an array is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    /// Before an element; `true` when there has to be one.
    Before(bool),
    Inside,
    End,
}

/// Takes values apart without understanding them: an element ends where its brackets are closed. The
/// texts of broken ones are handed out too, for the parser to complain about.
#[derive(Debug)]
pub(super) struct Items {
    layout: Layout,
    place: Place,
    buffer: BytesMut,
    /// Bytes of the buffer that were looked at.
    looked: usize,
    depth: usize,
    in_text: bool,
    escaped: bool,
}

fn broken(why: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, format!("the body is no JSON array: {why}"))
}

impl Items {
    pub(super) fn new(layout: Layout) -> Self {
        let buffer = BytesMut::new();
        let place = Place::Start;
        Self { layout, place, buffer, looked: 0, depth: 0, in_text: false, escaped: false }
    }

    /// Bytes that wait for the rest of their value.
    pub(super) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// Takes the next bytes of the body.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole value; `None` when more bytes are needed. `at_end` says that none follow.
    pub(super) fn next(&mut self, at_end: bool) -> Result<Option<Bytes>, ApiError> {
        match self.layout {
            Layout::Lines => Ok(self.next_line(at_end)),
            Layout::Array => self.next_element(at_end),
        }
    }

    fn next_line(&mut self, at_end: bool) -> Option<Bytes> {
        loop {
            let end = self.buffer[self.looked..].iter().position(|&byte| byte == b'\n');
            let line = match end {
                Some(end) => {
                    let line = self.buffer.split_to(self.looked + end);
                    self.buffer.advance(1);
                    line
                }
                None if at_end && !self.buffer.is_empty() => self.buffer.split(),
                None => {
                    self.looked = self.buffer.len();
                    return None;
                }
            };
            self.looked = 0;
            if !line.trim_ascii().is_empty() {
                return Some(line.freeze());
            }
        }
    }

    fn next_element(&mut self, at_end: bool) -> Result<Option<Bytes>, ApiError> {
        while let Some(&byte) = self.buffer.get(self.looked) {
            match (self.place, byte) {
                (Place::Inside, _) => {
                    if let Some(element) = self.inside(byte) {
                        return Ok(Some(element));
                    }
                    continue;
                }
                (_, b' ' | b'\t' | b'\r' | b'\n') => {}
                (Place::Start, b'[') => self.place = Place::Before(false),
                (Place::Start, _) => return Err(broken("it begins with something else than [")),
                (Place::Before(false), b']') => self.place = Place::End,
                (Place::Before(_), b']' | b',') => return Err(broken("an element is missing")),
                (Place::Before(_), _) => {
                    self.place = Place::Inside;
                    continue;
                }
                (Place::End, _) => return Err(broken("something follows its end")),
            }
            self.buffer.advance(1);
        }
        if at_end && self.place != Place::End {
            return Err(broken("it ends before its ]"));
        }
        Ok(None)
    }

    /// Looks at one byte of an element; the element, if that is complete.
    fn inside(&mut self, byte: u8) -> Option<Bytes> {
        if self.in_text {
            self.in_text = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
        } else {
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => self.depth += 1,
                b',' | b']' if self.depth == 0 => {
                    let element = self.buffer.split_to(self.looked);
                    self.buffer.advance(1);
                    self.looked = 0;
                    self.place = if byte == b',' { Place::Before(true) } else { Place::End };
                    return Some(element.freeze());
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        self.looked += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All values of a body that comes in pieces of a size.
    fn taken(layout: Layout, body: &str, size: usize) -> Result<Vec<String>, String> {
        let mut items = Items::new(layout);
        let mut found = Vec::new();
        let mut take = |items: &mut Items, at_end| {
            while let Some(item) = items.next(at_end).map_err(|error| error.detail)? {
                found.push(String::from_utf8_lossy(&item).trim().to_owned());
            }
            Ok::<_, String>(())
        };
        for piece in body.as_bytes().chunks(size) {
            items.push(piece);
            take(&mut items, false)?;
        }
        take(&mut items, true)?;
        Ok(found)
    }

    #[test]
    fn lines_and_elements_are_found_however_the_body_is_cut() {
        let lines = "{\"a\": 1}\n\n  \r\n{\"b\":\"x\\ny\"}\r\n[1,2]";
        let array = " [ {\"a\":[1,{\"b\":2}]} ,\n\"t,]\\\"\\\\\",7 , [[],{}]] \n";
        for size in 1..40 {
            let found = taken(Layout::Lines, lines, size).expect("lines");
            assert_eq!(found, ["{\"a\": 1}", "{\"b\":\"x\\ny\"}", "[1,2]"], "{size}");
            let found = taken(Layout::Array, array, size).expect("an array");
            assert_eq!(found, ["{\"a\":[1,{\"b\":2}]}", "\"t,]\\\"\\\\\"", "7", "[[],{}]"], "{size}");
        }
        assert_eq!(taken(Layout::Array, "[]", 1), Ok(vec![]));
        assert_eq!(taken(Layout::Lines, "", 1), Ok(vec![]));
    }

    #[test]
    fn what_is_no_array_is_refused() {
        for body in ["", "{}", "[1", "[1,]", "[,1]", "[1] 2", "[{]", "[\"]", "[[1]"] {
            for size in [1, 3, 100] {
                assert!(taken(Layout::Array, body, size).is_err(), "{body}");
            }
        }
    }
}
