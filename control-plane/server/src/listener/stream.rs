//! The bytes of one connection: a peer that does not take its answer is cut, and the bare refusals
//! of the HTTP library become problem documents.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use gristmill_protocol::{ErrorCode, Problem};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::pace::{Pace, PaceRule};

/// Either kind of connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A wait for the peer to take bytes.
struct Stall {
    since: Instant,
    over: Pin<Box<Sleep>>,
}

/// A connection as the HTTP library sees it.
pub(super) struct Stream {
    inner: Box<dyn Io>,
    pace: Pace,
    stall: Option<Stall>,
    /// Whether a request has been understood on this connection.
    is_served: Arc<AtomicBool>,
    /// What is left to be written of an answer of ours in place of the library's.
    refusal: Option<Refusal>,
}

struct Refusal {
    text: Vec<u8>,
    written: usize,
    /// Length of the answer that it stands for.
    stands_for: usize,
}

/// What the HTTP library says to a head that it does not understand, before any request was.
const REFUSALS: [(&str, ErrorCode, &str, &str); 3] = [
    (
        "400 Bad Request",
        ErrorCode::InvalidRequest,
        "the request is not valid HTTP/1.1",
        "check the request line and the headers for forbidden characters and contradicting lengths",
    ),
    (
        "414 URI Too Long",
        ErrorCode::TargetTooLong,
        "the request target is too long",
        "send long values in the body of the request",
    ),
    (
        "431 Request Header Fields Too Large",
        ErrorCode::HeadTooLarge,
        "the request has more than 100 headers or a head of more than 64 KiB",
        "send fewer or shorter headers",
    ),
];

/// The whole answer that replaces a bare one, if that is what `bytes` are.
fn replaced(bytes: &[u8]) -> Option<Vec<u8>> {
    let rest = bytes.strip_prefix(b"HTTP/1.1 ")?;
    let (status, code, detail, hint) =
        REFUSALS.iter().find(|(status, ..)| rest.starts_with(status.as_bytes()))?;
    if !bytes.ends_with(b"\r\n\r\n") {
        return None;
    }
    let problem = Problem {
        kind: "about:blank".into(),
        title: code.title().into(),
        status: code.status(),
        detail: (*detail).into(),
        code: *code,
        hint: Some((*hint).into()),
        request_id: None,
        errors: Vec::new(),
    };
    let body = serde_json::to_string(&problem).ok()?;
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         x-content-type-options: nosniff\r\ncache-control: no-store\r\nconnection: close\r\n\r\n",
        body.len()
    );
    Some((head + &body).into_bytes())
}

impl Stream {
    pub(super) fn new(inner: Box<dyn Io>, rule: PaceRule, is_served: Arc<AtomicBool>) -> Self {
        Self { inner, pace: Pace::new(rule), stall: None, is_served, refusal: None }
    }

    /// Passes on what became of an attempt to write, and cuts a peer that takes too little.
    fn paced<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
        moved: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Ready(Ok(value)) => {
                let waited = self.stall.take().map(|stall| stall.since.elapsed()).unwrap_or_default();
                let noted = self.pace.note(waited, moved(&value));
                Poll::Ready(noted.map(|()| value).map_err(cut))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => loop {
                let patience = self.pace.patience();
                let stall = self.stall.get_or_insert_with(|| Stall {
                    since: Instant::now(),
                    over: Box::pin(tokio::time::sleep(patience)),
                });
                ready!(stall.over.as_mut().poll(cx));
                let waited = stall.since.elapsed();
                self.stall = None;
                self.pace.note(waited, 0).map_err(cut)?;
            },
        }
    }

    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some(refusal) = &mut self.refusal {
            let left = &refusal.text[refusal.written..];
            if left.is_empty() {
                let stands_for = refusal.stands_for;
                self.refusal = None;
                return Poll::Ready(Ok(stands_for));
            }
            let outcome = Pin::new(&mut self.inner).poll_write(cx, left);
            let count = ready!(self.paced(cx, outcome, |count| *count))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if let Some(refusal) = &mut self.refusal {
                refusal.written += count;
            }
        }
        Poll::Ready(Ok(0))
    }
}

fn cut(slow: crate::pace::TooSlow) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, slow)
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Later on a connection the same bytes could be somebody's content.
        if self.refusal.is_none()
            && !self.is_served.load(Ordering::Relaxed)
            && let Some(text) = replaced(buf)
        {
            self.refusal = Some(Refusal { text, written: 0, stands_for: buf.len() });
        }
        if self.refusal.is_some() {
            return self.poll_refusal(cx);
        }
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.paced(cx, outcome, |count| *count)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.refusal.is_some() || !self.is_served.load(Ordering::Relaxed) {
            let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
            return self.poll_write(cx, first);
        }
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.paced(cx, outcome, |count| *count)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.paced(cx, outcome, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.paced(cx, outcome, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_refusal_is_replaced() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        let text = String::from_utf8(replaced(bare).expect("a refusal")).expect("text");
        assert!(text.starts_with("HTTP/1.1 431 ") && text.contains("application/problem+json"), "{text}");
        let body = text.split("\r\n\r\n").nth(1).expect("a body");
        assert!(text.contains(&format!("content-length: {}\r\n", body.len())), "{text}");
        serde_json::from_str::<gristmill_protocol::Problem>(body).expect("a problem document");
        assert!(replaced(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_none());
        assert!(replaced(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}").is_none());
    }
}
