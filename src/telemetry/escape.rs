//! Escapes characters on which a terminal, a pager or a line reader would act instead of showing them.
//!
//! Clients choose paths, hosts, origins and subjects. Every log line is escaped here as a whole, so that no field can
//! be missed.

use std::fmt::{self, Write};

/// The syntax of an escaped character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As in a JSON string (RFC 8259 section 7).
    Json,
    /// As in Rust: `\u{1b}`.
    Text,
}

/// A writer that escapes the characters of one line. The line feed at the end of the line stays.
#[derive(Debug)]
pub struct Escaping<W> {
    inner: W,
    form: Form,
    /// A line feed was written. It ends the line unless more text follows.
    line_feed: bool,
}

impl<W: Write> Escaping<W> {
    /// Begins an empty line.
    pub fn new(inner: W, form: Form) -> Self {
        Self { inner, form, line_feed: false }
    }

    /// Ends the line.
    ///
    /// # Errors
    /// If the inner writer fails.
    pub fn finish(mut self) -> fmt::Result {
        if self.line_feed { self.inner.write_char('\n') } else { Ok(()) }
    }

    fn escape(&mut self, c: char) -> fmt::Result {
        match self.form {
            Form::Text => write!(self.inner, "{}", c.escape_unicode()),
            Form::Json => {
                // Characters outside the basic plane are written as a surrogate pair.
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().try_for_each(|unit| write!(self.inner, "\\u{unit:04x}"))
            }
        }
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.is_empty() {
            return Ok(());
        }
        if std::mem::take(&mut self.line_feed) {
            self.escape('\n')?;
        }
        let text = match text.strip_suffix('\n') {
            Some(text) => {
                self.line_feed = true;
                text
            }
            None => text,
        };
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe(*c)) {
            let (plain, after) = rest.split_at(at);
            self.inner.write_str(plain)?;
            self.escape(c)?;
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        self.inner.write_str(rest)
    }
}

/// Whether a character acts on the display instead of being shown: it moves the cursor, ends a line, changes the
/// direction of the text around it, or is invisible.
pub fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic letter mark, Mongolian vowel separator.
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            // Zero-width characters, and left-to-right and right-to-left marks.
            | '\u{200b}'..='\u{200f}'
            // Line and paragraph separators, and bidirectional embeddings and overrides.
            | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, bidirectional isolates, deprecated format characters.
            | '\u{2060}'..='\u{206f}'
            // Byte order mark, interlinear annotations, noncharacters.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}'..='\u{ffff}'
            // Tags, which encode invisible text.
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(form: Form, pieces: &[&str]) -> String {
        let mut line = String::new();
        let mut writer = Escaping::new(&mut line, form);
        for piece in pieces {
            writer.write_str(piece).unwrap();
        }
        writer.finish().unwrap();
        line
    }

    #[test]
    fn only_the_line_feed_at_the_end_of_a_line_is_kept() {
        for (pieces, expected) in [
            (&["a", "\n"][..], "a\n"),
            (&["a\n", "b\n", "", "\n"], "a\\u{a}b\\u{a}\n"),
            (&["a\nb"], "a\\u{a}b"),
            (&["", "a\u{1b}[1m\u{9b}\u{202e}é\n"], "a\\u{1b}[1m\\u{9b}\\u{202e}é\n"),
            (&[], ""),
        ] {
            assert_eq!(escaped(Form::Text, pieces), expected);
        }
    }

    #[test]
    fn json_escapes_have_four_digits_and_surrogate_pairs() {
        assert_eq!(escaped(Form::Json, &["\u{7f}\u{2028}\u{e0041}\n"]), "\\u007f\\u2028\\udb40\\udc41\n");
    }
}
