//! The table of the sections of the file.

/// A section of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionForm {
    /// Its name, with the name of its parent section.
    pub name: &'static str,
    /// Its header as written in the file.
    pub written: &'static str,
}

/// Every section.
pub const SECTIONS: &[SectionForm] = &[
    SectionForm { name: "server", written: "[server]" },
    SectionForm { name: "log", written: "[log]" },
    SectionForm { name: "admin", written: "[admin]" },
    SectionForm { name: "metrics", written: "[metrics]" },
    SectionForm { name: "listener", written: "[[listener]]" },
    SectionForm { name: "acme", written: "[acme.NAME]" },
    SectionForm { name: "auth", written: "[auth.NAME]" },
    SectionForm { name: "upstream", written: "[upstream.NAME]" },
    SectionForm { name: "upstream.health", written: "[upstream.NAME.health]" },
    SectionForm { name: "route", written: "[[route]]" },
    SectionForm { name: "route.limits", written: "[route.limits]" },
    SectionForm { name: "cluster", written: "[cluster]" },
];
