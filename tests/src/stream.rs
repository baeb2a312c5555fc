//! Server-sent events as any script would read them: lines, and an id to come back with.

use anyhow::{Result, bail, ensure};
use reqwest::{Method, Response};
use serde_json::Value;

use crate::api::Api;

/// What stands between two empty lines.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Where to go on after it.
    pub id: Option<String>,
    /// Its kind.
    pub event: String,
    /// Its JSON document; absent in comments.
    pub data: Option<Value>,
}

/// One connection.
#[derive(Debug)]
pub struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    /// Connects, after the message with an id if there was one.
    pub async fn open(api: &Api, path: &str, last_id: Option<&str>) -> Result<Self> {
        let mut request = api.request(Method::GET, path).header("accept", "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await?;
        ensure!(response.status().is_success(), "{}", response.text().await.unwrap_or_default());
        Ok(Self { response, text: String::new() })
    }

    /// The next message or comment; an error when the connection has ended.
    pub async fn next(&mut self) -> Result<Message> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let mut message = Message::default();
                for line in block.lines() {
                    match line.split_once(": ") {
                        Some(("id", id)) => message.id = Some(id.to_owned()),
                        Some(("event", event)) => event.clone_into(&mut message.event),
                        Some(("data", data)) => message.data = Some(serde_json::from_str(data)?),
                        _ => {}
                    }
                }
                return Ok(message);
            }
            let Some(piece) = self.response.chunk().await? else { bail!("the stream has ended") };
            self.text.push_str(std::str::from_utf8(&piece)?);
        }
    }
}
