//! The host's epmd: the name server of BEAM nodes, in a unit of its own.
//!
//! Without one the first node of a host starts it in its own unit. It ends with that instance, all names are
//! lost, and a node that boots at that moment fails. This one belongs to no app and to no release: it runs
//! from a copy of its own, and it is removed when the last app that has BEAM releases goes.

use std::path::Path;

use super::path;
use super::sandbox::{Setting, Value, sandbox};
use crate::action::UnitFile;

/// The unit.
pub const EPMD: &str = "deployd-epmd.service";

/// The line by which a template of a BEAM release asks for it. Whoever has it is a user of the unit.
pub fn epmd_wanted() -> String {
    format!("Wants={EPMD}")
}

/// Where its program is kept, beside the folders of trampolines, one of which `runtime` is.
pub fn epmd_program(runtime: &str) -> String {
    let runtimes = Path::new(runtime).parent().unwrap_or(Path::new("/var/lib/deployd/runtime"));
    runtimes.join("epmd/epmd").to_string_lossy().into_owned()
}

/// Its unit file.
pub fn epmd_file(program: &str) -> UnitFile {
    // A stranger's epmd serves as well, and two cannot. Nodes start after this one: it is up when it answers.
    let mut t = format!(
        "# epmd of this host's BEAM releases: written by deployd for the first one, removed with the last.\n\
         [Unit]\nDescription=epmd for BEAM releases\nStartLimitIntervalSec=0\n\n\
         [Service]\nType=exec\nUser=deployd-epmd\nDynamicUser=yes\n\
         ExecCondition=/bin/sh -c '! {program} -names >/dev/null 2>&1'\n\
         ExecStart={program} -address 127.0.0.1\n\
         ExecStartPost=/bin/sh -c 'until {program} -names >/dev/null 2>&1; do sleep 0.02; done'\n\
         TimeoutStartSec=10\nRestart=always\nRestartSec=200ms\n"
    );
    for setting in sandbox().into_iter().filter(|s| s.name != "RestrictAddressFamilies").chain(own()) {
        t.push_str(&setting.line());
    }
    UnitFile { path: path(EPMD), content: t }
}

/// What a name server needs less than an app.
fn own() -> [Setting; 4] {
    [
        ("RestrictAddressFamilies", Value::Allow(&["AF_UNIX", "AF_INET", "AF_INET6"])),
        ("MemoryDenyWriteExecute", Value::Yes),
        ("IPAddressDeny", Value::Word("any")),
        ("IPAddressAllow", Value::Word("localhost")),
    ]
    .map(|(name, value)| Setting { name, value })
}
