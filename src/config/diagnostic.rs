//! What is wrong with a configuration, and how it is shown: `file:line:column`, the line, a caret and a label.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};

/// A place in the configuration's text, in bytes.
pub type Span = Range<usize>;

/// How many faults are shown; the rest is only counted, since whoever has fifty to mend runs `check` again anyway.
const FAULTS_SHOWN_MAX: usize = 50;

/// How much of a source line is shown from the start of a fault on, in characters: a line may be as long as the file.
/// What stands before it is cut by the renderer, which has to see it to count columns.
const SOURCE_AFTER_MAX: usize = 80;

/// How much of a value is quoted in a message, in characters.
const QUOTE_MAX: usize = 60;

/// Everything that one reading of a configuration found. `Display` shows the errors first, then the warnings, each in
/// the order of the file, as plain text without colours.
#[derive(Debug, Clone)]
pub struct Report {
    file: String,
    text: String,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// `text` is what the spans of the faults point into.
    pub(super) fn new(file: &Path, text: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics
            .sort_by_key(|diagnostic| (diagnostic.severity, diagnostic.span.as_ref().map_or(0, |span| span.start)));
        Self { file: file.display().to_string(), text: text.to_owned(), diagnostics }
    }

    /// A fault of the file as a whole.
    pub(super) fn of_file(file: &Path, message: String) -> Self {
        Self::new(file, "", vec![Diagnostic::of_file(message)])
    }

    /// Whether a fault makes the configuration unusable.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Whether there is nothing to tell.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// The faults, errors first.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Each fault as one line, `file:line:column: warning: message`, for logs; at most fifty, as with `Display`.
    pub fn lines(&self) -> impl Iterator<Item = (Severity, String)> + '_ {
        self.diagnostics.iter().take(FAULTS_SHOWN_MAX).map(|diagnostic| {
            let Diagnostic { severity, message, .. } = diagnostic;
            let line = match &diagnostic.span {
                Some(span) => {
                    let place = Place::of(&self.text, span);
                    format!("{}:{}:{}: {severity}: {message}", self.file, place.line, place.column)
                }
                None => format!("{}: {severity}: {message}", self.file),
            };
            (*severity, line)
        })
    }

    fn show(&self, diagnostic: &Diagnostic) -> String {
        let level = match diagnostic.severity {
            Severity::Error => Level::ERROR,
            Severity::Urgent | Severity::Warning => Level::WARNING,
        };
        let Some(span) = &diagnostic.span else {
            let help = diagnostic.help.as_ref().map_or_else(String::new, |help| format!(" ({help})"));
            return normalize_untrusted_str(&format!(
                "{}: {}: {}{help}",
                diagnostic.severity, self.file, diagnostic.message
            ));
        };
        let title = level.primary_title(diagnostic.message.as_str());
        let mut group = self.point(Group::with_title(title), AnnotationKind::Primary, span, &diagnostic.label);
        if let Some((span, label)) = &diagnostic.related {
            group = self.point(group, AnnotationKind::Context, span, label);
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        Renderer::plain().render(&[group])
    }

    /// Adds a place, its line and the caret.
    fn point<'a>(&'a self, group: Group<'a>, kind: AnnotationKind, span: &Span, label: &'a str) -> Group<'a> {
        let place = Place::of(&self.text, span);
        let mut annotation = kind.span(place.marked);
        if !label.is_empty() {
            annotation = annotation.label(label);
        }
        group.element(
            Snippet::source(place.source).path(self.file.as_str()).line_start(place.line).annotation(annotation),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().take(FAULTS_SHOWN_MAX).enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            writeln!(f, "{}", self.show(diagnostic))?;
        }
        match self.diagnostics.len().saturating_sub(FAULTS_SHOWN_MAX) {
            0 => Ok(()),
            more => writeln!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Report {}

/// Whether a fault makes the configuration unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but clients will fail because of it.
    Urgent,
    /// It does not, but it is worth a look.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Urgent | Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether it makes the configuration unusable.
    pub severity: Severity,
    /// Where it stands; absent: the file as a whole.
    pub span: Option<Span>,
    /// What is wrong, as a sentence without full stop.
    pub message: String,
    /// What to say at the caret; may be empty.
    pub label: String,
    /// Another place that belongs to it, and what to say there.
    pub related: Option<(Span, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A fault that makes the configuration unusable.
    pub(super) fn error(span: Span, message: impl Into<String>) -> Self {
        let (severity, label) = (Severity::Error, String::new());
        Self { severity, span: Some(span), message: message.into(), label, related: None, help: None }
    }

    /// A fault that stands nowhere, since it is about what is not there.
    pub(super) fn of_file(message: impl Into<String>) -> Self {
        Self { span: None, ..Self::error(0..0, message) }
    }

    /// Something that is allowed but likely not meant.
    pub(super) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// A warning that the log shows as an error.
    pub(super) fn urgent(self) -> Self {
        Self { severity: Severity::Urgent, ..self }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn related(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related = Some((span, label.into()));
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Where the readers put the faults that they find, so that none of them has to stop at the first.
#[derive(Debug, Default)]
pub(super) struct Diagnostics(RefCell<Vec<Diagnostic>>);

impl Diagnostics {
    pub(super) fn push(&self, diagnostic: Diagnostic) {
        self.0.borrow_mut().push(diagnostic);
    }

    pub(super) fn take(&self) -> Vec<Diagnostic> {
        self.0.take()
    }
}

/// A value as it is quoted in a message: escaped, and cut where it is long.
pub(super) fn quote(value: &str) -> String {
    let mut shown: String = value.chars().take(QUOTE_MAX).flat_map(char::escape_debug).collect();
    if value.chars().nth(QUOTE_MAX).is_some() {
        shown.push_str("...");
    }
    format!("\"{shown}\"")
}

/// Where a span stands and what of its line is shown.
struct Place<'a> {
    /// From 1.
    line: usize,
    /// In characters, from 1.
    column: usize,
    /// The part of the line that is shown.
    source: &'a str,
    /// What the caret marks, in bytes of `source`.
    marked: Range<usize>,
}

impl<'a> Place<'a> {
    fn of(text: &'a str, span: &Span) -> Self {
        let start = char_boundary(text, span.start);
        let (before, after) = text.split_at(start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let head = before.get(line_start..).unwrap_or_default();
        let tail = after.split('\n').next().unwrap_or_default();
        let cut = tail.char_indices().nth(SOURCE_AFTER_MAX).map_or(tail.len(), |(index, _)| index);
        let tail = tail.get(..cut).unwrap_or_default().trim_end();
        let marked_len = char_boundary(tail, span.end.saturating_sub(start));
        Self {
            line: before.matches('\n').count() + 1,
            column: head.chars().count() + 1,
            source: text.get(line_start..start + tail.len()).unwrap_or_default(),
            marked: head.len()..head.len() + marked_len,
        }
    }
}

/// The nearest index at or before this one where a character starts or the text ends.
fn char_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_stays_within_its_line() {
        let text = "a\r\n\tü = \"x\r\n";
        let place = Place::of(text, &(8..20));
        assert_eq!((place.line, place.column, place.source, place.marked), (2, 5, "\tü = \"x", 5..8));
    }

    #[test]
    fn a_long_line_is_cut_around_the_fault() {
        let text = format!("{}X{}", "ä".repeat(10_000), "b".repeat(10_000));
        let shown = Report::new(Path::new("x"), &text, vec![Diagnostic::error(20_000..30_000, "wrong").label("here")])
            .to_string();
        assert!(shown.contains("--> x:1:10001\n"), "{shown}");
        assert!(shown.contains("äX") && shown.contains("^ here"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() < 160), "{shown}");
    }

    #[test]
    fn spans_beyond_the_text_do_no_harm() {
        for span in [0..0, 3..3, 100..200, 2..usize::MAX] {
            let place = Place::of("aé\nb", &span);
            assert!(place.source.get(place.marked).is_some());
        }
    }

    #[test]
    fn only_fifty_faults_are_shown() {
        let diagnostics = (0..60).map(|_| Diagnostic::error(0..1, "wrong")).collect();
        let shown = Report::new(Path::new("x.toml"), "a = 1", diagnostics).to_string();
        assert_eq!(shown.matches("error: wrong").count(), 50);
        assert!(shown.ends_with("\nand 10 more\n"));
    }
}
