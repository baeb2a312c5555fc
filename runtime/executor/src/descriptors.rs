//! Orders and the open descriptors that come with them, over a Unix socket.
//!
//! A descriptor travels with a byte of the frame it belongs to, so the receiver has it when it has
//! the frame. One message carries a limited number of them; more go with the following bytes.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use bytes::BytesMut;
use gristmill_channel::{Order, decode};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use tokio::{io::Interest, net::UnixStream as AsyncUnixStream};

/// Descriptors in one message. The kernel takes up to 253.
const DESCRIPTORS_MAX: usize = 250;
const CHUNK_BYTES: usize = 64 << 10;

/// Sends an order with its descriptors. Not cancel-safe: a frame that was sent in part leaves the
/// channel unusable.
pub(crate) async fn send(
    socket: &AsyncUnixStream,
    order: &Order,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    debug_assert_eq!(order.descriptors(), descriptors.len());
    let bytes = order.encode()?;
    let mut bytes = &bytes[..];
    let mut groups = descriptors.chunks(DESCRIPTORS_MAX).peekable();
    while !bytes.is_empty() {
        let group = groups.next().unwrap_or_default();
        // What more descriptors there are go with the bytes that follow.
        let now = if groups.peek().is_some() { &bytes[..1] } else { bytes };
        let sent = socket.async_io(Interest::WRITABLE, || send_some(socket, now, group)).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

fn send_some(socket: &AsyncUnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    Ok(sendmsg(socket.as_fd(), &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Reads orders in a child.
#[derive(Debug)]
pub(crate) struct Orders {
    socket: UnixStream,
    received: BytesMut,
    descriptors: VecDeque<OwnedFd>,
}

impl Orders {
    /// Reads from a socket, normally standard input.
    pub(crate) fn from(socket: UnixStream) -> Self {
        Self { socket, received: BytesMut::new(), descriptors: VecDeque::new() }
    }

    /// Blocks until an order is there; `None` when the node is gone.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Order, Vec<OwnedFd>)>> {
        loop {
            if let Some(frame) = decode(&mut self.received).map_err(io::Error::other)? {
                let order = Order::decode(&frame)?;
                let count = order.descriptors();
                if count > self.descriptors.len() {
                    return Err(io::Error::other("an order without its descriptors"));
                }
                return Ok(Some((order, self.descriptors.drain(..count).collect())));
            }
            if !self.receive()? {
                return Ok(None);
            }
        }
    }

    fn receive(&mut self) -> io::Result<bool> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = vec![0; CHUNK_BYTES];
        let message = loop {
            let mut parts = [IoSliceMut::new(&mut chunk)];
            match recvmsg(&self.socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = ancillary {
                self.descriptors.extend(descriptors);
            }
        }
        self.received.extend_from_slice(&chunk[..message.bytes]);
        Ok(message.bytes > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Seek as _, Write as _},
    };

    use gristmill_channel::{AssignSpec, StopReason};

    use super::*;

    #[tokio::test]
    async fn descriptors_arrive_with_their_order_however_many_there_are() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a flag");
        let ours = AsyncUnixStream::from_std(ours).expect("a stream");
        let reading = std::thread::spawn(move || {
            let mut orders = Orders::from(theirs);
            let mut found = Vec::new();
            while let Some(next) = orders.next().expect("readable") {
                found.push(next);
            }
            found
        });
        let files: Vec<File> = (0..600)
            .map(|number| {
                let mut file = tempfile::tempfile().expect("a file");
                write!(file, "{number}").expect("written");
                file
            })
            .collect();
        for (from, to) in [(0, 0), (0, 1), (1, 252), (0, 600)] {
            let spec = AssignSpec { readable: to - from, ..AssignSpec::default() };
            let descriptors: Vec<_> = files[from..to].iter().map(|file| file.as_fd()).collect();
            send(&ours, &Order::Assign(spec), &descriptors).await.expect("sent");
            send(&ours, &Order::Stop(StopReason::Deadline), &[]).await.expect("sent");
        }
        drop(ours);
        let found = reading.join().expect("no panic");
        assert_eq!(found.len(), 8);
        for ((order, descriptors), (from, to)) in
            found.iter().step_by(2).zip([(0, 0), (0, 1), (1, 252), (0, 600)])
        {
            assert_eq!((order.descriptors(), descriptors.len()), (to - from, to - from));
            for (number, descriptor) in (from..to).zip(descriptors) {
                let mut file = File::from(descriptor.try_clone().expect("a descriptor"));
                file.rewind().expect("rewound");
                let mut text = String::new();
                file.read_to_string(&mut text).expect("read");
                assert_eq!(text, number.to_string());
            }
        }
    }
}
