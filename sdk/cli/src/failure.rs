//! How commands end: exit codes, and errors with code and hint.

use std::io::{self, ErrorKind, Write as _};

use gristmill_client::{ConnectionFault, user::ClientError};
use gristmill_inspect::Refusal;
use gristmill_protocol::{ErrorCode, JobState, Problem};

use crate::{
    harmless::harmless,
    terminal::{ADVICE, BAD, on_stderr},
};

/// The exit codes that scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It worked.
    Ok = 0,
    /// It did not work.
    Error = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The job failed.
    JobFailed = 3,
    /// The job was cancelled.
    JobCancelled = 4,
    /// The job had not ended when the wait was over.
    WaitTimedOut = 5,
}

impl Exit {
    /// The exit code that stands for a job's state at the end of the wait for it.
    pub(crate) fn of_job(state: JobState) -> Self {
        match state {
            JobState::Succeeded => Self::Ok,
            JobState::Failed => Self::JobFailed,
            JobState::Cancelled => Self::JobCancelled,
            _ => Self::WaitTimedOut,
        }
    }

    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

/// An error of this program itself, with what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Failure {
    exit: Exit,
    code: &'static str,
    detail: String,
    hint: Option<String>,
}

impl Failure {
    /// A command line that parses but makes no sense; exit code 2.
    pub(crate) fn usage(detail: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, code: "usage", detail: detail.into(), hint: None }
    }

    /// Something here, not on the server, that does not work.
    pub(crate) fn local(detail: impl Into<String>) -> Self {
        Self { exit: Exit::Error, code: "local", detail: detail.into(), hint: None }
    }

    /// A file or directory here with which something does not work.
    pub(crate) fn file(detail: impl Into<String>, error: &io::Error) -> Self {
        let hint = hint_of_io(error.kind()).map(str::to_owned);
        Self { hint, ..Self::local(format!("{}: {error}", detail.into())) }
    }

    /// A server that answered before and does not any more.
    pub(crate) fn lost(detail: impl Into<String>) -> Self {
        Self { exit: Exit::Error, code: "unreachable", detail: detail.into(), hint: None }
    }

    /// Whether it is about a server that does not answer any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.code == "unreachable"
    }

    /// Gives it a code of its own.
    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// An error as it is shown.
#[derive(Debug, PartialEq)]
struct Shown {
    exit: Exit,
    code: String,
    detail: String,
    hint: Option<String>,
    problem: Option<Problem>,
}

impl Shown {
    fn of(error: &anyhow::Error) -> Self {
        let mut shown = Self {
            exit: Exit::Error,
            code: "local".into(),
            detail: chain_text(error),
            hint: None,
            problem: None,
        };
        for cause in error.chain() {
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                shown.exit = failure.exit;
                shown.code = failure.code.into();
                shown.hint.clone_from(&failure.hint);
                return shown;
            }
            if let Some(refusal) = cause.downcast_ref::<Refusal>() {
                shown.code = refusal.code.to_string();
                shown.hint = Some(refusal.hint.clone());
                return shown;
            }
            if let Some(fault) = cause.downcast_ref::<ConnectionFault>() {
                shown.code = "tls".into();
                shown.hint = Some(fault.hint().into());
                return shown;
            }
            if let Some(client) = cause.downcast_ref::<ClientError>() {
                shown.code = match client {
                    ClientError::Api { problem, .. } => problem.code.to_string(),
                    ClientError::Unreachable { .. } => "unreachable".into(),
                    ClientError::Connection { .. } => "tls".into(),
                    ClientError::UnexpectedAnswer { .. } => "unexpected_answer".into(),
                    _ => "local".into(),
                };
                shown.hint = client.hint().or_else(|| io_hint(error));
                if let ClientError::Api { problem, .. } = client {
                    let mut problem = (**problem).clone();
                    if problem.code == ErrorCode::Unauthenticated {
                        // The server's is for those who write headers.
                        problem.hint = None;
                        shown.hint = None;
                    }
                    shown.problem = Some(problem);
                }
                return shown;
            }
        }
        shown.hint = io_hint(error);
        shown
    }

    fn document(&self) -> serde_json::Value {
        if let Some(problem) = &self.problem {
            let mut document = serde_json::json!(problem);
            if problem.hint.is_none() {
                document["hint"] = hint_of_code(&self.code).into();
            }
            return document;
        }
        let mut document = serde_json::json!({
            "type": "about:blank", "title": "command failed", "code": self.code, "detail": self.detail,
        });
        document["hint"] = self.hint.as_deref().unwrap_or_else(|| hint_of_code(&self.code)).into();
        document
    }

    fn text(&self) -> String {
        // Several things may be wrong at once, each on a line of its own.
        let mut detail = self.detail.lines().map(harmless);
        let mut lines = vec![format!("{} {}", on_stderr(BAD, "error:"), detail.next().unwrap_or_default())];
        lines.extend(detail);
        if let Some(problem) = &self.problem {
            let further = problem.errors.iter().filter(|field| field.detail != problem.detail);
            lines.extend(further.map(|f| format!("  {}: {}", harmless(&f.pointer), harmless(&f.detail))));
        }
        lines.push(format!("code: {}", harmless(&self.code)));
        let hint = self.hint.as_deref().unwrap_or_else(|| hint_of_code(&self.code));
        lines.push(format!("{} {}", on_stderr(ADVICE, "hint:"), harmless(hint)));
        let request = self.problem.as_ref().and_then(|problem| problem.request_id.as_ref());
        lines.extend(request.map(|id| format!("request: {}", harmless(id))));
        lines.join("\n") + "\n"
    }
}

/// What to do next about the system's error below this one, if there is any.
fn io_hint(error: &anyhow::Error) -> Option<String> {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.find_map(|cause| hint_of_io(cause.kind())).map(str::to_owned)
}

/// What to do next about an error of the system.
fn hint_of_io(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::NotFound => {
            Some("check the path; a relative one counts from the directory that the command runs in")
        }
        ErrorKind::PermissionDenied => {
            Some("run it as a user who may do that; `ls -ld` shows whose the file or directory is")
        }
        ErrorKind::AddrInUse => Some(
            "another program listens there: stop it, or choose another port with --listen; port 0 takes any free one",
        ),
        ErrorKind::AddrNotAvailable => Some(
            "--listen takes an address of this machine, or 0.0.0.0 for all of them; `ip address` shows them",
        ),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Some("make room on that disk and repeat the command")
        }
        _ => None,
    }
}

/// What to do next where nothing more is known than the code.
fn hint_of_code(code: &str) -> &'static str {
    match code {
        "usage" => "`gristmill help` lists the commands, and --help after a command its options",
        "unreachable" => "`gristmill doctor` checks the way to the server",
        "unexpected_answer" => "check that the address is a Gristmill server; `gristmill doctor` asks it",
        "configuration" => "`gristmill config check` names every mistake with its line",
        "unauthenticated" => {
            "give a token with --token-file or GRISTMILL_TOKEN, or save one with `gristmill context set`"
        }
        "forbidden" => "ask an administrator for a token that may do this",
        "not_found" => "check the name or id; the `list` commands show what there is",
        "queue_full" => "wait until jobs have ended, and submit it again with the same --idempotency-key",
        "precondition_failed" => "somebody changed it meanwhile; look at it and repeat the command",
        "unavailable" | "internal" => {
            "repeat the command; if it goes on, look at the server's log with the request id"
        }
        _ => "`gristmill doctor` checks this machine; --log-level debug says more",
    }
}

/// Every cause after the other; one whose text repeats a part of the text before is left out.
fn chain_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text = text + colon + &cause;
        }
    }
    text
}

/// Shows an error on standard error, with `json` also as the one document on standard output, and
/// returns the exit code that goes with it.
pub(crate) fn report(error: &anyhow::Error, json: bool) -> Exit {
    let shown = Shown::of(error);
    let _ = std::io::stderr().write_all(shown.text().as_bytes());
    if json {
        let _ = writeln!(std::io::stdout(), "{:#}", shown.document());
    }
    shown.exit
}

/// The document that stands for an error.
pub(crate) fn document(error: &anyhow::Error) -> serde_json::Value {
    Shown::of(error).document()
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use gristmill_protocol::FieldError;

    use super::*;

    fn refusal() -> ClientError {
        let problem = Problem {
            kind: "about:blank".into(),
            title: "invalid request".into(),
            status: 400,
            detail: "the job is not valid".into(),
            code: ErrorCode::InvalidRequest,
            hint: Some("correct the fields".into()),
            request_id: Some("r1".into()),
            errors: vec![FieldError { pointer: "/retries".into(), detail: "0 to 100\u{1b}[2J".into() }],
        };
        ClientError::Api { problem: Box::new(problem), retry_after_s: None }
    }

    #[test]
    fn every_state_of_a_job_has_its_exit_code() {
        let codes: Vec<_> = JobState::ALL.iter().map(|&state| Exit::of_job(state).code()).collect();
        assert_eq!(codes, [5, 5, 0, 3, 4]);
    }

    #[test]
    fn a_refusal_of_the_server_is_shown_with_code_hint_and_harmless_fields() {
        let error = Err::<(), _>(refusal()).context("cannot submit the job").expect_err("an error");
        let shown = Shown::of(&error);
        assert_eq!(shown.exit, Exit::Error);
        assert_eq!(
            shown.text(),
            "error: cannot submit the job: the job is not valid\n  /retries: 0 to 100\\x1b[2J\n\
             code: invalid_request\nhint: correct the fields\nrequest: r1\n"
        );
        assert_eq!(shown.document()["code"], "invalid_request");
    }

    #[test]
    fn an_error_of_the_system_says_what_to_do_about_it() {
        let taken =
            anyhow::Error::from(io::Error::from(ErrorKind::AddrInUse)).context("cannot start the server");
        let hint = Shown::of(&taken).hint.expect("a hint");
        assert!(hint.contains("another port with --listen"), "{hint}");
        let missing = Failure::file("--in a=b", &io::Error::from(ErrorKind::NotFound));
        assert!(missing.hint.expect("a hint").contains("check the path"));
        let unknown = Shown::of(&anyhow::anyhow!("odd"));
        assert!(unknown.text().contains("gristmill doctor"), "{}", unknown.text());
    }

    #[test]
    fn who_is_not_known_is_told_of_options_and_not_of_headers() {
        let ClientError::Api { mut problem, .. } = refusal() else { panic!("a refusal") };
        problem.code = ErrorCode::Unauthenticated;
        problem.hint = Some("send the header Authorization".into());
        let shown = Shown::of(&ClientError::Api { problem, retry_after_s: None }.into());
        for text in [shown.text(), shown.document()["hint"].to_string()] {
            assert!(
                text.contains("--token-file or GRISTMILL_TOKEN") && text.contains("context set"),
                "{text}"
            );
            assert!(!text.contains("Authorization"), "{text}");
        }
    }

    #[test]
    fn a_cause_that_repeats_what_was_said_is_left_out() {
        let error = anyhow::anyhow!("disk full").context("write failed: disk full").context("cannot start");
        assert_eq!(Shown::of(&error).detail, "cannot start: write failed: disk full");
    }

    #[test]
    fn a_wrong_command_line_ends_with_two_also_below_a_context() {
        let error = anyhow::Error::from(Failure::usage("no such input").hint("see --help")).context("--in");
        let shown = Shown::of(&error);
        assert_eq!((shown.exit, shown.hint.as_deref()), (Exit::Usage, Some("see --help")));
        assert_eq!(shown.document()["code"], "usage");
    }
}
