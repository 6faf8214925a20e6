//! `tollgate revoke`: revokes tokens, lists revocations, and removes them.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};
use x509_cert::der::DateTime;

use super::args::{FilterArguments, Revoke};
use super::client::Client;
use super::failure::Failure;
use super::output::{self, Column, number, text};
use super::select::{percent, query};
use crate::runtime::clock;

/// The page size of a list.
const PAGE: &str = "1000";

const COLUMNS: [Column; 6] = [
    Column { title: "ID", is_number: false },
    Column { title: "AUTH", is_number: false },
    Column { title: "CLAIM", is_number: false },
    Column { title: "ISSUED BEFORE", is_number: false },
    Column { title: "ENDS", is_number: false },
    Column { title: "REASON", is_number: false },
];

/// Executes the command. The exit code is 1 if the process cannot be reached, did not store the change, or has no
/// revocation with the given id.
pub fn run(arguments: &Revoke) -> ExitCode {
    let Revoke { list, remove, .. } = arguments;
    let result = match remove {
        Some(id) => forget(arguments, id),
        None if *list => show(arguments),
        None => revoke(arguments),
    };
    output::finish("revoke", result)
}

fn revoke(arguments: &Revoke) -> Result<(), Failure> {
    let Revoke { connection, auth, subject, jti, sid, issued_before, expires, reason, .. } = arguments;
    let issued_before = issued_before.as_deref().map(time).transpose()?;
    let body = json!({
        "auth": auth, "subject": subject, "jti": jti, "sid": sid,
        "issued_before": issued_before, "expires": expires, "reason": reason,
    });
    let answer = Client::new(connection)?.request(Method::POST, "/v1/revocations", Some(&body))?;
    if connection.json { output::print_json(&answer) } else { output::print(&made(&answer)) }
}

fn made(answer: &Value) -> String {
    let ended = answer.get("ended").and_then(Value::as_u64).unwrap_or_default();
    let sessions = if ended == 1 { "session" } else { "sessions" };
    let durable = answer.get("durable").and_then(Value::as_bool).unwrap_or_default();
    let until = if durable { "" } else { "in memory only: it ends with the process, which has no state_dir\n" };
    let id = output::escape(&text(answer, "id"));
    let nodes = match answer.get("cluster").and_then(Value::as_bool) {
        Some(true) => "the other nodes of the cluster revoke it, too\n",
        Some(false) => "the other nodes of the cluster revoke it once the server of the cluster answers\n",
        None => "",
    };
    format!("revoked {id} until {}, closing {ended} {sessions}\n{until}{nodes}", date(answer, "expires"))
}

fn forget(arguments: &Revoke, id: &str) -> Result<(), Failure> {
    let target = format!("/v1/revocations/{}", percent(id));
    Client::new(&arguments.connection)?.request(Method::DELETE, &target, None)?;
    if arguments.connection.json {
        return output::print_json(&json!({ "removed": id }));
    }
    output::print(&format!("removed {}\n", output::escape(id)))
}

fn show(arguments: &Revoke) -> Result<(), Failure> {
    let client = Client::new(&arguments.connection)?;
    let (mut revocations, mut cursor) = (Vec::new(), None);
    loop {
        let mut parameters = vec![("limit", PAGE.to_owned())];
        parameters.extend(cursor.map(|cursor| ("cursor", cursor)));
        let target = format!("/v1/revocations{}", query(&FilterArguments::default(), &parameters));
        let mut answer = client.request(Method::GET, &target, None)?;
        if let Some(page) = answer.get_mut("revocations").and_then(Value::as_array_mut) {
            revocations.append(page);
        }
        cursor = answer.get("cursor").and_then(Value::as_str).map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    if arguments.connection.json {
        return output::print_json(&json!({ "revocations": revocations }));
    }
    output::print(&output::table(&COLUMNS, &revocations.iter().map(row).collect::<Vec<_>>()))
}

fn row(revocation: &Value) -> Vec<String> {
    let is_text = |name: &&&str| revocation.get(**name).is_some_and(Value::is_string);
    let claim = ["subject", "jti", "sid"].iter().find(is_text).copied().unwrap_or_default();
    let auth = if text(revocation, "auth") == "-" { "any".to_owned() } else { text(revocation, "auth") };
    let is_of_file = text(revocation, "source") == "file";
    let ends = if is_of_file && number(revocation, "expires") > FAR {
        "listed".to_owned()
    } else {
        date(revocation, "expires")
    };
    let issued_before = date(revocation, "issued_before");
    let claim = format!("{claim} {}", text(revocation, claim));
    vec![text(revocation, "id"), auth, claim, issued_before, ends, text(revocation, "reason")]
}

/// An end that is later than this was not given.
const FAR: f64 = 253_402_300_000.0;

/// Formats a time of the answer; `-` if it is absent.
fn date(value: &Value, name: &str) -> String {
    let seconds = value.get(name).and_then(Value::as_f64);
    let time = seconds.and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds.floor()).ok());
    time.and_then(|time| DateTime::from_unix_duration(time).ok()).map_or("-".to_owned(), |date| date.to_string())
}

/// Parses the time of `--issued-before`.
fn time(text: &str) -> Result<f64, Failure> {
    if text == "now" {
        return Ok(clock::both().unix.as_secs_f64());
    }
    let failed = || Failure::of_arguments("--issued-before: write seconds since 1970, or now");
    text.parse().ok().filter(|seconds: &f64| seconds.is_finite()).ok_or_else(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_is_a_line() {
        let revocation = json!({
            "id": "0a", "source": "api", "auth": "users", "subject": "ada", "jti": null, "sid": null,
            "without_sid": false, "issued_before": 1_800_000_000.5, "expires": 1_800_000_060.0, "reason": null,
        });
        let expected = ["0a", "users", "subject ada", "2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z", "-"];
        assert_eq!(row(&revocation), expected);
        let listed = json!({ "id": "0b", "source": "file", "jti": "t", "expires": 253_402_300_799.0 });
        assert_eq!(row(&listed), ["0b", "any", "jti t", "-", "listed", "-"]);
    }

    #[test]
    fn the_output_says_what_ended_and_whether_it_lasts() {
        let answer = |durable| json!({ "id": "0a", "expires": 1_800_000_000.0, "ended": 1, "durable": durable });
        assert_eq!(made(&answer(true)), "revoked 0a until 2027-01-15T08:00:00Z, closing 1 session\n");
        assert!(made(&answer(false)).contains("in memory only"));
        let shared = |cluster| made(&json!({ "id": "0a", "expires": 0, "durable": true, "cluster": cluster }));
        assert!(
            shared(true).ends_with("revoke it, too\n")
                && shared(false).ends_with("once the server of the cluster answers\n")
        );
    }

    #[test]
    fn times_are_seconds_or_now() {
        assert_eq!(time("1800000000.5"), Ok(1_800_000_000.5));
        assert!(time("now").is_ok_and(|now| now > 1_793_491_200.0));
        assert!(["", "1 h", "NaN", "inf", "yesterday"].iter().all(|text| time(text).is_err()));
    }
}
