//! The text of an activation's unit files: sockets, proxies, processes.

use std::fmt::Write as _;

use deployd_api::ids::{ListenerName, ProcessName};
use deployd_api::spec::{Address, Check, CheckKind, Drain, Handoff, Process};

use super::quote::quote_exec;
use super::sandbox::sandbox;
use super::surroundings::SPECIFIER;
use super::{Activation, EPMD, instance, proxy_template, slice, socket, template, user};
use crate::action::Socket;

/// `Backlog=` of every listener; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// `RestartSec=`: long enough not to spin, short enough to be a blink.
const RESTART_MS: u32 = 500;

impl Activation<'_> {
    fn head(&self, what: &str) -> String {
        let app = &self.spec().app;
        format!(
            "# {app} {}: written by deployd, replaced with the next release. Overrides: systemctl edit.\n\
             [Unit]\nDescription={app} {what} {}\n",
            self.tag, self.tag.label
        )
    }

    pub(super) fn socket_text(&self, name: &ListenerName, socket: &Socket) -> String {
        let spec = self.spec();
        let listener = &spec.listen[name];
        let mut t = self.head(name.as_str());
        let service = match listener.handoff {
            Handoff::Port => proxy_template(&spec.app, name, self.tag).replace("@.", "@1."),
            _ => instance(&spec.app, &listener.process, self.tag, 1).unit,
        };
        let _ = writeln!(t, "\n[Socket]\nListenStream={}", socket.address.listen_stream());
        match &socket.address {
            Address::Any { .. } => t.push_str("BindIPv6Only=both\nReusePort=yes\n"),
            Address::Ip { .. } => t.push_str("BindIPv6Only=ipv6-only\nReusePort=yes\n"),
            Address::Unix { .. } => {
                let user = user(&spec.app);
                let _ = writeln!(t, "SocketUser={user}\nSocketGroup={user}\nSocketMode=0666");
            }
        }
        let _ = writeln!(
            t,
            "Backlog={BACKLOG}\nFileDescriptorName={name}\nService={service}\nTriggerLimitIntervalSec=0"
        );
        t
    }

    pub(super) fn proxy_text(&self, name: &ListenerName, socket: &Socket) -> String {
        let spec = self.spec();
        let listener = &spec.listen[name];
        let app_unit = template(&spec.app, &listener.process, self.tag).replace("@.", "@%i.");
        let mut t = self.head(&format!("{name} proxy %i"));
        // Wants, not Requires: the app ends first, and the proxy only when it has no connection left.
        let _ = writeln!(t, "Wants={app_unit}\nAfter={app_unit}\nStartLimitIntervalSec=0");
        // Older ones (systemd 252) never say that they are ready: `notify` would wait for ever.
        let _ = writeln!(t, "\n[Service]\nType=exec\nSockets={}\nSlice={}", socket.unit, slice(&spec.app));
        let _ = writeln!(
            t,
            "ExecStart={}/deployd-exec proxy --base-port {} --instance %i",
            self.release.runtime,
            self.base_port(&listener.process)
        );
        let _ = writeln!(
            t,
            "User={u}\nGroup={u}\nRestart=always\nRestartSec={RESTART_MS}ms",
            u = user(&spec.app)
        );
        for setting in sandbox() {
            t.push_str(&setting.line());
        }
        t
    }

    pub(super) fn service_text(
        &self,
        name: &ProcessName,
        host: &str,
        region: Option<&str>,
        nonblocking: bool,
    ) -> String {
        let spec = self.spec();
        let process = &spec.processes[name];
        let mut t = self.head(&format!("{name} %i"));
        t.push_str("StartLimitIntervalSec=0\n");
        self.dependencies(process, &mut t);
        let notify = spec.checks.values().any(|c| notifies(c, name));
        let kind = if notify { "notify" } else { "exec" };
        let _ = writeln!(t, "\n[Service]\nType={kind}");
        let sockets: Vec<String> = spec
            .listeners_of(name)
            .filter(|(_, l)| l.handoff != Handoff::Port)
            .map(|(n, l)| socket(&spec.app, n, &l.address, self.tag).unit)
            .collect();
        if !sockets.is_empty() {
            let _ = writeln!(t, "Sockets={}", sockets.join(" "));
            // PID 1 sets or clears O_NONBLOCK on the shared description at every start; this is what the
            // app's event loop was seen to want. A wrong value makes a sibling block in accept().
            let _ = writeln!(t, "NonBlocking={}", if nonblocking { "yes" } else { "no" });
        }
        let _ = writeln!(t, "ExecStart={}", self.exec_line(name, process));
        let _ = writeln!(t, "Restart=always\nRestartSec={RESTART_MS}ms");
        let _ = writeln!(t, "KillMode=mixed\nKillSignal={}", process.kill_signal);
        let stop = match (spec.listeners_of(name).next(), spec.deploy.drain_timeout) {
            (Some(_), Drain::Unlimited) => "infinity".to_owned(),
            (Some(_), Drain::Limited(ms)) => format!("{}ms", ms.0),
            (None, _) => format!("{}ms", process.kill_timeout.0),
        };
        // The start is bounded by the deployment's wait_timeout, not by the unit.
        let _ = writeln!(t, "TimeoutStopSec={stop}\nTimeoutStartSec=infinity");
        for setting in self.surroundings(name, SPECIFIER, host, region).settings() {
            t.push_str(&setting.line());
        }
        t
    }

    fn dependencies(&self, process: &Process, t: &mut String) {
        let units = |name: &String| match name.parse::<ProcessName>() {
            Ok(p) => self.instances_of(&p).into_iter().map(|i| i.unit).collect(),
            Err(_) => vec![name.clone()],
        };
        // An epmd inside an instance would end with it, and take the names of all others along.
        let epmd = self.release.beam.then(|| EPMD.to_owned());
        let after = process.after.iter().chain(&process.requires).flat_map(units);
        let after: Vec<String> = epmd.iter().cloned().chain(after).collect();
        if let Some(epmd) = epmd {
            let _ = writeln!(t, "Wants={epmd}");
        }
        // Required is the first: each restart of what is required is one of who requires it. The others are wanted.
        let required = |name: &String| units(name).into_iter().next();
        let wanted = |name: &String| units(name).into_iter().skip(1).collect::<Vec<_>>();
        let requires: Vec<String> = process.requires.iter().filter_map(required).collect();
        let wants: Vec<String> = process.requires.iter().flat_map(wanted).collect();
        if !wants.is_empty() {
            let _ = writeln!(t, "Wants={}", wants.join(" "));
        }
        if !after.is_empty() {
            let _ = writeln!(t, "After={}", after.join(" "));
        }
        if !requires.is_empty() {
            let _ = writeln!(t, "Requires={}", requires.join(" "));
        }
    }

    fn exec_line(&self, name: &ProcessName, process: &Process) -> String {
        let spec = self.spec();
        let runtime = &self.release.runtime;
        let mut words = vec![format!("{runtime}/deployd-exec"), "run".to_owned()];
        let mut ported = false;
        for (listener, l) in spec.listeners_of(name) {
            let word = match l.handoff {
                Handoff::Auto => "auto",
                Handoff::Activation => "activation",
                Handoff::Bind => "bind",
                Handoff::Arg => "arg",
                Handoff::Stdin => "stdin",
                Handoff::Port => "port",
            };
            ported |= l.handoff == Handoff::Port;
            let v6only = match &l.address {
                Address::Ip { ip, .. } if ip.is_ipv6() => "v6only:",
                _ => "",
            };
            words.push("--listener".to_owned());
            words.push(format!("{listener}={word}:{v6only}{}", l.address.listen_stream()));
        }
        words.push("--shim".to_owned());
        words.push(format!("{runtime}/libdeployd_bind.so"));
        let mut line: Vec<String> = words.iter().map(|w| quote_exec(w)).collect();
        if ported {
            line.push(format!("--base-port {} --instance %i", self.base_port(name)));
        }
        line.push("--".to_owned());
        line.extend(self.command(&process.exec).iter().map(|w| quote_exec(w)));
        line.join(" ")
    }
}

fn notifies(check: &Check, name: &ProcessName) -> bool {
    matches!(&check.kind, CheckKind::Notify { process } if process == name)
}
