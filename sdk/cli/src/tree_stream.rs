//! A packed tree as a stream of bytes, for an upload.

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use gristmill_tree::Tree;

/// Pieces that travel from the packing thread to the connection.
const PIECE_BYTES: usize = 128 << 10;

/// The archive as a byte stream, made on a thread of its own as fast as it is read. Dropping the
/// stream ends the thread with its next write.
fn tree_stream(tree: Arc<Tree>) -> impl Stream<Item = Result<Bytes, anyhow::Error>> + Send + 'static {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
    let work = tokio::task::spawn_blocking(move || {
        let mut sink = io::BufWriter::with_capacity(PIECE_BYTES, ChannelSink { sender: sender.clone() });
        let written = tree.write(&mut sink).map_err(anyhow::Error::from).and_then(|()| Ok(sink.flush()?));
        if let Err(error) = written {
            // The reader is gone when this fails, and then nobody wants the error.
            let _ = sender.blocking_send(Err(error));
        }
    });
    // A stream that is dropped closes the channel, which ends the thread's next write.
    futures_util::stream::poll_fn(move |cx| {
        let _ = &work;
        receiver.poll_recv(cx)
    })
}

/// The bytes of the archive from an offset on. It is made anew from its beginning, since what is behind
/// the offset cannot be known without what is before it.
pub(crate) fn tree_stream_from(
    tree: Arc<Tree>,
    offset: u64,
) -> impl Stream<Item = Result<Bytes, anyhow::Error>> + Send + 'static {
    let mut left = offset;
    tree_stream(tree).filter_map(move |piece| {
        let rest = piece.map(|mut bytes| {
            let skipped = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            left -= skipped as u64;
            bytes.split_off(skipped)
        });
        std::future::ready(Some(rest).filter(|rest| rest.as_ref().map_or(true, |bytes| !bytes.is_empty())))
    })
}

struct ChannelSink {
    sender: tokio::sync::mpsc::Sender<Result<Bytes, anyhow::Error>>,
}

impl Write for ChannelSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.sender.blocking_send(Ok(Bytes::copy_from_slice(bytes))) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the upload was given up")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gristmill_protocol::Digest;
    use sha2::{Digest as _, Sha256};

    use super::*;

    #[tokio::test]
    async fn what_is_sent_has_the_digest_and_size_that_were_announced() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["a", "b"] {
            std::fs::write(dir.path().join(name), name.repeat(200_000)).expect("written");
        }
        let tree = Tree::scan(dir.path()).expect("scanned");
        let (digest, size) = tree.digest().expect("digested");
        let tree = Arc::new(tree);
        let read = async |offset| {
            let pieces: Vec<_> = tree_stream_from(Arc::clone(&tree), offset).collect().await;
            pieces.into_iter().flat_map(|piece| piece.expect("a piece")).collect::<Vec<u8>>()
        };
        let sent = read(0).await;
        assert_eq!(digest, Digest::from_bytes(Sha256::digest(&sent).into()));
        assert_eq!(size, sent.len() as u64);
        for offset in [1, 200_000, size - 1, size] {
            assert_eq!(read(offset).await, sent[offset as usize..], "from {offset}");
        }
    }
}
