//! Gives each listener the descriptor number that the program will find it under.
//!
//! The ones passed on by LISTEN_FDS have to be 3, 4, ... without a gap; the others follow. Must be done
//! before anything else opens a descriptor. Used by `run`.

use super::Error;
use super::arguments::Listener;
use deployd_api::spec::Handoff;
use deployd_handoff::fd::{OnExec, duplicate};
use deployd_handoff::passed::{self, Passed};
use std::os::fd::{IntoRawFd as _, OwnedFd, RawFd};

/// First number of the LISTEN_FDS protocol.
const FIRST: RawFd = 3;

/// A listener and its number in the program.
#[derive(Debug)]
pub(crate) struct Placed<'a> {
    pub(crate) listener: &'a Listener,
    pub(crate) number: RawFd,
}

/// Takes what was passed, and arranges it for the program. Sockets that no listener names are closed.
pub(crate) fn arrange(listeners: &[Listener]) -> Result<Vec<Placed<'_>>, Error> {
    let mut order: Vec<&Listener> =
        listeners.iter().filter(|listener| listener.handoff != Handoff::Port).collect();
    order.sort_by_key(|listener| rank(listener.handoff));
    if let [.., first, second] = order.as_slice()
        && (first.handoff, second.handoff) == (Handoff::Stdin, Handoff::Stdin)
    {
        return Err(Error::TwoInputs(first.name.clone(), second.name.clone()));
    }
    let mut passed = passed::take().map_err(Error::Passed)?;
    let names = passed.iter().map(|passed| passed.name.as_str()).collect::<Vec<_>>().join(" ");
    let mut sources = Vec::new();
    for listener in order {
        sources.push((listener, find(&mut passed, listener, &names)?));
    }
    // Above every number that is wanted, so that no placing overwrites a socket that is still to be placed.
    let above = FIRST + RawFd::try_from(sources.len() + passed.len()).unwrap_or(RawFd::MAX - FIRST);
    let mut parked = Vec::new();
    for (listener, fd) in sources {
        let moved = duplicate(&fd, above, OnExec::Close).map_err(|source| failed(listener, above, source))?;
        parked.push((listener, moved));
    }
    drop(passed);
    parked.into_iter().zip(FIRST..).map(|((listener, fd), wanted)| place(listener, &fd, wanted)).collect()
}

/// Passed on by LISTEN_FDS first, standard input last: it leaves no number behind.
const fn rank(handoff: Handoff) -> u8 {
    match handoff {
        Handoff::Auto | Handoff::Activation => 0,
        Handoff::Bind | Handoff::Arg | Handoff::Port => 1,
        Handoff::Stdin => 2,
    }
}

fn find(passed: &mut Vec<Passed>, listener: &Listener, names: &str) -> Result<OwnedFd, Error> {
    let index = passed.iter().position(|passed| passed.name == listener.name);
    let missing = || Error::NotPassed { name: listener.name.clone(), passed: names.to_owned() };
    index.map(|index| passed.swap_remove(index).fd).ok_or_else(missing)
}

/// Leaves `fd` open in the program as `wanted`, or as standard input.
fn place<'a>(listener: &'a Listener, fd: &OwnedFd, wanted: RawFd) -> Result<Placed<'a>, Error> {
    if listener.handoff == Handoff::Stdin {
        nix::unistd::dup2_stdin(fd).map_err(|source| failed(listener, 0, source))?;
        return Ok(Placed { listener, number: 0 });
    }
    let placed = duplicate(fd, wanted, OnExec::Keep).map_err(|source| failed(listener, wanted, source))?;
    // From here it belongs to the program that this process becomes.
    let got = placed.into_raw_fd();
    if got == wanted {
        return Ok(Placed { listener, number: got });
    }
    Err(Error::Occupied { name: listener.name.clone(), wanted, got })
}

fn failed(listener: &Listener, wanted: RawFd, source: nix::errno::Errno) -> Error {
    Error::Place { name: listener.name.clone(), wanted, source }
}
