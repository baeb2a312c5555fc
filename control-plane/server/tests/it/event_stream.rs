//! A stream of server-sent events, read by the letter of its specification.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use serde_json::Value;

use crate::conformance;

/// Longest wait for a message that has to come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What stands between two empty lines.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Message {
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) data: Option<String>,
    pub(crate) comment: Option<String>,
}

impl Message {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.data.as_deref().expect("the message has data")).expect("data is JSON")
    }
}

pub(crate) struct EventStream {
    body: BodyDataStream,
    text: String,
    described: &'static Value,
}

impl EventStream {
    /// A stream whose messages have data as described: an object of schemas by the messages' names.
    pub(crate) fn new(body: Body, described: &'static Value) -> Self {
        Self { body: body.into_data_stream(), text: String::new(), described }
    }

    /// The next message or comment; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let lines: String = self.text.drain(..end + 2).collect();
                let mut message = Message::default();
                for line in lines.lines() {
                    let (name, value) = line.split_once(':').unwrap_or((line, ""));
                    let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
                    match name {
                        "id" => message.id = Some(value),
                        "event" => message.event = Some(value),
                        "data" => message.data = Some(value),
                        "retry" | "" if line.is_empty() || name == "retry" => {}
                        "" => message.comment = Some(value),
                        other => panic!("{other:?} is no field of a message"),
                    }
                }
                if message != Message::default() {
                    if let (Some(name), Some(_)) = (&message.event, &message.data) {
                        conformance::expect_valid(name, &self.described[name], &message.json());
                    }
                    return Some(message);
                }
                continue;
            }
            let piece = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("something comes")?;
            let piece = piece.expect("the stream is whole");
            self.text.push_str(std::str::from_utf8(&piece).expect("messages are text"));
        }
    }

    /// The next message with data; comments are passed over.
    pub(crate) async fn message(&mut self) -> Option<Message> {
        loop {
            let message = self.next().await?;
            if message.data.is_some() {
                return Some(message);
            }
        }
    }
}
