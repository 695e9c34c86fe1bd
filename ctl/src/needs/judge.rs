//! What no Linux host can run is refused before any host is asked.

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::AppName;
use deployd_api::needs::Needs;

use crate::error::CtlError;

/// Most files that are named.
const NAMED: usize = 3;

/// Refuses an artifact with programs of another system. Other architectures are judged by the hosts: they know
/// their own.
pub(crate) fn refuse_foreign(app: &AppName, needs: &Needs) -> Result<(), CtlError> {
    let mut foreign = needs.foreign.iter().filter(|named| system(&named.name).is_some());
    let Some(first) = foreign.next() else { return Ok(()) };
    let system = system(&first.name).unwrap_or("another system");
    let (file, name) = (&first.file, &first.name);
    let message = format!("{app} cannot run on any host: {file} is {name}, and hosts run Linux");
    let hint = format!(
        "built on {system}: build on Linux of the hosts' architecture, for instance in CI or in a VM of the same \
         Debian release as the hosts"
    );
    let mut body =
        ErrorBody::new(ErrorCode::WillNotRun, message, hint).cause("what", format!("{file}: {name}"));
    for named in foreign.by_ref().take(NAMED - 1) {
        body = body.cause("what", format!("{}: {}", named.file, named.name));
    }
    let more = foreign.count();
    if more > 0 {
        body = body.cause("what", format!("and {more} more"));
    }
    Err(CtlError::Answer(Box::new(body)))
}

/// The system that something foreign is of; none for an ELF file of another architecture.
fn system(name: &str) -> Option<&'static str> {
    ["macOS", "Windows"].into_iter().find(|system| name.ends_with(&format!("({system})")))
}

#[cfg(test)]
mod tests {
    use deployd_api::needs::Named;

    use super::*;

    #[test]
    fn programs_of_other_systems_are_refused_and_architectures_are_not() {
        let app = "shop".parse().unwrap();
        let named = |name: &str, file: &str| Named { name: name.to_owned(), file: file.to_owned() };
        let mut needs = Needs { foreign: vec![named("ELF aarch64", "bin/a")], ..Needs::default() };
        assert!(refuse_foreign(&app, &needs).is_ok());
        needs.foreign.extend((0..5).map(|n| named("Mach-O arm64 (macOS)", &format!("bin/{n}"))));
        let body = refuse_foreign(&app, &needs).unwrap_err().to_body();
        assert_eq!(body.code, ErrorCode::WillNotRun);
        assert_eq!(
            body.message,
            "shop cannot run on any host: bin/0 is Mach-O arm64 (macOS), and hosts run Linux"
        );
        assert!(body.hint.starts_with("built on macOS: build on Linux"), "{}", body.hint);
        let last = body.causes.last().unwrap();
        assert_eq!((body.causes.len(), last.1.as_str()), (4, "and 2 more"));
    }
}
