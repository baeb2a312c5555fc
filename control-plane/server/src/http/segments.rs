//! Content that is put together from pieces without ever being held whole.

use std::{ops::Range, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use gristmill_protocol::Digest;

use crate::{app::App, ops};

/// One piece of content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A part of a blob that is there; a whole one is checked against its digest as it is read.
    Blob { digest: Digest, range: Range<u64> },
}

impl Segment {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Blob { range, .. } => range.end - range.start,
        }
    }

    /// The part of this piece that lies within `range`, both counted from its beginning.
    fn part(&self, range: Range<u64>) -> Self {
        match self {
            Self::Bytes(bytes) => {
                let place = |at| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Self::Bytes(bytes.slice(place(range.start)..place(range.end)))
            }
            Self::Blob { digest, range: own } => {
                Self::Blob { digest: *digest, range: own.start + range.start..own.start + range.end }
            }
        }
    }
}

/// Pieces, one after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Segments(Vec<Segment>);

impl Segments {
    /// A whole blob.
    pub(super) fn blob(digest: Digest, size: u64) -> Self {
        Self(vec![Segment::Blob { digest, range: 0..size }])
    }

    /// Bytes of all pieces.
    pub(super) fn size(&self) -> u64 {
        self.0.iter().map(Segment::size).sum()
    }

    /// Adds a piece, unless it is empty.
    pub(super) fn push(&mut self, segment: Segment) {
        if segment.size() > 0 {
            self.0.push(segment);
        }
    }

    /// Adds bytes.
    pub(super) fn text(&mut self, bytes: impl Into<Bytes>) {
        self.push(Segment::Bytes(bytes.into()));
    }

    /// Adds all pieces of another content.
    pub(super) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// The part that lies within `range`.
    pub(super) fn part(&self, range: &Range<u64>) -> Self {
        let mut part = Self::default();
        let mut at = 0;
        for segment in &self.0 {
            let size = segment.size();
            let (start, end) = (range.start.max(at), range.end.min(at + size));
            if start < end {
                part.push(segment.part(start - at..end - at));
            }
            at += size;
        }
        part
    }

    /// The content as a body. Blobs are opened when it is their turn; the body breaks off when one
    /// is missing or damaged.
    pub(super) fn into_body(self, app: &Arc<App>) -> Body {
        let app = Arc::clone(app);
        let pieces = stream::iter(self.0).then(move |segment| {
            let app = Arc::clone(&app);
            async move {
                match segment {
                    Segment::Bytes(bytes) => {
                        anyhow::Ok(stream::once(std::future::ready(Ok(bytes))).left_stream())
                    }
                    Segment::Blob { digest, range } => {
                        let read = ops::open_bytes(&app, digest, Some(range)).await?;
                        Ok(read.stream.map_err(anyhow::Error::from).right_stream())
                    }
                }
            }
        });
        Body::from_stream(
            pieces
                .try_flatten()
                .inspect_err(|error: &anyhow::Error| tracing::error!("a download broke off: {error:#}")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_begins_and_ends_anywhere() {
        let digest = Digest::from_bytes([1; 32]);
        let mut whole = Segments::default();
        whole.text("head");
        whole.text("");
        whole.append(Segments::blob(digest, 10));
        whole.text("tail");
        assert_eq!((whole.size(), whole.0.len()), (18, 3));
        assert_eq!(whole.part(&(0..18)), whole);
        let blob = |range| Segment::Blob { digest, range };
        assert_eq!(whole.part(&(4..14)).0, [blob(0..10)]);
        assert_eq!(whole.part(&(2..6)).0, [Segment::Bytes("ad".into()), blob(0..2)]);
        assert_eq!(whole.part(&(13..16)).0, [blob(9..10), Segment::Bytes("ta".into())]);
        assert_eq!(whole.part(&(5..6)).part(&(0..1)).0, [blob(1..2)]);
        for start in 0..18 {
            for end in start..18 {
                assert_eq!(whole.part(&(start..end)).size(), end - start);
            }
        }
    }
}
