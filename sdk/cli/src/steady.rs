//! Calls that outlive a server which goes away for a while: a configured one is waited for, the
//! private instance is started again.

use std::{future::Future, sync::Arc};

use gristmill_client::user::{Client, ClientError, RetryPolicy};
use gristmill_protocol::{ErrorCode, JobId};
use tokio::sync::Mutex;

use crate::{connect::Connection, failure::Failure, private};

/// How often one command starts the private instance again.
const RESTARTS_MAX: u32 = 5;
/// Tries of one call before the private instance is taken for gone: about a second.
const PRIVATE_TRIES: u32 = 4;

/// Calls to one server for following a job. Cheap to clone; the private instance is kept alive until
/// the last one is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Steady {
    current: Arc<Mutex<Current>>,
}

#[derive(Debug)]
struct Current {
    client: Client,
    /// Present for the private instance alone.
    attachment: Option<private::Attachment>,
    /// How often the private instance was started again.
    restarts: u32,
}

impl Steady {
    /// Takes the connection over.
    pub(crate) fn new(connection: Connection) -> Self {
        let Connection { client, attachment } = connection;
        let retry = match attachment {
            None => RetryPolicy::patient(),
            Some(_) => RetryPolicy { tries: PRIVATE_TRIES, ..RetryPolicy::default() },
        };
        let current = Current { client: client.with_retry(retry), attachment, restarts: 0 };
        Self { current: Arc::new(Mutex::new(current)) }
    }

    /// The calls to where the server is now, for what is not worth a restart.
    pub(crate) async fn client(&self) -> Client {
        self.current.lock().await.client.clone()
    }

    /// Makes a call, and makes it again with the next instance when the private one has gone. The
    /// call must be safe to repeat. Fails with what the call failed with, or with why the private
    /// instance does not come back.
    pub(crate) async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        loop {
            let (client, seen) = {
                let current = self.current.lock().await;
                (current.client.clone(), current.restarts)
            };
            let error = match call(client).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if !is_gone(&error) || !self.restart(seen).await? {
                return Err(error.into());
            }
        }
    }

    /// Attaches to the private instance again unless another call just did; false when there is none,
    /// or when it was done too often.
    async fn restart(&self, seen: u32) -> anyhow::Result<bool> {
        let mut current = self.current.lock().await;
        if current.restarts > seen {
            return Ok(true);
        }
        if current.attachment.is_none() || current.restarts >= RESTARTS_MAX {
            return Ok(false);
        }
        eprintln!("the private instance is gone; starting it again");
        let (endpoint, attachment) = private::attach().await.map_err(|error| {
            Failure::lost(format!("the private instance does not start again: {error:#}"))
        })?;
        let retry = RetryPolicy { tries: PRIVATE_TRIES, ..RetryPolicy::default() };
        current.client = Client::new(&endpoint)?.with_retry(retry);
        current.attachment = Some(attachment);
        current.restarts += 1;
        Ok(true)
    }
}

/// Whether nobody answers any more, or only to say that it ends.
fn is_gone(error: &ClientError) -> bool {
    matches!(error, ClientError::Unreachable { .. }) || error.code() == Some(ErrorCode::Unavailable)
}

/// An error that came while a job was followed: when the server was lost, the job was not, and the
/// text says how to go on.
pub(crate) fn job_is_kept(error: anyhow::Error, job: JobId) -> anyhow::Error {
    let is_lost = error.chain().any(|cause| {
        cause
            .downcast_ref::<ClientError>()
            .is_some_and(|error| is_gone(error) || matches!(error, ClientError::Connection { .. }))
            || cause.downcast_ref::<Failure>().is_some_and(Failure::is_lost)
    });
    if !is_lost {
        return error;
    }
    Failure::lost(format!("{job} was accepted, but its server is lost: {error:#}"))
        .hint(format!("the job is kept; go on with: gristmill job wait {job}"))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lost_server_makes_the_text_about_the_job() {
        let job = JobId::from_parts(1, [0; 10]);
        let lost = ClientError::Unreachable { server: "http://x".into(), detail: "refused".into() };
        let text = job_is_kept(lost.into(), job).to_string();
        assert!(text.contains(&job.to_string()) && text.contains("cannot reach http://x"), "{text}");
        let odd = ClientError::UnexpectedAnswer { server: "http://x".into(), detail: "404".into() };
        let text = job_is_kept(odd.into(), job).to_string();
        assert!(!text.contains(&job.to_string()), "{text}");
        let unsafe_path = Failure::local("the output has no safe path");
        assert_eq!(job_is_kept(unsafe_path.into(), job).to_string(), "the output has no safe path");
        let text = job_is_kept(Failure::lost("it does not start again").into(), job).to_string();
        assert!(text.contains(&job.to_string()) && text.contains("does not start again"), "{text}");
    }
}
