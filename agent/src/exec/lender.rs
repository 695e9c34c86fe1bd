//! `lend`, and the asking half of `relay`: descriptors to and from the agent over one SEQPACKET socket.
//!
//! `lend UNIT\nFDNAMES` carries descriptors and is answered by `ok`; `take UNIT` is answered by a message
//! that carries one. Any other answer is the reason why not. PID 1 gave the descriptors to this process
//! because its unit names the `.socket`: the agent tells who we are by our cgroup, not by these words.

use super::Error;
use super::arguments::Lend;
use deployd_handoff::{fd, passed};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the agent may be away (it restarts while it is upgraded) before we give up.
const AGENT_AWAY: Duration = Duration::from_secs(10);
/// Rest between attempts to reach it.
const ATTEMPT_REST: Duration = Duration::from_millis(50);
/// How long it may take to answer, in seconds.
const ANSWER_SECONDS: i64 = 10;
/// Longest answer that is read.
const ANSWER: usize = 512;

/// Sends every passed socket to the agent.
pub(crate) fn lend(request: &Lend) -> Result<(), Error> {
    let passed = passed::take().map_err(Error::Passed)?;
    let names = passed.iter().map(|passed| passed.name.as_str()).collect::<Vec<_>>().join(":");
    let sockets: Vec<_> = passed.iter().map(|passed| passed.fd.as_raw_fd()).collect();
    if sockets.is_empty() {
        return Err(Error::NoListener(request.unit.clone()));
    }
    let agent = reach(&request.lender)?;
    let text = format!("lend {}\n{names}", request.unit);
    let parts = [IoSlice::new(text.as_bytes())];
    let rights = [ControlMessage::ScmRights(&sockets)];
    sendmsg::<()>(agent.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None).map_err(Error::Talk)?;
    match answer(&agent)? {
        (text, _) if text == "ok" => Ok(()),
        (text, _) => Err(Error::Answer(text)),
    }
}

/// Asks the agent for the listener of a unit.
pub(crate) fn take(unit: &str, lender: &Path) -> Result<OwnedFd, Error> {
    let agent = reach(lender)?;
    let text = format!("take {unit}");
    let parts = [IoSlice::new(text.as_bytes())];
    sendmsg::<()>(agent.as_raw_fd(), &parts, &[], MsgFlags::MSG_NOSIGNAL, None).map_err(Error::Talk)?;
    let (text, mut sockets) = answer(&agent)?;
    match (sockets.pop(), text.as_str()) {
        (Some(socket), _) => Ok(socket),
        (None, "" | "ok") => Err(Error::NoListener(unit.to_owned())),
        (None, _) => Err(Error::Answer(text)),
    }
}

fn answer(agent: &OwnedFd) -> Result<(String, Vec<OwnedFd>), Error> {
    let mut text = [0; ANSWER];
    let (length, sockets) = fd::receive(agent, &mut text).map_err(Error::Talk)?;
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).trim_end().to_owned();
    Ok((text, sockets))
}

/// Connects, waiting for an agent that is being restarted.
fn reach(path: &Path) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Connect { path: path.to_owned(), source };
    let address = UnixAddr::new(path).map_err(failed)?;
    let end = Instant::now() + AGENT_AWAY;
    let agent =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    setsockopt(&agent, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS)).map_err(failed)?;
    loop {
        match connect(agent.as_raw_fd(), &address) {
            Ok(()) => return Ok(agent),
            Err(Errno::ENOENT | Errno::ECONNREFUSED) if Instant::now() < end => {
                std::thread::sleep(ATTEMPT_REST);
            }
            Err(source) => return Err(failed(source)),
        }
    }
}
