//! One command on a host, over an upgraded connection: its frames, and this terminal.

use std::io::IsTerminal as _;
use std::os::fd::AsFd;

use deployd_api::command::{
    CommandEnd, CommandRequest, FRAME_MAX, FrameKind, HEADER, Size, Terminal, UPGRADE, header, parse_header,
};
use deployd_api::ids::AppName;
use hyper::Method;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

use crate::client::Client;
use crate::error::CtlError;

/// Bytes that are read at one time.
const CHUNK: usize = 32 << 10;
/// What the connection is called in an error.
const DURING: &str = "the command";

/// What becomes of this program's standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// The command gets it.
    Sent,
    /// The command has none.
    None,
}

/// Runs a command to its end, with this program's input and output as its own.
pub(crate) async fn run(
    client: &Client,
    app: &AppName,
    request: &CommandRequest,
    input: Input,
) -> Result<CommandEnd, CtlError> {
    let path = format!("/apps/{app}/commands");
    let stream = client.upgrade(Method::POST, &path, UPGRADE, request).await?;
    let (reader, writer) = tokio::io::split(stream);
    // Put back on every way out: this is dropped also when the caller is, or panics.
    let _raw = request.terminal.as_ref().and_then(|_| Raw::enter());
    let resizes = request.terminal.is_some();
    let output = Output { out: own(std::io::stdout())?, err: own(std::io::stderr())? };
    let typed = own(std::io::stdin())?;
    tokio::select! {
        end = receive(reader, output) => end,
        error = send(writer, typed, input, resizes) => Err(error),
    }
}

/// A stream of this program without a buffer of its own: bytes go on as they come.
fn own(stream: impl AsFd) -> Result<tokio::fs::File, CtlError> {
    let fd = stream.as_fd().try_clone_to_owned().map_err(CtlError::Runtime)?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(fd)))
}

/// This terminal, if input and output are one.
pub(crate) fn terminal() -> Option<Terminal> {
    (std::io::stdin().is_terminal() && std::io::stdout().is_terminal()).then(described)
}

/// A terminal as this one is, or as the first ones were.
pub(crate) fn described() -> Terminal {
    let term = std::env::var("TERM").ok().filter(|t| !t.is_empty()).unwrap_or_else(|| "dumb".to_owned());
    Terminal { term, size: size().unwrap_or(Size { rows: 24, columns: 80 }) }
}

fn size() -> Option<Size> {
    let found = tcgetwinsize(std::io::stdout().as_fd()).or_else(|_| tcgetwinsize(std::io::stdin().as_fd()));
    let size = found.ok().filter(|s| s.ws_row > 0 && s.ws_col > 0)?;
    Some(Size { rows: size.ws_row, columns: size.ws_col })
}

/// A terminal that passes every key on, until this is dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing is left to do for a terminal that is gone.
        let _ = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}

struct Output<O, E> {
    out: O,
    err: E,
}

/// Writes what comes until the last frame.
async fn receive<O, E>(mut from: impl AsyncRead + Unpin, mut to: Output<O, E>) -> Result<CommandEnd, CtlError>
where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let lost = |e: std::io::Error| CtlError::Lost { during: DURING.to_owned(), source: e.into() };
    let wire = |what: String| CtlError::Wire { during: DURING.to_owned(), source: what.into() };
    let mut content = Vec::new();
    loop {
        let mut start = [0; HEADER];
        from.read_exact(&mut start).await.map_err(lost)?;
        let (kind, length) = parse_header(start).ok_or_else(|| wire(format!("frame {start:?}")))?;
        content.resize(length, 0);
        from.read_exact(&mut content).await.map_err(lost)?;
        match kind {
            FrameKind::Stdout => write(&mut to.out, &content).await?,
            FrameKind::Stderr => write(&mut to.err, &content).await?,
            FrameKind::End => return serde_json::from_slice(&content).map_err(|e| wire(e.to_string())),
            FrameKind::Stdin | FrameKind::Resize => return Err(wire(format!("{kind:?} from the host"))),
        }
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), content: &[u8]) -> Result<(), CtlError> {
    to.write_all(content).await.map_err(CtlError::Output)?;
    to.flush().await.map_err(CtlError::Output)
}

/// Sends input and sizes. Ends only when something is wrong with this side: what is wrong with the other is
/// told by what comes from there.
async fn send(
    mut to: impl AsyncWrite + Unpin,
    mut from: impl AsyncRead + Unpin,
    input: Input,
    resizes: bool,
) -> CtlError {
    let mut changes = match signal(SignalKind::window_change()) {
        Ok(changes) => changes,
        Err(e) => return CtlError::Runtime(e),
    };
    let mut buffer = vec![0; CHUNK.min(FRAME_MAX)];
    let mut open = input == Input::Sent;
    let mut sent = if open { Ok(()) } else { frame(&mut to, FrameKind::Stdin, &[]).await };
    while sent.is_ok() {
        sent = tokio::select! {
            read = from.read(&mut buffer), if open => match read {
                Ok(n) => {
                    open = n > 0;
                    frame(&mut to, FrameKind::Stdin, &buffer[..n]).await
                }
                Err(e) => return CtlError::Runtime(e),
            },
            Some(()) = changes.recv(), if resizes => match size() {
                Some(size) => {
                    let content = serde_json::to_vec(&size).unwrap_or_default();
                    frame(&mut to, FrameKind::Resize, &content).await
                }
                None => Ok(()),
            },
            else => break,
        };
    }
    std::future::pending().await
}

async fn frame(to: &mut (impl AsyncWrite + Unpin), kind: FrameKind, content: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(content.len()).map_err(std::io::Error::other)?;
    to.write_all(&header(kind, length)).await?;
    to.write_all(content).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_comes_is_written_where_it_belongs_until_the_end() {
        let (mut host, ours) = tokio::io::duplex(64);
        let say = async {
            frame(&mut host, FrameKind::Stdout, b"out\0").await.unwrap();
            frame(&mut host, FrameKind::Stdout, b"").await.unwrap();
            frame(&mut host, FrameKind::Stderr, b"err").await.unwrap();
            frame(&mut host, FrameKind::Stdout, &[0xff; 500]).await.unwrap();
            let end = br#"{"type": "exited", "status": 7}"#;
            frame(&mut host, FrameKind::End, end).await.unwrap();
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let ((), end) = tokio::join!(say, receive(ours, Output { out: &mut out, err: &mut err }));
        assert_eq!(end.unwrap(), CommandEnd::Exited { status: 7 });
        assert_eq!((&out[..4], out.len(), err.as_slice()), (&b"out\0"[..], 504, &b"err"[..]));
    }

    #[tokio::test]
    async fn a_host_that_goes_away_is_said() {
        let (mut host, ours) = tokio::io::duplex(64);
        frame(&mut host, FrameKind::Stdout, b"x").await.unwrap();
        drop(host);
        let end = receive(ours, Output { out: Vec::new(), err: Vec::new() }).await;
        assert!(matches!(end, Err(CtlError::Lost { .. })));
    }

    /// What the host gets of an input.
    async fn sent(input: &'static [u8], how: Input) -> Vec<(FrameKind, Vec<u8>)> {
        let (mut host, ours) = tokio::io::duplex(1 << 20);
        let sending = tokio::spawn(async move { drop(send(ours, input, how, false).await) });
        let mut frames = Vec::new();
        loop {
            let mut start = [0; HEADER];
            host.read_exact(&mut start).await.unwrap();
            let (kind, length) = parse_header(start).unwrap();
            let mut content = vec![0; length];
            host.read_exact(&mut content).await.unwrap();
            frames.push((kind, content));
            if length == 0 {
                sending.abort();
                return frames;
            }
        }
    }

    #[tokio::test]
    async fn input_ends_with_an_empty_frame() {
        let (text, end) = ((FrameKind::Stdin, b"a\0b".to_vec()), (FrameKind::Stdin, vec![]));
        assert_eq!(sent(b"a\0b", Input::Sent).await, [text, end.clone()]);
        assert_eq!(sent(b"a\0b", Input::None).await, [end]);
    }
}
