//! Server-sent events: their text taken apart, and connections that are made again where they broke.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use reqwest::{Method, Response};

use super::{Client, ClientError, request::Repeat};

/// Longest message that is taken.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Silence after which a connection is taken for dead: the server says something every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// One message of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// What kind of message it is.
    pub(super) event: String,
    /// What it says.
    pub(super) data: String,
}

/// Takes the text of a stream apart.
#[derive(Debug, Default)]
struct Parser {
    buffer: BytesMut,
    looked: usize,
    message: Message,
    has_data: bool,
    /// The newest id of a message that came whole, also of one without data.
    id: Option<String>,
    /// The id of the message that is coming. It counts when the message has come whole: with that of
    /// half a message, the message itself would never come again.
    coming_id: Option<String>,
}

impl Parser {
    fn next(&mut self) -> Option<Message> {
        while let Some(end) = self.buffer[self.looked..].iter().position(|&byte| byte == b'\n') {
            let line = self.buffer.split_to(self.looked + end);
            self.buffer.advance(1);
            self.looked = 0;
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            if let Some(message) = self.line(&line) {
                return Some(message);
            }
        }
        self.looked = self.buffer.len();
        None
    }

    /// Takes one line; the message that an empty one ends.
    fn line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            self.id = self.coming_id.take().or(self.id.take());
            let message = std::mem::take(&mut self.message);
            return std::mem::take(&mut self.has_data).then_some(message);
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => value.clone_into(&mut self.message.event),
            "id" => self.coming_id = Some(value.to_owned()),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
            }
            // Comments, which have no name, and what later versions may add.
            _ => {}
        }
        None
    }
}

/// A stream that goes on over broken connections and restarts of the server.
#[derive(Debug)]
pub(super) struct Stream {
    client: Client,
    segments: Vec<String>,
    query: Vec<(String, String)>,
    parser: Parser,
    response: Option<Response>,
    /// Connections in a row that ended before anything came over them.
    silent: u32,
}

impl Stream {
    pub(super) fn new(client: &Client, segments: &[&str], query: Vec<(String, String)>) -> Self {
        Self {
            client: client.clone(),
            segments: segments.iter().map(|&segment| segment.to_owned()).collect(),
            query,
            parser: Parser::default(),
            response: None,
            silent: 0,
        }
    }

    /// The id of the newest message, with which a later stream goes on.
    pub(super) fn id(&self) -> Option<&str> {
        self.parser.id.as_deref()
    }

    /// The next message. It may be cancelled without losing one. Fails when the server refuses the
    /// stream, or cannot be reached for as long as the client's patience lasts.
    pub(super) async fn next(&mut self) -> Result<Message, ClientError> {
        loop {
            if let Some(message) = self.parser.next() {
                return Ok(message);
            }
            if self.parser.buffer.len() > MESSAGE_BYTES_MAX {
                return Err(self.client.unexpected("a message of a stream is larger than 4 MiB"));
            }
            if self.response.is_none() {
                self.response = Some(self.connect().await?);
            }
            let Some(response) = &mut self.response else { continue };
            match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
                Ok(Ok(Some(bytes))) => {
                    self.silent = 0;
                    self.parser.buffer.extend_from_slice(&bytes);
                }
                Ok(Ok(None) | Err(_)) | Err(_) => self.lose().await?,
            }
        }
    }

    /// Forgets a connection that has ended; half a message goes with it and comes again.
    async fn lose(&mut self) -> Result<(), ClientError> {
        self.response = None;
        let id = self.parser.id.take();
        self.parser = Parser { id, ..Parser::default() };
        self.silent += 1;
        let wait = self.client.retry.wait_after(self.silent, None, rand::random());
        let Some(wait) = wait else {
            return Err(self.client.unexpected("streams end before anything came over them"));
        };
        tokio::time::sleep(wait).await;
        Ok(())
    }

    /// What a message says.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self, message: &Message) -> Result<T, ClientError> {
        serde_json::from_str(&message.data).map_err(|error| {
            self.unexpected(format!("a message {:?} is no such document: {error}", message.event))
        })
    }

    pub(super) fn unexpected(&self, detail: String) -> ClientError {
        self.client.unexpected(detail)
    }

    async fn connect(&self) -> Result<Response, ClientError> {
        let segments: Vec<_> = self.segments.iter().map(String::as_str).collect();
        let response = self
            .client
            .send(Repeat::Safe, || {
                let request = self
                    .client
                    .call(Method::GET, &segments)
                    .header("accept", "text/event-stream")
                    .query(&self.query);
                match self.id() {
                    Some(id) => request.header("last-event-id", id),
                    None => request,
                }
            })
            .await?;
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Err(self.client.unexpected("the answer is no stream of events"));
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_text_is_cut() {
        let text = "retry: 500\n\n: hello\nid: 1\nevent: a\ndata: {\"x\":\ndata: 1}\n\nid: 2\n: keep-alive\n\n\
                    id: 3\r\nevent: b\r\ndata:y\r\n\r\ndata: cut";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                parser.buffer.extend_from_slice(piece);
                while let Some(message) = parser.next() {
                    found.push((message.event, message.data, parser.id.clone()));
                }
            }
            let of = |event: &str, data: &str, id: &str| (event.into(), data.into(), Some(id.to_owned()));
            assert_eq!(found, [of("a", "{\"x\":\n1}", "1"), of("b", "y", "3")], "{size}");
        }
    }
}
