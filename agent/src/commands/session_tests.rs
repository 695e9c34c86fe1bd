//! Sessions with real programs on the other side of the pipes and terminals.
#![expect(clippy::disallowed_methods, reason = "a test's own programs")]

use std::process::{Command, Stdio};

use deployd_api::command::{FRAME_MAX, Terminal};
use tokio::io::DuplexStream;

use super::*;
use crate::host::systemd::PropertyValue;

/// Runs a shell line as PID 1 would: with the descriptors of the properties.
fn start(ends: &Ends, line: &str) -> impl Future<Output = Ran> + use<> {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]);
    for property in ends.properties() {
        let stdio = match &property.value {
            PropertyValue::Descriptor(fd) => Stdio::from(fd.try_clone().unwrap()),
            PropertyValue::Text(path) if property.name == "TTYPath" => {
                let open = || std::fs::File::options().read(true).write(true).open(path).unwrap();
                command.stdin(open()).stdout(open());
                Stdio::from(open())
            }
            _ => continue,
        };
        match property.name.as_str() {
            "StandardInputFileDescriptor" => command.stdin(stdio),
            "StandardOutputFileDescriptor" => command.stdout(stdio),
            _ => command.stderr(stdio),
        };
    }
    let mut child = command.spawn().unwrap();
    // The copies of the other side that only this process was to have.
    drop(command);
    async move {
        let waited = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        let ended = match (waited.code(), waited.signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, signal) => Ended::Killed(signal.unwrap()),
        };
        let (result, output, invocation_id) = Default::default();
        Ok(TransientOutcome { ended, result, output, invocation_id })
    }
}

/// A session and the caller's end of it.
fn session(line: &str, terminal: Option<Terminal>) -> (DuplexStream, tokio::task::JoinHandle<Ending>) {
    let ends = Ends::open(CommandKind::Exec, terminal.as_ref()).unwrap();
    let run = start(&ends, line);
    let (ours, theirs) = tokio::io::duplex(16 << 10);
    let never = std::future::pending();
    let attended = async move { attend(theirs, ends, CommandKind::Exec, "x.service", run, never).await };
    (ours, tokio::spawn(attended))
}

/// A caller whose certificate is revoked loses its command, although its connection stands.
#[tokio::test]
async fn a_caller_that_is_cut_off_is_gone() {
    let ends = Ends::open(CommandKind::Exec, None).unwrap();
    let run = start(&ends, "read line");
    let (mut ours, theirs) = tokio::io::duplex(16 << 10);
    let (cut, told) = tokio::sync::oneshot::channel::<()>();
    let told = async { drop(told.await) };
    let attended = async move { attend(theirs, ends, CommandKind::Exec, "x.service", run, told).await };
    let attended = tokio::spawn(attended);
    cut.send(()).unwrap();
    assert!(matches!(attended.await.unwrap(), Ending::CallerGone));
    let mut rest = Vec::new();
    ours.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "nothing more was told");
}

async fn send(to: &mut (impl AsyncWrite + Unpin), kind: FrameKind, content: &[u8]) {
    to.write_all(&header(kind, u32::try_from(content.len()).unwrap())).await.unwrap();
    to.write_all(content).await.unwrap();
}

/// Everything that comes until the last frame: output, errors, end.
async fn receive(from: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, Vec<u8>, CommandEnd) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        let mut start = [0; HEADER];
        from.read_exact(&mut start).await.unwrap();
        let (kind, length) = parse_header(start).unwrap();
        let mut content = vec![0; length];
        from.read_exact(&mut content).await.unwrap();
        match kind {
            FrameKind::Stdout => out.extend(content),
            FrameKind::Stderr => err.extend(content),
            FrameKind::End => return (out, err, serde_json::from_slice(&content).unwrap()),
            FrameKind::Stdin | FrameKind::Resize => panic!("{kind:?} from the host"),
        }
    }
}

#[tokio::test]
async fn bytes_go_through_as_they_are_and_the_end_is_told() {
    let (mut caller, serving) = session("cat; echo oops >&2; exit 7", None);
    let bytes: Vec<u8> = (0..=255u8).cycle().take(3 * FRAME_MAX + 17).collect();
    let (mut reader, mut writer) = tokio::io::split(&mut caller);
    let write = async {
        for chunk in bytes.chunks(FRAME_MAX) {
            send(&mut writer, FrameKind::Stdin, chunk).await;
        }
        send(&mut writer, FrameKind::Stdin, b"").await;
    };
    let ((), (out, err, end)) = tokio::join!(write, receive(&mut reader));
    assert!(out == bytes, "{} of {} bytes came back", out.len(), bytes.len());
    assert_eq!((err.as_slice(), end), (&b"oops\n"[..], CommandEnd::Exited { status: 7 }));
    assert!(matches!(serving.await.unwrap(), Ending::Command(_)));
}

#[tokio::test]
async fn a_signal_is_told_as_one() {
    let (mut caller, _serving) = session("kill -9 $$", None);
    assert_eq!(receive(&mut caller).await.2, CommandEnd::Killed { signal: 9 });
}

#[tokio::test]
async fn what_the_command_does_not_read_blocks_nobody_after_its_end() {
    let (mut caller, _serving) = session("exec 0</dev/null; echo done", None);
    let (mut reader, mut writer) = tokio::io::split(&mut caller);
    let flood = vec![0; FRAME_MAX];
    let write = async {
        // Fails when the session is over.
        let start = header(FrameKind::Stdin, u32::try_from(flood.len()).unwrap());
        let _ = writer.write_all(&start).await;
        let _ = writer.write_all(&flood).await;
    };
    let ((), (out, _, end)) = tokio::join!(write, receive(&mut reader));
    assert_eq!((out.as_slice(), end), (&b"done\n"[..], CommandEnd::Exited { status: 0 }));
}

#[tokio::test]
async fn a_caller_that_goes_ends_the_session() {
    let (caller, serving) = session("cat", None);
    drop(caller);
    assert!(matches!(serving.await.unwrap(), Ending::CallerGone));
}

#[tokio::test]
async fn a_terminal_has_a_size_that_changes() {
    let size = Size { rows: 24, columns: 80 };
    let terminal = Terminal { term: "xterm".to_owned(), size };
    let (mut caller, _serving) =
        session("stty size; read line; stty size; test -t 0 && echo \"got $line\"", Some(terminal));
    let wider = serde_json::to_vec(&Size { rows: 50, columns: 132 }).unwrap();
    // In order: the line is read after the size was set.
    send(&mut caller, FrameKind::Resize, &wider).await;
    send(&mut caller, FrameKind::Stdin, b"hello\n").await;
    let (out, _, end) = receive(&mut caller).await;
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("50 132") && out.contains("got hello"), "{out:?}");
    assert_eq!(end, CommandEnd::Exited { status: 0 });
}
