//! Our ends of what PID 1 gives a command as its input and output: three pipes, or one terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use deployd_api::command::{CommandKind, FrameKind, Size, Terminal};
use nix::fcntl::OFlag;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::net::unix::pipe;

use crate::host::systemd::{Property, PropertyValue};

/// What stands for the end of input on a terminal: Ctrl-D.
const END_OF_INPUT: u8 = 4;

/// Both sides of a command's input and output.
#[derive(Debug)]
pub struct Ends {
    /// What the command reads; `None` after its end.
    pub input: Input,
    /// What it writes, and as what it is told.
    pub outputs: Vec<(FrameKind, pipe::Receiver)>,
    /// The other side, for PID 1, which has copies once the unit is started.
    theirs: Theirs,
}

/// Our end of a command's input.
#[derive(Debug)]
pub struct Input {
    /// A pipe, or a terminal's own end.
    pub to: Option<pipe::Sender>,
    /// The terminal, to say its size.
    terminal: Option<OwnedFd>,
}

#[derive(Debug)]
enum Theirs {
    Pipes(Vec<(&'static str, Arc<OwnedFd>)>),
    /// Kept open until the command ended: while nobody has it open, reading our end fails.
    Terminal {
        path: String,
        _peer: OwnedFd,
    },
}

impl Ends {
    /// A terminal if one is asked for, else pipes. What a `run` writes goes to the journal.
    pub fn open(kind: CommandKind, terminal: Option<&Terminal>) -> io::Result<Self> {
        match terminal {
            Some(terminal) if kind != CommandKind::Run => Self::terminal(terminal.size),
            _ => Self::pipes(kind),
        }
    }

    fn pipes(kind: CommandKind) -> io::Result<Self> {
        let (input_theirs, input) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let mut theirs = vec![("StandardInputFileDescriptor", Arc::new(input_theirs))];
        let mut outputs = Vec::new();
        if kind != CommandKind::Run {
            for (frame, name) in [
                (FrameKind::Stdout, "StandardOutputFileDescriptor"),
                (FrameKind::Stderr, "StandardErrorFileDescriptor"),
            ] {
                let (ours, other) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
                outputs.push((frame, pipe::Receiver::from_owned_fd(ours)?));
                theirs.push((name, Arc::new(other)));
            }
        }
        let input = Input { to: Some(pipe::Sender::from_owned_fd(input)?), terminal: None };
        Ok(Self { input, outputs, theirs: Theirs::Pipes(theirs) })
    }

    /// PID 1 opens the terminal by its path, so that it becomes the controlling one. The agent's `/dev/pts` is
    /// the host's, and so is that of the unit.
    fn terminal(size: Size) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        set_size(&master, size)?;
        let path = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
        let peer = ioctl_tiocgptpeer(&master, flags)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let to = pipe::Sender::from_owned_fd_unchecked(master.try_clone()?)?;
        let output = pipe::Receiver::from_owned_fd_unchecked(master.try_clone()?)?;
        Ok(Self {
            input: Input { to: Some(to), terminal: Some(master) },
            outputs: vec![(FrameKind::Stdout, output)],
            theirs: Theirs::Terminal { path, _peer: peer },
        })
    }

    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        matches!(self.theirs, Theirs::Terminal { .. })
    }

    /// What the unit is told.
    pub fn properties(&self) -> Vec<Property> {
        let text = |name, value: &str| Property::new(name, PropertyValue::Text(value.to_owned()));
        match &self.theirs {
            Theirs::Pipes(all) => {
                let of = |(name, fd): &(&str, Arc<OwnedFd>)| {
                    Property::new(name, PropertyValue::Descriptor(fd.clone()))
                };
                all.iter().map(of).collect()
            }
            Theirs::Terminal { path, .. } => vec![
                text("StandardInput", "tty"),
                text("StandardOutput", "inherit"),
                text("StandardError", "inherit"),
                text("TTYPath", path),
            ],
        }
    }

    /// Our ends, and what keeps the other side open until the command ended.
    pub fn split(self) -> (Input, Vec<(FrameKind, pipe::Receiver)>, OtherSide) {
        (self.input, self.outputs, OtherSide { _theirs: self.theirs })
    }
}

/// The side of PID 1: dropped when the command ended.
#[derive(Debug)]
pub struct OtherSide {
    _theirs: Theirs,
}

impl Input {
    /// Writes all of it; waits while the command does not read. What it does not want any more is lost, as in
    /// a pipeline.
    pub async fn write(&mut self, content: &[u8]) {
        use tokio::io::AsyncWriteExt as _;
        let Some(to) = &mut self.to else { return };
        if to.write_all(content).await.is_err() {
            self.to = None;
        }
    }

    /// The end of the input.
    pub async fn end(&mut self) {
        if self.terminal.is_some() {
            self.write(&[END_OF_INPUT]).await;
        } else {
            self.to = None;
        }
    }

    /// The caller's terminal has another size now.
    pub fn resize(&self, size: Size) {
        if let Some(terminal) = &self.terminal
            && let Err(error) = set_size(terminal, size)
        {
            tracing::debug!(%error, "a terminal could not be resized");
        }
    }
}

fn set_size(terminal: impl AsFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}
