//! A revocation in JSON, as the API, `revocations_file` and the journal write it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::entry::{Kind, Revocation, Target, VALUE_MAX_CHARS};

/// The maximum length of `reason`, in characters.
pub const REASON_MAX_CHARS: usize = 256;
/// The latest time that can be written: the end of the year 9999.
pub const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// A revocation as it is written. Times are seconds since the Unix epoch, kept to the millisecond.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WrittenRevocation {
    /// The name of the `[auth]` section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// The subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The id of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// The id of a session at the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// Whether only the subject's tokens without a `sid` are meant.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub without_sid: bool,
    /// Only tokens that were issued before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<f64>,
    /// The end of the revocation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<f64>,
    /// The time at which it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<f64>,
    /// A note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a written revocation is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrittenError {
    /// There is not exactly one of `subject`, `jti` and `sid`.
    Claims,
    /// A `subject` has no `auth`.
    SubjectWithoutAuth,
    /// `auth` is not the name of a section.
    Auth,
    /// The value is empty or longer than [`VALUE_MAX_CHARS`].
    Value,
    /// `without_sid` is given without a `subject`.
    WithoutSid,
    /// This time is negative or later than [`LATEST`].
    Time(&'static str),
    /// `reason` is longer than [`REASON_MAX_CHARS`].
    Reason,
}

impl fmt::Display for WrittenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claims => f.write_str("a revocation has exactly one of `subject`, `jti` and `sid`"),
            Self::SubjectWithoutAuth => {
                f.write_str("`subject` needs `auth`: equal subjects of two [auth] sections are different clients")
            }
            Self::Auth => f.write_str("`auth` is not the name of an [auth] section"),
            Self::Value => write!(f, "`subject`, `jti` and `sid` have 1 to {VALUE_MAX_CHARS} characters"),
            Self::WithoutSid => f.write_str("`without_sid` needs `subject`"),
            Self::Time(name) => write!(f, "`{name}` is a time in seconds since 1970"),
            Self::Reason => write!(f, "`reason` may have at most {REASON_MAX_CHARS} characters"),
        }
    }
}

impl std::error::Error for WrittenError {}

impl WrittenRevocation {
    /// Writes a revocation.
    pub fn of(revocation: &Revocation) -> Self {
        let Revocation { target, issued_before, expires, created, reason } = revocation;
        let value = |kinds: &[Kind]| kinds.contains(&target.kind()).then(|| target.value().to_owned());
        Self {
            auth: target.auth().map(str::to_owned),
            subject: value(&[Kind::Subject, Kind::SubjectWithoutSession]),
            jti: value(&[Kind::Token]),
            sid: value(&[Kind::Session]),
            without_sid: target.kind() == Kind::SubjectWithoutSession,
            issued_before: issued_before.map(seconds),
            expires: Some(seconds(*expires)),
            created: Some(seconds(*created)),
            reason: reason.as_deref().map(str::to_owned),
        }
    }

    /// Reads the revocation. `now` is the default of `created`, and `end` that of `expires`.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn read(self, now: Duration, end: Duration) -> Result<Revocation, WrittenError> {
        let Self { auth, subject, jti, sid, without_sid, issued_before, expires, created, reason } = self;
        let (kind, value) = match (subject, jti, sid) {
            (Some(subject), None, None) if without_sid => (Kind::SubjectWithoutSession, subject),
            (Some(subject), None, None) => (Kind::Subject, subject),
            (None, Some(jti), None) => (Kind::Token, jti),
            (None, None, Some(sid)) => (Kind::Session, sid),
            _ => return Err(WrittenError::Claims),
        };
        if without_sid && kind != Kind::SubjectWithoutSession {
            return Err(WrittenError::WithoutSid);
        }
        if auth.is_none() && !matches!(kind, Kind::Token | Kind::Session) {
            return Err(WrittenError::SubjectWithoutAuth);
        }
        if auth.as_deref().is_some_and(|auth| auth.is_empty() || auth.contains('\0')) {
            return Err(WrittenError::Auth);
        }
        if reason.as_ref().is_some_and(|reason| reason.chars().nth(REASON_MAX_CHARS).is_some()) {
            return Err(WrittenError::Reason);
        }
        Ok(Revocation {
            target: Target::new(kind, auth.as_deref(), &value).ok_or(WrittenError::Value)?,
            issued_before: issued_before.map(|time| duration("issued_before", time)).transpose()?,
            expires: expires.map_or(Ok(to_millis(end)), |time| duration("expires", time))?,
            created: created.map_or(Ok(to_millis(now)), |time| duration("created", time))?,
            reason: reason.map(Box::from),
        })
    }
}

/// Shows the section only: the values are personal data.
impl fmt::Debug for WrittenRevocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrittenRevocation").field("auth", &self.auth).finish_non_exhaustive()
    }
}

/// Returns a time to the millisecond, so that it is the same after it was written and read.
fn to_millis(time: Duration) -> Duration {
    let millis = u64::try_from(time.min(LATEST).as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis)
}

#[expect(clippy::cast_precision_loss, reason = "the milliseconds up to the year 9999 fit the mantissa")]
fn seconds(time: Duration) -> f64 {
    to_millis(time).as_millis() as f64 / 1000.0
}

/// Returns the nearest whole number of milliseconds: a fraction has no exact form in binary.
fn duration(name: &'static str, seconds: f64) -> Result<Duration, WrittenError> {
    let millis = (seconds * 1000.0).round();
    if !(0.0..=1000.0 * LATEST.as_secs_f64()).contains(&millis) {
        return Err(WrittenError::Time(name));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok(Duration::from_millis(millis as u64))
}
