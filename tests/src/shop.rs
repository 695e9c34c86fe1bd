//! The app that suites deploy: its spec, put together key by key, the load on it, and what a person would look at.
//!
//! Pace: checks every 200 ms, one second of `min_healthy`, no watch after it. A suite that needs another value says so.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Child;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::load::{Load, Options, Report};
use crate::machine::Host;
use crate::netns::NetPath;
use crate::site::{Called, Site};
use crate::wait;

/// Where the shop listens.
pub const PORT: u16 = 8080;
/// Pause of a client between two requests: three thousand a second, which leaves room for what is tested.
const THINK: Duration = Duration::from_millis(20);
/// How long a single request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// The spec of the fixture app.
#[derive(Clone, Debug)]
pub struct Spec {
    app: String,
    tables: BTreeMap<String, BTreeMap<String, String>>,
}

impl Spec {
    /// The app `shop`: one process `web` on port 8080 with one check.
    pub fn shop() -> Self {
        Self::bare("shop")
            .key("processes.web", "exec", "bin/app web")
            .key("listen.http", "address", &format!(":{PORT}"))
            .key("checks.health", "path", "/health")
            .key("checks.health", "interval", "200ms")
    }

    /// An app without processes; a suite adds them.
    pub fn bare(app: &str) -> Self {
        let spec = Self { app: app.to_owned(), tables: BTreeMap::new() };
        spec.key("deploy", "wait_timeout", "20s")
            .key("deploy", "drain_timeout", "10s")
            .key("deploy", "min_healthy", "1s")
            .key("deploy", "monitor", "0s")
    }

    /// Sets a key to a text.
    #[must_use]
    pub fn key(self, table: &str, key: &str, value: &str) -> Self {
        self.raw(table, key, &format!("\"{value}\""))
    }

    /// Sets a key to a value as TOML writes it.
    #[must_use]
    pub fn raw(mut self, table: &str, key: &str, value: &str) -> Self {
        self.tables.entry(table.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a variable: how the fixture behaves.
    #[must_use]
    pub fn env(self, key: &str, value: &str) -> Self {
        self.key("env", key, value)
    }

    /// As TOML.
    pub fn text(&self) -> String {
        let mut text = format!("app = \"{}\"\n", self.app);
        for (table, keys) in &self.tables {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n[{table}]");
            for (key, value) in keys {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }
}

/// A command of ctl that runs while the test does something else.
#[derive(Debug)]
pub struct Calling(Child);

impl Calling {
    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }

    /// Waits for its end.
    pub fn called(self) -> Result<Called> {
        let output = self.0.wait_with_output()?;
        Ok(Called {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

/// Pushes in the background: `dir` by a spec that is written as `/srv/<name>.toml`.
pub fn push(site: &Site, dir: &str, name: &str, spec: &Spec) -> Result<Calling> {
    let spec = site.spec(name, &spec.text())?;
    let line = format!("deployd-ctl --local push {dir} -c {spec} --wait committed");
    Ok(Calling(site.host.spawn(&line)?))
}

/// Load on the shop from inside its host.
#[derive(Debug)]
pub struct Traffic(pub Load);

impl Traffic {
    /// Starts it; bodies of these releases are right.
    pub fn on(host: &Host, labels: &[&str]) -> Result<Self> {
        let lines: Vec<String> = labels.iter().map(|label| format!("shop {label}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let mut options = Options::new(target).accept(&lines).from_netns(host.netns());
        options.think = THINK;
        let traffic = Self(Load::start(options)?);
        traffic.flows()?;
        Ok(traffic)
    }

    /// Requires that it flows now.
    pub fn flows(&self) -> Result<()> {
        self.0.wait_flowing(500, Duration::from_secs(20))
    }

    /// Waits until a release answers.
    pub fn wait_for(&self, label: &str, within: Duration) -> Result<()> {
        let line = format!("shop {label}");
        wait::until(within, &format!("an answer of {line}"), || match self.0.ok_of(&line) {
            0 => Err(format!("{} requests, {} failed", self.0.completed(), self.0.failed())),
            _ => Ok(()),
        })
    }

    /// Ends it; what it saw.
    pub fn end(self) -> Result<Report> {
        Ok(self.0.stop()?.report(&[]))
    }

    /// Ends it, and requires that nothing failed.
    pub fn end_unharmed(self) -> Result<Report> {
        let report = self.end()?;
        ensure!(report.total.failed == 0, "requests failed: {:?}, {:?}", report.total, report.releases);
        Ok(report)
    }

    /// Ends it after a process was killed: whoever had a request in it may have lost that one, nobody else any.
    pub fn end_after_kills(self, kills: u64) -> Result<Report> {
        use crate::load::Kind;
        let report = self.end()?;
        let allowed = [Kind::Reset, Kind::Closed, Kind::Cut];
        let other = report.total.kinds.keys().find(|kind| **kind != Kind::Ok && !allowed.contains(kind));
        let clients = Options::new(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))).clients as u64;
        ensure!(
            other.is_none() && report.total.failed <= kills * clients,
            "more failed than {kills} kills explain: {:?}",
            report.total
        );
        Ok(report)
    }
}

/// Runs something in a thread that is in another network namespace: sockets made there stay there.
pub fn within<T: Send + 'static>(
    netns: NetPath,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let thread = thread::spawn(move || {
        netns.enter_thread()?;
        work()
    });
    thread.join().map_err(|_| anyhow!("the thread in the namespace panicked"))?
}

/// The body of `GET path`, from inside the host.
pub fn get(host: &Host, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    let answer = within(host.netns(), move || {
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let mut stream = TcpStream::connect_timeout(&target, REQUEST_LIMIT)?;
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body.trim_end().to_owned())
}

/// Waits until `GET /` says that this release serves.
pub fn wait_served(host: &Host, label: &str, within: Duration) -> Result<()> {
    let wanted = format!("shop {label}");
    wait::until(within, &format!("{wanted} to serve"), || match get(host, "/") {
        Ok(body) if body == wanted => Ok(()),
        Ok(body) => Err(body),
        Err(error) => Err(format!("{error:#}")),
    })
}

/// The main process of an instance of a release, as systemd tells it; 0 when it has none.
pub fn main_pid(host: &Host, unit: &str) -> Result<u32> {
    Ok(host.ok(&format!("systemctl show -p MainPID --value {unit}"))?.trim().parse()?)
}

/// Waits until a unit is active.
pub fn wait_active(host: &Host, unit: &str, within: Duration) -> Result<()> {
    wait::until(within, &format!("{unit} to be active"), || {
        let output = host.exec(&format!("systemctl is-active {unit}")).map_err(|e| format!("{e:#}"))?;
        match String::from_utf8_lossy(&output.stdout).trim() {
            "active" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
}

/// What of an app's release is on the host: unit files, loaded units that are not inactive, trees.
pub fn traces(host: &Host, app: &str, label: &str) -> Result<Vec<String>> {
    let part = app.replace('-', "_");
    let found = host.ok(&format!(
        "find /etc/systemd/system -name 'deployd-{part}-*-{label}@*' -o -name 'deployd-{part}-*-{label}.*'; \
         systemctl list-units --no-legend --plain 'deployd-{part}-*-{label}@*' 'deployd-{part}-*-{label}.*' \
         'deployd-relay-deployd-{part}-*-{label}.*' 'deployd-check-*-{label}.*'; \
         find /var/lib/deployd/apps/{app}/releases -maxdepth 1 -name '{label}-*' 2>/dev/null || true"
    ))?;
    Ok(found.lines().map(str::to_owned).collect())
}

/// Requires that nothing of a release is left but, when it is kept for rollback, its tree.
pub fn require_no_traces(host: &Host, app: &str, label: &str) -> Result<()> {
    let left = traces(host, app, label)?;
    ensure!(left.is_empty(), "left of {app} {label}: {left:#?}");
    Ok(())
}

/// How many sockets listen on the shop's port.
pub fn listeners(host: &Host) -> Result<usize> {
    Ok(host.ok(&format!("ss -Hltn 'sport = :{PORT}' | wc -l"))?.trim().parse()?)
}

/// Waits until only the live release is there, then requires a silent doctor and one listening socket.
pub fn require_settled(site: &Site, within: Duration) -> Result<()> {
    site.wait_until_drained("shop", within)?;
    let count = listeners(&site.host)?;
    if count != 1 {
        bail!("{count} sockets listen: {}", site.host.ok("ss -ltnpe")?);
    }
    site.require_silent_doctor()
}
