//! The errors and warnings of a configuration, rendered with `file:line:column`, the line, a caret and a label.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};

/// A range of the configuration's text, in bytes.
pub type Span = Range<usize>;

/// Maximum number of diagnostics that are shown. Further ones are only counted: after fifty fixes an operator runs
/// `check` again anyway.
const FAULTS_SHOWN_MAX: usize = 50;

/// How much of a source line is shown from the start of the span, in characters: a line may be as long as the file. The
/// renderer cuts the text before the span, which it needs to count columns.
const SOURCE_AFTER_MAX: usize = 80;

/// How much of a value is quoted in a message, in characters.
const QUOTE_MAX: usize = 60;

/// The diagnostics of one configuration. `Display` shows the errors first, then the urgent warnings, then the others,
/// each in the order of the file, as plain text without colours.
#[derive(Debug, Clone)]
pub struct Report {
    file: String,
    text: String,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Creates a report. The spans of the diagnostics are ranges of `text`.
    pub(super) fn new(file: &Path, text: &str, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics
            .sort_by_key(|diagnostic| (diagnostic.severity, diagnostic.span.as_ref().map_or(0, |span| span.start)));
        Self { file: file.display().to_string(), text: text.to_owned(), diagnostics }
    }

    /// Creates a report of one error that concerns the whole file.
    pub(super) fn of_file(file: &Path, message: String) -> Self {
        Self::new(file, "", vec![Diagnostic::of_file(message)])
    }

    /// Whether an error makes the configuration unusable.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Whether there are no diagnostics.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    /// Returns the diagnostics, errors first.
    #[must_use]
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Returns each diagnostic as one line for the log, `file:line:column: warning: message`; at most fifty, as
    /// `Display`.
    pub fn lines(&self) -> impl Iterator<Item = (Severity, String)> + '_ {
        self.diagnostics.iter().take(FAULTS_SHOWN_MAX).map(|diagnostic| {
            let Diagnostic { severity, message, .. } = diagnostic;
            let line = match &diagnostic.span {
                Some(span) => {
                    let position = Position::of(&self.text, span);
                    format!("{}:{}:{}: {severity}: {message}", self.file, position.line, position.column)
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
        let Diagnostic { label, hides_rest, .. } = diagnostic;
        let mut group = self.point(Group::with_title(title), AnnotationKind::Primary, span, label, *hides_rest);
        if let Some((span, label)) = &diagnostic.related {
            group = self.point(group, AnnotationKind::Context, span, label, false);
        }
        if let Some(help) = &diagnostic.help {
            group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
        }
        Renderer::plain().render(&[group])
    }

    /// Adds a position, its line and the caret.
    fn point<'a>(
        &'a self,
        group: Group<'a>,
        kind: AnnotationKind,
        span: &Span,
        label: &'a str,
        hides_rest: bool,
    ) -> Group<'a> {
        let mut position = Position::of(&self.text, span);
        if hides_rest {
            position.source = position.source.get(..position.marked.end).unwrap_or_default();
        }
        let mut annotation = kind.span(position.marked);
        if !label.is_empty() {
            annotation = annotation.label(label);
        }
        group.element(
            Snippet::source(position.source).path(self.file.as_str()).line_start(position.line).annotation(annotation),
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

/// The severity of a diagnostic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is unusable.
    Error,
    /// The configuration is usable, but clients will fail because of it.
    Urgent,
    /// The configuration is usable, but the operator should look at it.
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

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Its severity.
    pub severity: Severity,
    /// The text that it refers to; `None`: the whole file.
    pub span: Option<Span>,
    /// The message, without a full stop.
    pub message: String,
    /// The label at the caret; may be empty.
    pub label: String,
    /// A related span and its label.
    pub related: Option<(Span, String)>,
    /// How to fix it.
    pub help: Option<String>,
    /// Whether the line is not shown beyond the span, because it has a secret.
    pub hides_rest: bool,
}

impl Diagnostic {
    /// Creates an error.
    pub(super) fn error(span: Span, message: impl Into<String>) -> Self {
        let (severity, label) = (Severity::Error, String::new());
        let (message, hides_rest) = (message.into(), false);
        Self { severity, span: Some(span), message, label, related: None, help: None, hides_rest }
    }

    /// Creates an error without a span, for something that the file does not contain.
    pub(super) fn of_file(message: impl Into<String>) -> Self {
        Self { span: None, ..Self::error(0..0, message) }
    }

    /// Creates a warning, for something that is allowed but probably unintended.
    pub(super) fn warning(span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, message) }
    }

    /// Makes it a warning that the log shows as an error.
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

    /// Leaves out the line beyond the span.
    pub(super) fn hide_rest(self) -> Self {
        Self { hides_rest: true, ..self }
    }
}

/// Collects the diagnostics of the readers, so that a reader need not stop at its first error.
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

/// Quotes a value for a message: escapes it, and truncates a long one.
pub(super) fn quote(value: &str) -> String {
    let mut shown: String = value.chars().take(QUOTE_MAX).flat_map(char::escape_debug).collect();
    if value.chars().nth(QUOTE_MAX).is_some() {
        shown.push_str("...");
    }
    format!("\"{shown}\"")
}

/// The position of a span, and the part of its line that is shown.
struct Position<'a> {
    /// Counted from 1.
    line: usize,
    /// In characters, counted from 1.
    column: usize,
    /// The part of the line that is shown.
    source: &'a str,
    /// The range that the caret marks, in bytes of `source`.
    marked: Range<usize>,
}

impl<'a> Position<'a> {
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

/// Returns the last index up to this one at which a character starts or the text ends.
fn char_boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|index| text.is_char_boundary(*index)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_and_stays_within_its_line() {
        let text = "a\r\n\tü = \"x\r\n";
        let position = Position::of(text, &(8..20));
        assert_eq!((position.line, position.column, position.source, position.marked), (2, 5, "\tü = \"x", 5..8));
    }

    #[test]
    fn a_long_line_is_cut_around_the_span() {
        let text = format!("{}X{}", "ä".repeat(10_000), "b".repeat(10_000));
        let shown = Report::new(Path::new("x"), &text, vec![Diagnostic::error(20_000..30_000, "wrong").label("here")])
            .to_string();
        assert!(shown.contains("--> x:1:10001\n"), "{shown}");
        assert!(shown.contains("äX") && shown.contains("^ here"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() < 160), "{shown}");
    }

    #[test]
    fn spans_beyond_the_text_are_clamped() {
        for span in [0..0, 3..3, 100..200, 2..usize::MAX] {
            let position = Position::of("aé\nb", &span);
            assert!(position.source.get(position.marked).is_some());
        }
    }

    #[test]
    fn only_fifty_diagnostics_are_shown() {
        let diagnostics = (0..60).map(|_| Diagnostic::error(0..1, "wrong")).collect();
        let shown = Report::new(Path::new("x.toml"), "a = 1", diagnostics).to_string();
        assert_eq!(shown.matches("error: wrong").count(), 50);
        assert!(shown.ends_with("\nand 10 more\n"));
    }
}
