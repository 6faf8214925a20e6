//! `tollgate status --open`: prints how a browser reaches the dashboard.

use std::path::Path;

use serde_json::json;

use super::args::Connection;
use super::client::Target;
use super::failure::Failure;
use super::output;
use crate::cli::shell::quote;

/// The port on the operator's own machine that leads to a Unix socket.
const LOCAL_PORT: u16 = 9640;

/// Prints how to reach the dashboard. Nothing is connected.
///
/// # Errors
/// If the arguments or the configuration name no address, or standard output cannot be written.
pub fn show(arguments: &Connection) -> Result<(), Failure> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let ways = Ways::new(&Target::of(arguments)?, &name);
    if arguments.json {
        let Ways { here, ssh, there } = ways;
        return output::print_json(&json!({ "here": here, "ssh": ssh, "there": there }));
    }
    output::print(&ways.text())
}

/// The ways to the dashboard.
#[derive(Debug, PartialEq, Eq)]
struct Ways {
    /// The URL on the machine of the process. `None`: a browser cannot open a Unix socket.
    here: Option<String>,
    /// The command on another machine, which forwards a port of it.
    ssh: String,
    /// The URL on that machine.
    there: String,
}

impl Ways {
    fn new(target: &Target, machine: &str) -> Self {
        let machine = quote(Path::new(machine));
        match target {
            Target::Unix(path) => Self {
                here: None,
                ssh: format!("ssh -N -L {LOCAL_PORT}:{} {machine}", quote(path)),
                there: format!("http://localhost:{LOCAL_PORT}/"),
            },
            Target::Tcp(address) => {
                let port = address.rsplit_once(':').map_or(address.as_str(), |(_, port)| port);
                Self {
                    here: Some(format!("http://{address}/")),
                    ssh: format!("ssh -N -L {port}:{address} {machine}"),
                    there: format!("http://localhost:{port}/"),
                }
            }
        }
    }

    fn text(&self) -> String {
        let Self { here, ssh, there } = self;
        let other = "The name at the end is that of this machine: use the one by which you reach it.";
        let note = match here {
            Some(here) => format!(
                "The dashboard, on this machine: {here}\n\nFrom another machine, run there\n  {ssh}\nand open {there}\n\n\
                 {other}\nThe page asks for the token of `token_file` or `read_token_file` in [admin].\n"
            ),
            None => format!(
                "The dashboard is on a Unix socket, which a browser reaches by ssh. On your own machine, run\n  {ssh}\n\
                 and open {there}\n\n{other}\nThe user of ssh needs access to the socket: see `socket_group` in [admin].\n\
                 While ssh runs, every user of your machine has that access, too.\n"
            ),
        };
        output::escape(&note) + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(address: &str) -> (Option<String>, String, String) {
        let Ways { here, ssh, there } = Ways::new(&Target::parse(address).unwrap(), "gate-1");
        (here, ssh, there)
    }

    #[test]
    fn a_unix_socket_is_reached_by_ssh() {
        let expected = "ssh -N -L 9640:/run/tollgate/admin.sock gate-1".to_owned();
        assert_eq!(ways("unix:/run/tollgate/admin.sock"), (None, expected, "http://localhost:9640/".to_owned()));
        let (_, ssh, _) = ways("unix:/run/a b/admin.sock");
        assert_eq!(ssh, "ssh -N -L 9640:'/run/a b/admin.sock' gate-1");
    }

    #[test]
    fn a_tcp_address_is_opened_or_forwarded() {
        for (address, ssh) in [
            ("127.0.0.1:9000", "ssh -N -L 9000:127.0.0.1:9000 gate-1"),
            ("[::1]:9000", "ssh -N -L 9000:[::1]:9000 gate-1"),
        ] {
            let expected = (Some(format!("http://{address}/")), ssh.to_owned(), "http://localhost:9000/".to_owned());
            assert_eq!(ways(address), expected);
        }
    }

    #[test]
    fn the_text_has_the_command_and_the_url() {
        let text = Ways::new(&Target::parse("unix:/run/t.sock").unwrap(), "gate-1").text();
        assert!(text.contains("\n  ssh -N -L 9640:/run/t.sock gate-1\nand open http://localhost:9640/\n"), "{text}");
    }
}
