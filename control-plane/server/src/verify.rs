//! Checks bytes against their digest while they are read, so that damaged storage never passes as
//! the content that was asked for.

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use gristmill_protocol::Digest;
use sha2::{Digest as _, Sha256};

use crate::blob::BlobError;

struct State<S> {
    source: S,
    hasher: Sha256,
    held: Option<Bytes>,
    is_over: bool,
}

/// Passes a whole blob on one piece late. When the bytes turn out to be others than the digest says,
/// the last piece is withheld and the stream fails, so that no reader gets a complete wrong answer.
pub(crate) fn verified<S>(
    source: S,
    digest: Digest,
) -> impl Stream<Item = Result<Bytes, BlobError>> + Send + 'static
where
    S: Stream<Item = Result<Bytes, BlobError>> + Send + Unpin + 'static,
{
    let state = State { source, hasher: Sha256::new(), held: None, is_over: false };
    stream::unfold(state, move |mut state| async move {
        while !state.is_over {
            match state.source.next().await {
                Some(Ok(piece)) => {
                    state.hasher.update(&piece);
                    if let Some(before) = state.held.replace(piece) {
                        return Some((Ok(before), state));
                    }
                }
                Some(Err(error)) => {
                    state.is_over = true;
                    state.held = None;
                    return Some((Err(error), state));
                }
                None => {
                    state.is_over = true;
                    let found = Digest::from_bytes(state.hasher.finalize_reset().into());
                    if found != digest {
                        return Some((Err(BlobError::Damaged { digest }), state));
                    }
                    return state.held.take().map(|last| (Ok(last), state));
                }
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(pieces: &[&'static [u8]], of: &[u8]) -> (Vec<u8>, bool) {
        let source =
            stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece))).collect::<Vec<_>>());
        let digest = Digest::from_bytes(Sha256::digest(of).into());
        let mut got = Vec::new();
        let mut stream = Box::pin(verified(source, digest));
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(bytes) => got.extend_from_slice(&bytes),
                Err(_) => return (got, false),
            }
        }
        (got, true)
    }

    #[tokio::test]
    async fn good_bytes_pass_whole_and_damaged_ones_never_do() {
        assert_eq!(read(&[b"ab", b"c", b"def"], b"abcdef").await, (b"abcdef".to_vec(), true));
        assert_eq!(read(&[], b"").await, (Vec::new(), true));
        assert_eq!(read(&[b"ab", b"x", b"def"], b"abcdef").await, (b"abx".to_vec(), false));
        assert_eq!(read(&[b"abc"], b"abcd").await, (Vec::new(), false));
    }
}
