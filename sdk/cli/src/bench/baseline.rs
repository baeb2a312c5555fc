//! What the machine itself can do: the figures to compare with.

use std::{
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long each baseline is measured.
pub(super) const MEASURE: Duration = Duration::from_secs(2);

/// Appends of 4 KiB, each made durable, a second, measured for `time`. Blocks.
pub(crate) fn fsyncs_per_second(dir: &Path, time: Duration) -> anyhow::Result<f64> {
    let path = dir.join("fsync-baseline");
    let mut file = std::fs::File::create(&path)?;
    let block = [0x5a; 4_096];
    let started = Instant::now();
    let mut count = 0u32;
    while started.elapsed() < time {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// Starts and ends of an empty program, one after the other, a second. Blocks.
pub(super) fn processes_per_second() -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut count = 0u32;
    while started.elapsed() < MEASURE {
        let status = std::process::Command::new("/bin/true").status().context("cannot run /bin/true")?;
        anyhow::ensure!(status.success(), "/bin/true ended with {status}");
        count += 1;
    }
    Ok(f64::from(count) / started.elapsed().as_secs_f64())
}

/// Requests a second of the simplest HTTP server that answers a POST with its own body, asked by
/// `clients` at a time through the same HTTP library as the jobs.
pub(super) async fn echoes_per_second(clients: usize, body: Vec<u8>) -> anyhow::Result<f64> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    tracker.spawn(serve(listener, tracker.clone(), stop.clone()));
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).tcp_nodelay(true).build()?;
    let started = Instant::now();
    let ask = || {
        let (http, url, body) = (http.clone(), url.clone(), body.clone());
        async move {
            let mut count = 0u32;
            while started.elapsed() < MEASURE {
                let answer = http.post(&url).body(body.clone()).send().await?.bytes().await?;
                anyhow::ensure!(answer == body, "the echo is not what was sent");
                count += 1;
            }
            anyhow::Ok(count)
        }
    };
    let counts = super::queue::on_tasks(&tracker, clients, ask).await?;
    let rate = f64::from(counts.iter().sum::<u32>()) / started.elapsed().as_secs_f64();
    stop.cancel();
    tracker.close();
    tracker.wait().await;
    Ok(rate)
}

async fn serve(listener: TcpListener, tracker: TaskTracker, stop: CancellationToken) {
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let stop = stop.clone();
        tracker.spawn(async move {
            // An error is the end of a connection, nothing else.
            let _ = stop.run_until_cancelled(echo(stream)).await;
        });
    }
}

/// Answers every request of one connection with its body.
async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Some((head, length)) = request_length(&buffer) else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        while buffer.len() < head + length {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
        answer.extend_from_slice(&buffer[head..head + length]);
        stream.write_all(&answer).await?;
        buffer.drain(..head + length);
    }
}

/// Bytes of the head and of the body, once the head is complete.
fn request_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let value = text.lines().find_map(|line| line.strip_prefix("content-length:"));
    Some((head, value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_complete_with_its_head_and_declared_body() {
        assert_eq!(request_length(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n"), None);
        assert_eq!(request_length(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab"), Some((38, 3)));
        assert_eq!(request_length(b"GET / HTTP/1.1\r\n\r\n"), Some((18, 0)));
    }
}
