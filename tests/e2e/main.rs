//! The real binary, end to end: each test starts it as a child process, and plays the client and the upstream itself, so
//! that both ends can be wrong in every way. One file a topic; `support` is the stage.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

mod support;

mod refusals;
mod requests;
mod closes;
mod closing;
mod deadlines;
mod passing;
mod headers;
mod log_lines;
mod metering;
mod abuse;
mod operations;
mod upstreams;
mod tls;
