//! Texts and logs made by guests, made harmless for a terminal. Pipes and files get them raw.

use std::fmt::Write as _;

/// Whether a character could move the cursor, change the terminal or reorder what is read.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '\r' => out.push_str("\\r"),
        c if (c as u32) < 0x100 => {
            let _ = write!(out, "\\x{:02x}", c as u32);
        }
        c => {
            let _ = write!(out, "\\u{{{:x}}}", c as u32);
        }
    }
}

/// One line of text in which every control and direction character is written out.
pub(crate) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if is_dangerous(c) => push_escaped(&mut out, c),
            c => out.push(c),
        }
    }
    out
}

/// Makes a byte stream harmless piece by piece; newlines and tabs stay. A character that is cut
/// between two pieces is put together again, and bytes that are no UTF-8 are written out.
#[derive(Debug, Default)]
pub(crate) struct StreamFilter {
    rest: Vec<u8>,
}

impl StreamFilter {
    /// What to show for the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) -> String {
        let joined;
        let bytes = if self.rest.is_empty() {
            piece
        } else {
            self.rest.extend_from_slice(piece);
            joined = std::mem::take(&mut self.rest);
            &joined
        };
        let mut out = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            push_text(&mut out, chunk.valid());
            let unfinished = chunks.peek().is_none() && is_unfinished(chunk.invalid());
            if unfinished {
                self.rest = chunk.invalid().to_vec();
            } else {
                push_raw(&mut out, chunk.invalid());
            }
        }
        out
    }

    /// What to show for bytes that waited for their rest in vain.
    pub(crate) fn finish(&mut self) -> String {
        let mut out = String::new();
        push_raw(&mut out, &std::mem::take(&mut self.rest));
        out
    }
}

fn push_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            c if is_dangerous(c) => push_escaped(out, c),
            c => out.push(c),
        }
    }
}

fn push_raw(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(out, "\\x{byte:02x}");
    }
}

/// Whether more bytes could still complete these to a character.
fn is_unfinished(bytes: &[u8]) -> bool {
    !bytes.is_empty() && std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h60_escape_sequences_and_direction_marks_are_written_out() {
        assert_eq!(harmless("a\u{1b}]52;c;x\u{7}b"), "a\\x1b]52;c;x\\x07b");
        assert_eq!(harmless("evil\u{202e}txt.exe\n"), "evil\\u{202e}txt.exe\\n");
        assert_eq!(harmless("Grüße 😀"), "Grüße 😀");
    }

    #[test]
    fn a_character_cut_between_pieces_is_shown_whole() {
        let bytes = "ä€😀\n".as_bytes();
        for cut in 0..bytes.len() {
            let mut filter = StreamFilter::default();
            let shown = filter.push(&bytes[..cut]) + &filter.push(&bytes[cut..]) + &filter.finish();
            assert_eq!(shown, "ä€😀\n", "cut at {cut}");
        }
    }

    #[test]
    fn h62_bytes_that_are_no_text_are_written_out_and_never_lost() {
        let mut filter = StreamFilter::default();
        assert_eq!(filter.push(b"x\xff\x1b[2Jy\xe2"), "x\\xff\\x1b[2Jy");
        assert_eq!(filter.finish(), "\\xe2");
    }
}
