//! `tollgate man`: prints the man page of the program, or writes one page for the program and for each subcommand.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use super::args::{Arguments, ManPages};
use super::print::print;

const FILES: &[(&str, &str)] = &[
    ("/etc/tollgate/tollgate.toml", "The configuration, unless --config names another file."),
    ("/usr/share/doc/tollgate/examples/tollgate.toml", "Every key of the configuration, in the Debian package."),
];

const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "CREDENTIALS_DIRECTORY",
        "The directory with the files that the configuration names credential:NAME. Set by systemd.",
    ),
    ("NOTIFY_SOCKET", "The socket for reports of the state of the process. Set by systemd."),
];

const EXIT_STATUS: &[(&str, &str)] =
    &[("0", "Done."), ("1", "Failed while running."), ("64", "Bad arguments."), ("78", "Bad configuration.")];

/// Prints the page, or writes all pages into a directory. The exit code is 1 if that fails.
pub fn run(arguments: &ManPages) -> ExitCode {
    let Some(directory) = &arguments.directory else {
        return render(&command()).map_or(ExitCode::FAILURE, |page| print(&page));
    };
    match write_pages(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate man: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// Returns the command line with the full name of each subcommand: `tollgate-check`.
fn command() -> clap::Command {
    let mut command = Arguments::command();
    command.build();
    command
}

fn write_pages(directory: &Path) -> io::Result<()> {
    let command = command();
    for command in std::iter::once(&command).chain(command.get_subcommands()) {
        let name = Man::new(command.clone()).get_filename();
        fs::write(directory.join(name), render(command)?)?;
    }
    Ok(())
}

/// Returns the page of a command in roff.
fn render(command: &clap::Command) -> io::Result<Vec<u8>> {
    let source = concat!("tollgate ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(source);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    if is_program(command) {
        man.render_subcommands_section(&mut page)?;
    } else if command.has_subcommands() {
        let usages: Vec<_> = command.get_subcommands().map(usage).collect();
        let terms: Vec<_> = usages.iter().map(|(usage, about)| (usage.as_str(), about.as_str())).collect();
        definitions(&mut roff, "SUBCOMMANDS", &terms);
    }
    definitions(&mut roff, "FILES", FILES);
    definitions(&mut roff, "ENVIRONMENT", ENVIRONMENT);
    definitions(&mut roff, "EXIT STATUS", EXIT_STATUS);
    roff.control("SH", ["SEE ALSO"]).text(see_also(command));
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// Whether this is the program, whose subcommands have pages of their own.
fn is_program(command: &clap::Command) -> bool {
    command.get_name() == env!("CARGO_PKG_NAME")
}

/// Returns the name and the arguments of a subcommand, and what it does.
fn usage(command: &clap::Command) -> (String, String) {
    let arguments = command
        .get_positionals()
        .map(|argument| format!(" {}", argument.get_value_names().unwrap_or_default().join(" ")));
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    (format!("{}{}", command.get_name(), arguments.collect::<String>()), about)
}

/// Adds a section of terms, each with its meaning.
fn definitions(roff: &mut Roff, title: &str, terms: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (term, meaning) in terms {
        roff.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
    }
}

/// Returns the names of the related pages: the subcommands of the program, or the program of a subcommand.
fn see_also(command: &clap::Command) -> Vec<Inline> {
    let pages: Vec<String> = if is_program(command) {
        command.get_subcommands().map(|one| format!("tollgate-{}", one.get_name())).collect()
    } else {
        vec!["tollgate".to_owned()]
    };
    let reference = |(at, page): (usize, String)| {
        let comma = if at == 0 { "" } else { ", " };
        [roman(comma), bold(page), roman("(1)")]
    };
    pages.into_iter().enumerate().flat_map(reference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_the_files_and_the_exit_codes() {
        let command = command();
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            let page = String::from_utf8(render(command).unwrap()).unwrap();
            for title in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "FILES", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
                assert!(page.contains(&format!(".SH {title}\n")), "{title}: {page}");
            }
            assert!(page.contains("/etc/tollgate/tollgate.toml"), "{page}");
            for code in ["0", "1", "64", "78"] {
                assert!(page.contains(&format!(".TP\n\\fB{code}\\fR\n")), "{code}: {page}");
            }
        }
    }

    #[test]
    fn the_page_of_a_subcommand_describes_its_own_subcommands() {
        let command = command();
        let page = render(command.find_subcommand("upstreams").unwrap()).unwrap();
        let page = String::from_utf8(page).unwrap();
        for text in [".SH SUBCOMMANDS\n", "drain NAME SERVER", "\\fBtollgate\\fR(1)"] {
            assert!(page.contains(text), "{text}: {page}");
        }
        assert!(!page.contains("tollgate\\-drain") && !page.contains("tollgate\\-upstreams\\-drain"), "{page}");
    }

    #[test]
    fn the_page_of_the_program_names_the_page_of_each_subcommand() {
        let page = String::from_utf8(render(&command()).unwrap()).unwrap();
        for subcommand in command().get_subcommands() {
            let name = format!("tollgate\\-{}", subcommand.get_name());
            assert!(page.contains(&name), "{name}: {page}");
        }
    }
}
