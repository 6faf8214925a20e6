//! The settings of a section as the configuration file has them.

use serde::Serialize;
use utoipa::ToSchema;

use crate::config::{Setting, SettingLines, SettingSection};

/// A setting of a section.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct WrittenSetting {
    /// The key; of the limits of a route: `limits.KEY`.
    key: String,
    /// The value as the file has it, cut to 512 bytes.
    value: String,
    /// The line, counted from 1.
    line: usize,
}

/// Returns the settings that the file has for a section, in the order of the file. Keys of `inner`, a section within it,
/// follow with its name before them.
pub(super) fn written(
    lines: &SettingLines,
    section: SettingSection<'_>,
    inner: Option<(&str, SettingSection<'_>)>,
) -> Vec<WrittenSetting> {
    let own = lines.settings(section).map(|setting| WrittenSetting::new(setting.key.to_owned(), setting));
    let inner = inner.into_iter().flat_map(|(name, section)| {
        let settings = lines.settings(section);
        settings.map(move |setting| WrittenSetting::new(format!("{name}.{}", setting.key), setting))
    });
    own.chain(inner).collect()
}

/// Returns the line of a section.
pub(super) fn line(lines: &SettingLines, section: SettingSection<'_>) -> Option<usize> {
    lines.find(section, "").map(|found| found.line)
}

impl WrittenSetting {
    fn new(key: String, setting: &Setting) -> Self {
        Self { key, value: setting.value.to_string(), line: setting.line }
    }
}
