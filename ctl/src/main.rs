//! deployd-ctl: reads the command line and ends with the exit code of `deployd_api::exit`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    deployd_ctl::run(&arguments)
}
