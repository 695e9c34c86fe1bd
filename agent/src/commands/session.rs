//! One caller and one command: frames in both directions, until either of them is gone.
//!
//! Every queue is short: a command that writes faster than its caller reads waits, and the other way round.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use deployd_api::command::{CommandEnd, CommandKind, FrameKind, HEADER, Size, header, parse_header};
use deployd_api::error::{ErrorBody, ErrorCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::ends::{Ends, Input};
use crate::host::journal;
use crate::host::systemd::{Ended, SystemdError, TransientOutcome};

/// Bytes that are read at one time.
const CHUNK: usize = 32 << 10;
/// Frames on their way to the caller.
const QUEUE: usize = 4;
/// How often an empty frame is sent to a caller: only by writing one learns that it is gone.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long a caller gets to take in what a command wrote before it ended.
const DRAIN: Duration = Duration::from_mins(1);

type Frame = (FrameKind, Bytes);
type Ran = Result<TransientOutcome, SystemdError>;

/// How a session ended.
#[derive(Debug)]
pub enum Ending {
    /// The command ended so.
    Command(CommandEnd),
    /// The caller went away before the command ended, which was stopped then.
    CallerGone,
}

/// How a caller goes before its command ended.
enum Gone {
    /// By itself.
    Left,
    /// Nothing more is told to it.
    Cut,
}

/// Serves a caller until the command ends. `run` runs it; when the caller goes away first, `run` is dropped,
/// unless the command is to go on. It is as good as gone when `cut` ends.
pub async fn attend<S>(
    stream: S,
    ends: Ends,
    kind: CommandKind,
    unit: &str,
    run: impl Future<Output = Ran>,
    cut: impl Future<Output = ()>,
) -> Ending
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let (input, outputs, other_side) = ends.split();
    let (frames, queue) = mpsc::channel(QUEUE);
    let (ended, over) = watch::channel(false);
    let mut pumps: Vec<_> = outputs
        .into_iter()
        .map(|(kind, from)| tokio::spawn(pump(kind, from, frames.clone(), over.clone())))
        .collect();
    if kind == CommandKind::Run {
        pumps.push(tokio::spawn(follow(unit.to_owned(), frames.clone(), over)));
    }
    let mut writing = tokio::spawn(write(writer, queue));
    let mut reading = tokio::spawn(read(reader, input));
    let mut run = std::pin::pin!(run);
    let gone = async {
        tokio::select! {
            _ = &mut writing => Gone::Left,
            _ = &mut reading => Gone::Left,
            () = cut => Gone::Cut,
        }
    };
    let ran = tokio::select! {
        ran = &mut run => Ok(ran),
        gone = gone => Err(gone),
    };
    reading.abort();
    if matches!(ran, Err(Gone::Cut)) {
        writing.abort();
    }
    let ran = match (ran, kind) {
        (Err(_), CommandKind::Run) => Some(run.await),
        (ran, _) => ran.ok(),
    };
    drop(other_side);
    // Without a receiver there is nobody to be told.
    let _ = ended.send(true);
    let Some(ran) = ran else {
        pumps.iter().for_each(JoinHandle::abort);
        return Ending::CallerGone;
    };
    let end = outcome(unit, ran);
    let content = serde_json::to_vec(&end).unwrap_or_default();
    // A caller that stops reading does not hold its place for ever.
    if tokio::time::timeout(DRAIN, tell_rest(&mut pumps, frames, content, &mut writing)).await.is_err() {
        pumps.iter().for_each(JoinHandle::abort);
        writing.abort();
    }
    Ending::Command(end)
}

/// The rest of what the command wrote, and how it ended.
async fn tell_rest(
    pumps: &mut [JoinHandle<()>],
    frames: mpsc::Sender<Frame>,
    end: Vec<u8>,
    writing: &mut JoinHandle<io::Result<()>>,
) {
    for pump in pumps {
        drop(pump.await);
    }
    if frames.send((FrameKind::End, end.into())).await.is_ok() {
        drop(frames);
        if !writing.is_finished() {
            drop(writing.await);
        }
    }
}

/// From the caller to the command. Ends when the caller is gone.
async fn read(mut from: impl AsyncRead + Unpin, mut input: Input) {
    let mut content = Vec::new();
    loop {
        let mut start = [0; HEADER];
        if from.read_exact(&mut start).await.is_err() {
            return;
        }
        let Some((kind, length)) = parse_header(start) else { return };
        content.resize(length, 0);
        if from.read_exact(&mut content).await.is_err() {
            return;
        }
        match kind {
            FrameKind::Stdin if content.is_empty() => input.end().await,
            FrameKind::Stdin => input.write(&content).await,
            FrameKind::Resize => {
                if let Ok(size) = serde_json::from_slice::<Size>(&content) {
                    input.resize(size);
                }
            }
            // Not for us to get; a later ctl may know why.
            FrameKind::Stdout | FrameKind::Stderr | FrameKind::End => {}
        }
    }
}

/// To the caller, in order. Ends when it is gone, or after the last frame.
async fn write(mut to: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Frame>) -> io::Result<()> {
    loop {
        let (kind, content) = match tokio::time::timeout(HEARTBEAT, queue.recv()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => return to.shutdown().await,
            Err(_) => (FrameKind::Stdout, Bytes::new()),
        };
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        to.write_all(&header(kind, length)).await?;
        to.write_all(&content).await?;
        to.flush().await?;
    }
}

/// What the command writes, until it ended and all of it was read.
async fn pump(
    kind: FrameKind,
    mut from: pipe::Receiver,
    to: mpsc::Sender<Frame>,
    mut over: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = over.wait_for(|over| *over) => break,
        };
        match read {
            // A terminal fails when its other side is closed.
            Ok(0) | Err(_) => return,
            Ok(n) => {
                if to.send((kind, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                    return;
                }
            }
        }
    }
    // Everybody who could write is gone: what is there now is all.
    let Ok(rest) = from.into_nonblocking_fd() else { return };
    while let Ok(n @ 1..) = rustix::io::read(&rest, &mut buffer) {
        if to.send((kind, Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
            return;
        }
    }
}

/// What the unit writes to the journal, until it ended and all of it was read.
async fn follow(unit: String, to: mpsc::Sender<Frame>, mut over: watch::Receiver<bool>) {
    let frame = |line: String| (FrameKind::Stdout, Bytes::from(line + "\n"));
    let mut seen = None;
    match journal::follow_unit(&unit) {
        Ok(mut lines) => loop {
            let next = tokio::select! {
                next = lines.next() => next,
                _ = over.wait_for(|over| *over) => break,
            };
            let Ok(Some(line)) = next else { break };
            seen = Some(line.cursor);
            if to.send(frame(line.message)).await.is_err() {
                return;
            }
        },
        Err(error) => tracing::warn!(unit, %error, "the output of a command could not be followed"),
    }
    if over.wait_for(|over| *over).await.is_err() {
        return;
    }
    let rest = journal::rest_of_unit(&unit, seen.as_deref()).await;
    for line in rest.unwrap_or_default() {
        if to.send(frame(line)).await.is_err() {
            return;
        }
    }
}

fn outcome(unit: &str, ran: Ran) -> CommandEnd {
    let body = |message: String| {
        let hint = format!("see on the host: journalctl -u {unit}");
        ErrorBody::new(ErrorCode::StepFailed, message, hint)
    };
    let failed = |message: String| CommandEnd::Failed { error: Box::new(body(message)) };
    match ran {
        Ok(outcome) => match outcome.ended {
            Ended::Exited(status) => CommandEnd::Exited { status },
            Ended::Killed(signal) => CommandEnd::Killed { signal },
            Ended::TimedOut => failed("the command was stopped: it ran too long".to_owned()),
            Ended::NotStarted => failed(format!("systemd did not start the command ({})", outcome.result)),
        },
        Err(error) => {
            let told = crate::effects::with_chain(body(error.to_string()), &error);
            CommandEnd::Failed { error: Box::new(told) }
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
