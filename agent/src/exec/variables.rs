//! The environment and words that the program gets, from where its listeners were placed. Pure.

use super::Error;
use super::arguments::Run;
use super::descriptors::Placed;
use deployd_api::spec::Handoff;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// One variable of an environment.
pub(crate) type Variable = (OsString, OsString);

/// What speaks of passed descriptors: stated anew, or left out.
const OURS: [&str; 5] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "DEPLOYD_BIND"];

/// The program's environment, from the trampoline's own.
pub(crate) fn environment(
    run: &Run,
    placed: &[Placed<'_>],
    own: impl Iterator<Item = Variable>,
    pid: u32,
) -> Result<Vec<Variable>, Error> {
    let mut variables: Vec<Variable> =
        own.filter(|(name, _)| !OURS.iter().any(|ours| name == OsStr::new(ours))).collect();
    let activated: Vec<_> = placed
        .iter()
        .filter(|placed| matches!(placed.listener.handoff, Handoff::Auto | Handoff::Activation))
        .map(|placed| placed.listener.name.as_str())
        .collect();
    if !activated.is_empty() {
        put(&mut variables, "LISTEN_FDS", activated.len().to_string().into());
        put(&mut variables, "LISTEN_PID", pid.to_string().into());
        put(&mut variables, "LISTEN_FDNAMES", activated.join(":").into());
    }
    let bound: Vec<_> = placed
        .iter()
        .filter(|placed| matches!(placed.listener.handoff, Handoff::Auto | Handoff::Bind))
        .collect();
    if let Some(first) = bound.first() {
        let shim = run.shim.as_ref().ok_or_else(|| Error::NoShim(first.listener.name.clone()))?;
        let list: Vec<_> =
            bound.iter().map(|placed| format!("{}={}", placed.number, placed.listener.address)).collect();
        put(&mut variables, "DEPLOYD_BIND", list.join(",").into());
        preload(&mut variables, shim);
    }
    if let Some(port) = run.port {
        put(&mut variables, "PORT", port.to_string().into());
    }
    Ok(variables)
}

/// The shim comes first; what the unit preloads besides is kept.
fn preload(variables: &mut Vec<Variable>, shim: &str) {
    let mut list = OsString::from(shim);
    if let Some((_, existing)) =
        variables.iter().find(|(name, value)| name == "LD_PRELOAD" && !value.is_empty())
    {
        list.push(":");
        list.push(existing);
    }
    put(variables, "LD_PRELOAD", list);
}

fn put(variables: &mut Vec<Variable>, name: &str, value: OsString) {
    variables.retain(|(existing, _)| existing != name);
    variables.push((name.into(), value));
}

/// The program's words, with each `{fd:NAME}` replaced by the number of that listener.
pub(crate) fn words(run: &Run, placed: &[Placed<'_>]) -> Result<Vec<OsString>, Error> {
    run.words.iter().map(|word| replace(word, placed)).collect()
}

fn replace(word: &OsStr, placed: &[Placed<'_>]) -> Result<OsString, Error> {
    const OPEN: &[u8] = b"{fd:";
    let mut rest = word.as_bytes();
    let mut result = Vec::new();
    while let Some(start) = rest.windows(OPEN.len()).position(|window| window == OPEN) {
        let (before, from) = rest.split_at(start);
        let Some(end) = from.iter().position(|byte| *byte == b'}') else { break };
        let (reference, after) = from.split_at(end);
        let name = String::from_utf8_lossy(reference.get(OPEN.len()..).unwrap_or_default()).into_owned();
        let number = placed
            .iter()
            .find(|placed| placed.listener.name == name && placed.listener.handoff == Handoff::Arg)
            .map(|placed| placed.number)
            .ok_or(Error::UnknownWord(name))?;
        result.extend_from_slice(before);
        result.extend_from_slice(number.to_string().as_bytes());
        rest = after.get(1..).unwrap_or_default();
    }
    result.extend_from_slice(rest);
    Ok(OsString::from_vec(result))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::arguments::Listener;

    fn listener(name: &str, handoff: Handoff) -> Listener {
        Listener { name: name.into(), handoff, address: "[::]:80".into() }
    }

    fn run(words: &[&str]) -> Run {
        Run {
            listeners: Vec::new(),
            shim: Some("/shim.so".into()),
            port: Some(9001),
            words: words.iter().map(OsString::from).collect(),
        }
    }

    #[test]
    fn each_handoff_has_its_variables() {
        let (auto, bind) = (listener("http", Handoff::Auto), listener("admin", Handoff::Bind));
        let placed = [Placed { listener: &auto, number: 3 }, Placed { listener: &bind, number: 4 }];
        let own = [("A", "b"), ("LD_PRELOAD", "/x.so"), ("LISTEN_PIDFDID", "9"), ("PORT", "1")];
        let own = own.map(|(name, value)| (name.into(), value.into()));
        let variables = environment(&run(&[]), &placed, own.into_iter(), 7).unwrap();
        let text: Vec<_> =
            variables.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        assert_eq!(
            text,
            [
                "A=b",
                "LISTEN_FDS=1",
                "LISTEN_PID=7",
                "LISTEN_FDNAMES=http",
                "DEPLOYD_BIND=3=[::]:80,4=[::]:80",
                "LD_PRELOAD=/shim.so:/x.so",
                "PORT=9001"
            ]
        );
    }

    #[test]
    fn the_shim_has_to_be_named() {
        let bind = listener("http", Handoff::Bind);
        let without = Run { shim: None, ..run(&[]) };
        let result = environment(&without, &[Placed { listener: &bind, number: 3 }], std::iter::empty(), 1);
        assert!(matches!(result, Err(Error::NoShim(name)) if name == "http"));
    }

    #[test]
    fn references_become_numbers() {
        let (arg, auto) = (listener("http", Handoff::Arg), listener("x", Handoff::Auto));
        let placed = [Placed { listener: &arg, number: 5 }, Placed { listener: &auto, number: 3 }];
        let given = run(&["p", "--fd={fd:http}/{fd:http}", "{fd:open", "plain"]);
        assert_eq!(words(&given, &placed).unwrap(), ["p", "--fd=5/5", "{fd:open", "plain"]);
        for wrong in ["{fd:x}", "{fd:nobody}"] {
            assert!(matches!(words(&run(&[wrong]), &placed), Err(Error::UnknownWord(_))), "{wrong}");
        }
    }
}
