//! Other ways to replace a process, and other ways to reach one: naive close, `systemctl restart`, nginx, HAProxy,
//! systemd-socket-proxyd. All serve the same fixture; all are set up as their manuals say.

use std::time::Duration;

use anyhow::{Context, Result};
use deployd_tests::control::{self, Control};
use deployd_tests::machine::Host;
use deployd_tests::site::fixture;
use deployd_tests::wait;

/// How a process is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Without anything: one of the controls.
    Control(control::Way),
    /// A new process behind nginx, another upstream, `systemctl reload nginx`, end of the old process.
    Nginx,
    /// The same with HAProxy.
    Haproxy,
}

impl Way {
    pub(super) const ALL: [Self; 4] = [
        Self::Control(control::Way::NaiveClose),
        Self::Control(control::Way::Restart),
        Self::Nginx,
        Self::Haproxy,
    ];

    /// Where clients connect to.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Control(way) => way.port(),
            Self::Nginx => NGINX,
            Self::Haproxy => HAPROXY,
        }
    }

    pub(super) fn is_proxy(self) -> bool {
        matches!(self, Self::Nginx | Self::Haproxy)
    }

    /// Whether it must lose something, so that the run shows anything.
    pub(super) fn is_control(self) -> bool {
        !self.is_proxy()
    }

    /// The beginning of its keys.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Control(control::Way::NaiveClose) => "naive",
            Self::Control(control::Way::Restart) => "restart",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }
}

const NGINX: u16 = 8083;
const HAPROXY: u16 = 8084;
/// Processes that bind their port themselves, for the data path.
pub(super) const BARE: u16 = 8085;
pub(super) const SOCKET_PROXYD: u16 = 8086;
/// The two ports that processes behind a proxy take in turn.
const BACKENDS: [u16; 2] = [9001, 9002];
/// What an old generation of a proxy's workers gets before the process behind it ends.
const OLD_WORKERS: Duration = Duration::from_secs(10);

const BACKEND: &str = "[Service]\nType=notify\nEnvironmentFile=/srv/peers/env\n\
                       Environment=ADDRESS=127.0.0.1:%i\nExecStart=/srv/peers/app web\nTimeoutStopSec=10\n";
const BARE_UNIT: &str = "[Service]\nType=notify\nEnvironmentFile=/srv/peers/env\nEnvironment=ADDRESS=:8085\n\
                         ExecStart=/srv/peers/app web\n";
const PROXYD_SOCKET: &str = "[Socket]\nListenStream=8086\nBacklog=4096\n";
const PROXYD: &str =
    "[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd --connections-max=1024 127.0.0.1:9001\n";
const NGINX_CONF: &str = "worker_processes auto;\npid /run/nginx.pid;\nevents { worker_connections 4096; }\n\
    http {\n  access_log off;\n  include /etc/nginx/backend.conf;\n  server {\n\
    \x20   listen 8083 backlog=4096;\n    keepalive_requests 1000000;\n    location / {\n\
    \x20     proxy_pass http://backend;\n      proxy_http_version 1.1;\n      proxy_set_header Connection \"\";\n\
    \x20   }\n  }\n}\n";

/// The peers on a host.
#[derive(Debug)]
pub(super) struct Peers<'a> {
    host: &'a Host,
    /// Those that use no proxy.
    control: Control<'a>,
    /// Which of [`BACKENDS`] serves behind the proxies.
    backend: usize,
}

impl<'a> Peers<'a> {
    /// Starts all of them, with the fixture busy for `work_us` a request.
    pub(super) fn start(host: &'a Host, work_us: u32, proxies: bool) -> Result<Self> {
        host.ok("systemctl stop 'backend@*' bare.service 2>/dev/null || true")?;
        if !host.outside("/srv/peers/app").exists() {
            host.write_file("/srv/peers/app", std::fs::read(fixture()?)?, 0o755)?;
        }
        host.write_file("/srv/peers/env", format!("APP_NAME=peer\nWORK_US={work_us}\n"), 0o644)?;
        let units = [
            ("backend@.service", BACKEND),
            ("bare.service", BARE_UNIT),
            ("proxyd.socket", PROXYD_SOCKET),
            ("proxyd.service", PROXYD),
        ];
        for (unit, text) in units {
            host.write_file(&format!("/etc/systemd/system/{unit}"), text, 0o644)?;
        }
        let control = Control::install(host, &[("WORK_US", &work_us.to_string())])?;
        control::Way::ALL.into_iter().try_for_each(|way| control.start(way))?;
        host.ok("systemctl daemon-reload")?;
        host.ok("systemctl start backend@9001 bare.service proxyd.socket")?;
        let peers = Self { host, control, backend: 0 };
        if proxies {
            host.write_file("/etc/nginx/nginx.conf", NGINX_CONF, 0o644)?;
            peers.point_proxies(BACKENDS[0])?;
            host.ok("systemctl restart nginx haproxy").context("the proxies do not start")?;
        }
        Ok(peers)
    }

    /// Replaces the process once and returns when the old one has ended.
    pub(super) fn replace(&mut self, way: Way) -> Result<()> {
        match way {
            Way::Control(way) => self.control.replace(way)?,
            Way::Nginx => {
                self.replace_behind("nginx", "pgrep -f '[n]ginx: worker process is shutting down'")?;
            }
            // The master and one worker, and a line for each older worker.
            Way::Haproxy => self.replace_behind("haproxy", "pgrep -x haproxy | tail -n +3 | grep .")?,
        }
        Ok(())
    }

    fn replace_behind(&mut self, proxy: &str, old_workers: &str) -> Result<()> {
        let old = BACKENDS[self.backend];
        self.backend = 1 - self.backend;
        let new = BACKENDS[self.backend];
        self.host.ok(&format!("systemctl start backend@{new}"))?;
        self.point_proxies(new)?;
        self.host.ok(&format!("systemctl reload {proxy}"))?;
        // Both proxies share the processes behind them: the one without load follows.
        let other = if proxy == "nginx" { "haproxy" } else { "nginx" };
        self.host.ok(&format!("systemctl reload {other}"))?;
        let gone = wait::until(OLD_WORKERS, "old workers to end", || match self.host.exec(old_workers) {
            Ok(output) if output.status.success() => {
                Err(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error:#}")),
        });
        // A proxy whose old workers stay keeps what they hold; the process behind them drains like any other.
        if let Err(error) = gone {
            eprintln!("{proxy}: {error:#}");
        }
        self.host.ok(&format!("systemctl stop backend@{old}")).map(drop)
    }

    fn point_proxies(&self, port: u16) -> Result<()> {
        let upstream = format!("upstream backend {{ server 127.0.0.1:{port}; keepalive 64; }}\n");
        self.host.write_file("/etc/nginx/backend.conf", upstream, 0o644)?;
        let haproxy = format!(
            "global\n  maxconn 4096\n  stats socket /run/haproxy/admin.sock mode 660 expose-fd listeners\n\
             defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             frontend in\n  bind :{HAPROXY} backlog 4096\n  default_backend app\n\
             backend app\n  http-reuse always\n  server one 127.0.0.1:{port}\n"
        );
        self.host.write_file("/etc/haproxy/haproxy.cfg", haproxy, 0o644)
    }
}
