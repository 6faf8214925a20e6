//! The failure of a command that talks to a running process.

use http::StatusCode;
use serde_json::Value;

/// The exit codes of a failure.
const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 64;
pub(super) const EXIT_CONFIG: u8 = 78;

/// The failure of a command: its exit code, and its message for standard error.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// The message.
    pub message: String,
}

impl Failure {
    /// A failure while running.
    pub fn new(message: impl Into<String>) -> Self {
        Self { code: EXIT_FAILURE, message: message.into() }
    }

    /// A failure because of the arguments.
    pub fn of_arguments(message: impl Into<String>) -> Self {
        Self { code: EXIT_USAGE, message: message.into() }
    }

    /// Converts the answer of a request that failed. The problem's detail is for people (RFC 9457 section 3.1.4).
    pub fn of_answer(status: StatusCode, problem: &Value) -> Self {
        let text = |name: &str| problem.get(name).and_then(Value::as_str);
        let detail = text("detail").or_else(|| status.canonical_reason()).unwrap_or("an error without a text");
        match (status, text("report")) {
            (StatusCode::UNPROCESSABLE_ENTITY, Some(report)) => {
                Self { code: EXIT_CONFIG, message: format!("{}\n{detail}", report.trim_end()) }
            }
            (StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE, _) => Self::of_arguments(detail),
            (StatusCode::UNAUTHORIZED, _) => Self::new(format!("{detail} (name its file: --token-file FILE)")),
            _ => Self::new(detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_problem_decides_the_exit_code() {
        let of = |status, problem| Failure::of_answer(StatusCode::from_u16(status).unwrap(), &problem);
        assert_eq!(of(404, json!({ "detail": "no session" })), Failure::new("no session"));
        assert_eq!(of(400, json!({ "detail": "bad" })), Failure::of_arguments("bad"));
        assert_eq!(of(500, json!(null)), Failure::new("Internal Server Error"));
        let invalid = of(422, json!({ "detail": "invalid", "report": "error: here\n" }));
        assert_eq!(invalid, Failure { code: 78, message: "error: here\ninvalid".to_owned() });
    }
}
