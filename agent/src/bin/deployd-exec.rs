//! deployd-exec: between a unit's `ExecStart=` and the program; maps passed sockets to what it expects.
//!
//! Agentless: `run` and `proxy` talk to nobody, so that restarts and boots need no agent. The modules are
//! included here rather than taken from the library, so that nothing of the agent is linked in.
//! Failures end with status 75 (`EX_TEMPFAIL`) and one line on standard error.

#[path = "../exec/mod.rs"]
mod exec;

use std::io::Write as _;
use std::process::ExitCode;

/// What units know as "the trampoline could not do its part", apart from any status of the program.
const FAILED: u8 = 75;

fn main() -> ExitCode {
    let Err(error) = exec::main(std::env::args_os().skip(1)) else { return ExitCode::SUCCESS };
    let mut line = format!("deployd-exec: {error}");
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        line.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    let _ = writeln!(std::io::stderr(), "{}", line.replace('\n', " "));
    ExitCode::from(FAILED)
}
