//! A tiny HTTP/1.1 server whose answers a test decides, request by request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// What to answer.
pub(crate) enum Reply {
    Json(Value),
    /// A problem document, with a `Date` header if given.
    Problem(u16, &'static str, Option<&'static str>),
    /// What a proxy says when the server is away.
    ProxyPage,
    /// Bytes from where the request's range starts; the connection is cut after that many.
    Bytes(Vec<u8>, usize),
    /// No answer for a long time.
    Hang,
}

type Script = dyn Fn(&Seen) -> Reply + Send + Sync;

/// The server. It ends when dropped.
pub(crate) struct FakeServer {
    pub(crate) url: String,
    pub(crate) seen: Arc<Mutex<Vec<Seen>>>,
    stopping: CancellationToken,
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

impl FakeServer {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, script): (_, Arc<Script>) = (Arc::clone(&seen), Arc::new(script));
        let stopping = CancellationToken::new();
        let (stop, connections) = (stopping.clone(), TaskTracker::new());
        TaskTracker::new().spawn(stopping.clone().run_until_cancelled_owned(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serve(stream, Arc::clone(&log), Arc::clone(&script));
                connections.spawn(stop.clone().run_until_cancelled_owned(serving));
            }
        }));
        Self { url, seen, stopping }
    }

    /// Requests to paths that contain `part`, so far.
    pub(crate) fn requests(&self, part: &str) -> Vec<Seen> {
        let seen = self.seen.lock().expect("not poisoned");
        seen.iter().filter(|request| request.path.contains(part)).cloned().collect()
    }

    /// Waits until `count` requests to paths that contain `part` have come.
    pub(crate) async fn wait_for(&self, part: &str, count: usize) -> Vec<Seen> {
        for _ in 0..1_000 {
            let found = self.requests(part);
            if found.len() >= count {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} requests to {part:?} did not come; seen: {:#?}", self.paths());
    }

    fn paths(&self) -> Vec<String> {
        self.seen.lock().expect("not poisoned").iter().map(|request| request.path.clone()).collect()
    }
}

async fn serve(stream: TcpStream, log: Arc<Mutex<Vec<Seen>>>, script: Arc<Script>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let reply = script(&request);
        log.lock().expect("not poisoned").push(request.clone());
        if !answer(&mut stream, &request, reply).await {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut parts = line.split_whitespace();
    let target = parts.nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let path = target.split('?').next().unwrap_or_default().to_owned();
    Some(Seen { path, headers, body })
}

/// Returns whether the connection lives on.
async fn answer(stream: &mut BufReader<TcpStream>, request: &Seen, reply: Reply) -> bool {
    let (status, content_type, extra, body, cut) = match reply {
        Reply::Json(value) => (200, "application/json", String::new(), value.to_string().into_bytes(), None),
        Reply::Problem(status, code, date) => {
            let problem = json!({
                "type": "about:blank", "title": code, "status": status, "detail": "scripted", "code": code,
            });
            let extra = date.map(|date| format!("date: {date}\r\n")).unwrap_or_default();
            (status, "application/problem+json", extra, problem.to_string().into_bytes(), None)
        }
        Reply::ProxyPage => (502, "text/html", String::new(), b"<html>bad gateway</html>".to_vec(), None),
        Reply::Hang => {
            tokio::time::sleep(Duration::from_mins(1)).await;
            return false;
        }
        Reply::Bytes(bytes, cut) => {
            let range = request.headers.get("range").and_then(|text| text.strip_prefix("bytes="));
            let start: usize = range.and_then(|text| text.trim_end_matches('-').parse().ok()).unwrap_or(0);
            let extra = format!("content-range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            let status = if start == 0 { 200 } else { 206 };
            (status, "application/octet-stream", extra, bytes[start..].to_vec(), Some(cut))
        }
    };
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n{extra}\r\n",
        body.len()
    );
    let sent = body.len().min(cut.unwrap_or(usize::MAX));
    let stream = stream.get_mut();
    let written = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body[..sent]).await?;
        stream.flush().await
    };
    written.await.is_ok() && sent == body.len()
}
