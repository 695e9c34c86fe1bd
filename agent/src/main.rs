//! `deployd`: the root agent. Parses, calls the library, turns an error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    deployd::cli::main()
}
