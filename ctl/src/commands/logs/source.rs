//! The lines of one host: asked for, and asked for again when the host comes back.

use deployd_api::ids::{AppName, Timestamp};
use deployd_api::status::LogLine;
use tokio::sync::mpsc::Sender;

use crate::cli::{Level, Logs};
use crate::client::{BackOff, Client};
use crate::error::CtlError;
use crate::human;

/// Most lines that are fetched after the agent was away.
const LINES_MISSED_MAX: u32 = 10_000;

/// What a host has to tell.
#[derive(Debug)]
pub(super) enum News {
    Line(LogLine),
    /// It is not there; told once until it is.
    Away(String),
    Back,
    /// It does not come back.
    GivenUp,
    /// It cannot be read at all.
    Failed(CtlError),
}

/// How long a host that went away is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// As long as an agent takes to restart.
    Short,
    /// As long as the others are followed.
    Endless,
}

/// How a stream ended.
enum End {
    Orderly,
    Broken(CtlError),
    /// Nobody reads any more.
    Unread,
}

/// What is asked of a host.
#[derive(Debug)]
pub(super) struct Source {
    app: AppName,
    follow: bool,
    since: Option<Timestamp>,
    lines: Option<u32>,
    level: Option<Level>,
    instance: Option<String>,
    release: Option<String>,
    patience: Patience,
}

impl Source {
    pub(super) fn new(app: &AppName, args: &Logs, instance: Option<String>, hosts: usize) -> Self {
        Self {
            app: app.clone(),
            follow: args.follow,
            since: args.since.map(|since| Timestamp(human::now().0.saturating_sub(since.0))),
            lines: args.lines,
            level: args.level,
            instance,
            release: args.release.map(|label| label.to_string()),
            patience: if hosts == 1 { Patience::Short } else { Patience::Endless },
        }
    }

    /// Tells what there is until it ends, or nobody listens.
    pub(super) async fn run(mut self, host: usize, client: Client, to: Sender<(usize, News)>) {
        let mut back_off = BackOff::new();
        // Whether it was ever there; and whether it is told to be away.
        let (mut began, mut away) = (false, false);
        loop {
            let (heard, end) = self.stream(host, &client, &to, &mut away).await;
            if heard {
                back_off = BackOff::new();
            }
            let news = match end {
                End::Unread => return,
                End::Orderly if !self.follow => return,
                // Only a stream that was followed goes on: a single agent that was never there is said at once.
                End::Broken(error) if !self.goes_on(&error, began) => Some(News::Failed(error)),
                End::Broken(error) if !away => {
                    away = true;
                    let _ = to.send((host, News::Away(error.to_string()))).await;
                    None
                }
                End::Orderly | End::Broken(_) => None,
            };
            if let Some(news) = news {
                let _ = to.send((host, news)).await;
                return;
            }
            began = true;
            // After the first stream nothing older is asked for again.
            self.since = self.since.or_else(|| Some(human::now()));
            self.lines = Some(LINES_MISSED_MAX);
            if !back_off.wait().await {
                if self.patience == Patience::Short {
                    let _ = to.send((host, News::GivenUp)).await;
                    return;
                }
                back_off = BackOff::new();
            }
        }
    }

    fn goes_on(&self, error: &CtlError, began: bool) -> bool {
        let was_there = began || self.since.is_some() || self.patience == Patience::Endless;
        self.follow && error.is_absence() && was_there
    }

    /// One stream to its end; whether anything came. The next one begins behind the last line.
    async fn stream(
        &mut self,
        host: usize,
        client: &Client,
        to: &Sender<(usize, News)>,
        away: &mut bool,
    ) -> (bool, End) {
        let mut heard = false;
        let mut stream = match client.lines(&self.path()).await {
            Ok(stream) => stream,
            Err(error) => return (heard, End::Broken(error)),
        };
        if std::mem::take(away) && to.send((host, News::Back)).await.is_err() {
            return (heard, End::Unread);
        }
        loop {
            let line = match stream.next::<LogLine>().await {
                Ok(Some(line)) => line,
                Ok(None) => return (heard, End::Orderly),
                Err(error) => return (heard, End::Broken(error)),
            };
            self.since = Some(Timestamp(line.at.0 + 1));
            heard = true;
            if to.send((host, News::Line(line))).await.is_err() {
                return (heard, End::Unread);
            }
        }
    }

    fn path(&self) -> String {
        let mut path = format!("/apps/{}/logs?follow={}", self.app, self.follow);
        if let Some(lines) = self.lines {
            path += &format!("&lines={lines}");
        }
        if let Some(since) = self.since {
            path += &format!("&since_ms={}", since.0);
        }
        if let Some(level) = self.level {
            path += &format!("&level={}", level as u8);
        }
        if let Some(instance) = &self.instance {
            path += &format!("&instance={}", encode(instance));
        }
        if let Some(release) = &self.release {
            path += &format!("&release={release}");
        }
        path
    }
}

/// Percent-encoding of what is neither a letter nor a digit.
fn encode(text: &str) -> String {
    let byte = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(b).to_string(),
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect::<Vec<_>>().concat()
}
