//! Who gets a byte of the API over the network, and that nobody who does not can be in the way of a push.
//!
//! All certificates are the rig's own, so that nothing that deployd makes is trusted to be right. Hosts share the
//! clock of this machine, and ctl is static, so neither can be given another time: instead the authority signs on a
//! machine whose clock is an hour ahead, or behind, which is what a skewed clock comes to.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use deployd_tests::effort::Effort;
use deployd_tests::fleet::{Fleet, Project};
use deployd_tests::flood::Flood;
use deployd_tests::machine::Host;
use deployd_tests::pki::{Authority, Identity, Usage};
use deployd_tests::tls::{Caller, Outcome};
use deployd_tests::wait;

/// Handshakes that are begun and never ended, while a push runs.
const HALF_OPEN: usize = 10_000;
/// Clients with a right certificate that never end their request.
const SLOW: usize = 64;
const FLOODED: Duration = Duration::from_secs(90);
const RELOADED: Duration = Duration::from_secs(30);
const LEASE: &str =
    "{\"id\":\"00000000000000000000000000000001\",\"holder\":\"x\",\"reason\":\"x\",\"ttl_ms\":1000}";
/// A right TLS 1.2 client, and one that speaks no TLS at all.
const OLD_TLS: &str = "printf 'GET /v1/host HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n' | \
    timeout 10 openssl s_client -tls1_2 -quiet -no_ign_eof -connect web1:7443 -servername web1 \
    -cert ~/.config/deployd/identity.pem -key ~/.config/deployd/identity.pem 2>&1 || true";
const NO_TLS: &str = "exec 3<>/dev/tcp/web1/7443; printf 'GET /v1/host HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' >&3; \
    timeout 10 cat <&3 2>&1 || true";

/// One host, and all who want something of it.
struct Gate {
    fleet: Fleet,
    authority: Authority,
    admin: Identity,
}

#[test]
fn only_those_with_a_right_certificate_get_in() -> Result<()> {
    let suites = Effort::of_this_run().suites(1);
    for suite in suites {
        let authority = Authority::new("the fleet's")?;
        let fleet = Fleet::by_hand(&[suite], &authority)?;
        let admin = authority.issue(&client("ops-1", "admin").usual())?;
        let mut gate = Gate { fleet, authority, admin };
        gate.strangers().context("strangers")?;
        gate.other_protocols().context("other protocols")?;
        gate.roles().context("roles")?;
        gate.skewed_clocks().context("clocks")?;
        gate.reloads().context("reloading")?;
        gate.crowds().context("crowds")?;
        gate.fleet.finish()?;
    }
    Ok(())
}

fn client(name: &str, role: &str) -> Usage {
    Usage::Client(name.to_owned(), vec![role.to_owned()])
}

impl Gate {
    fn host(&self) -> &Host {
        &self.fleet.hosts[0]
    }

    fn caller(&self) -> Caller {
        Caller {
            from: self.fleet.client().clone(),
            target: self.fleet.api(self.host()),
            name: self.host().name().to_owned(),
            ca: self.authority.certificate(),
        }
    }

    /// The control of every refusal: the same call with a right certificate.
    fn require_open(&self) -> Result<()> {
        let reply = self.caller().host(Some(&self.admin))?.answer()?;
        ensure!(reply.status == 200 && reply.body.contains("web1"), "{reply:?}");
        Ok(())
    }

    fn require_refused(&self, what: &str, identity: Option<&Identity>) -> Result<()> {
        self.require_open().context("the control")?;
        match self.caller().host(identity).with_context(|| what.to_owned())? {
            Outcome::Refused(_) => Ok(()),
            Outcome::Answered(reply) => bail!("{what}: the API answered {reply:?}"),
        }
    }

    fn strangers(&self) -> Result<()> {
        let (ours, other) = (&self.authority, Authority::new("the fleet's")?);
        let admin = || client("ops-1", "admin").usual();
        let cases = [
            ("another authority of the same name", other.issue(&admin())?),
            ("ended an hour ago", ours.issue(&admin().between(-48, -1))?),
            ("begins in an hour", ours.issue(&admin().between(1, 48))?),
            ("a host's certificate", ours.issue(&Usage::Host("web1".to_owned()).usual())?),
            ("a host's certificate of another host", ours.issue(&Usage::Host("web2".to_owned()).usual())?),
        ];
        self.require_refused("no certificate", None)?;
        cases.iter().try_for_each(|(what, identity)| self.require_refused(what, Some(identity)))?;
        // The agent tells who was refused, and no client's word gets into it unescaped.
        let journal = self.host().journal(Some("deployd.service"))?;
        ensure!(!journal.contains("panicked"), "{journal}");
        Ok(())
    }

    fn other_protocols(&self) -> Result<()> {
        for line in [OLD_TLS, NO_TLS] {
            let said = self.fleet.ops.run(line)?;
            ensure!(!said.stdout.contains("HTTP/1.1 200"), "{line}: {said:?}");
            ensure!(!said.stdout.contains("\"host\""), "{line}: {said:?}");
        }
        self.require_open()
    }

    /// Known, but not allowed: an answer of the API that says so, and nothing else.
    fn roles(&self) -> Result<()> {
        let of = |role: &str| self.authority.issue(&client("somebody", role).usual());
        let (viewer, blog, shop) = (of("viewer")?, of("deployer/blog")?, of("deployer/shop")?);
        let nobody = self.authority.issue(&Usage::Client("nobody".to_owned(), Vec::new()).usual())?;
        let start = "/v1/apps/shop/start";
        let cases = [
            ("a viewer", &viewer, "POST", start, "{}"),
            ("a deployer of another app", &blog, "POST", start, "{}"),
            ("a deployer as admin", &shop, "PUT", "/v1/tls/crl", ""),
            ("a viewer", &viewer, "POST", "/v1/apps/shop/lease", LEASE),
            ("a viewer", &viewer, "POST", "/v1/apps/shop/secrets", "{}"),
            ("a viewer", &viewer, "DELETE", "/v1/apps/shop", ""),
        ];
        for (what, identity, method, path, body) in cases {
            let reply = self.caller().call(Some(identity), method, path, body)?.answer()?;
            ensure!(reply.status == 403, "{what}, {method} {path}: {reply:?}");
            let error: serde_json::Value = serde_json::from_str(&reply.body)?;
            ensure!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{what}: {reply:?}");
        }
        // Without any role: refused at the door or by the API, but nothing is shown.
        if let Outcome::Answered(reply) = self.caller().host(Some(&nobody))? {
            ensure!(reply.status == 403, "{reply:?}");
        }
        for (what, identity) in [("viewer", &viewer), ("deployer", &shop)] {
            let reply = self.caller().host(Some(identity))?.answer()?;
            ensure!(reply.status == 200, "{what}: {reply:?}");
        }
        Ok(())
    }

    /// What a machine whose clock is an hour off signs is right at once, on hosts and for operators.
    fn skewed_clocks(&mut self) -> Result<()> {
        for ahead in [1, -1] {
            self.authority.set_clock(ahead);
            let request = self.host().ok("deployd enroll request web1")?;
            let certificate = self.authority.sign(&request, &Usage::Host("web1".to_owned()).usual())?;
            let (ca, crl) = (self.authority.certificate(), self.authority.revoke(&[])?);
            self.fleet.install_bundle(self.host(), &certificate, &ca, &crl)?;
            let operator = self.authority.issue(&client("ops-1", "admin").usual())?;
            self.fleet.become_identity(&operator.file(&self.authority))?;
            self.fleet.ops.ctl("hosts check")?.expect(0).with_context(|| format!("{ahead} h"))?;
        }
        self.authority.set_clock(0);
        Ok(())
    }

    /// A list of revoked certificates counts when it is written; a broken one changes nothing, and is told.
    fn reloads(&self) -> Result<()> {
        let thief = self.authority.issue(&client("thief", "admin").usual())?;
        self.caller().host(Some(&thief))?.answer().context("before it is revoked")?;
        let crl = "/etc/deployd/tls/crl.pem";
        self.host().write_file(crl, self.authority.revoke(&[&thief.serial])?, 0o644)?;
        wait::until(RELOADED, "the revoked to be refused", || match self.caller().host(Some(&thief)) {
            Ok(Outcome::Refused(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.require_refused("revoked", Some(&thief))?;
        self.host().write_file(crl, "no list\n", 0o644)?;
        wait::until(RELOADED, "a word about the broken list", || {
            let journal = self.host().journal(Some("deployd.service")).map_err(|e| format!("{e:#}"))?;
            if journal.contains("what was in force stays") {
                Ok(())
            } else {
                Err("nothing in the journal".to_owned())
            }
        })?;
        self.require_refused("revoked, and the list is broken", Some(&thief))?;
        self.host().write_file(crl, self.authority.revoke(&[&thief.serial])?, 0o644)
    }

    /// Handshakes that never end, and requests that never end, while an app is deployed.
    fn crowds(&self) -> Result<()> {
        let project = Project::default();
        project.write(&self.fleet, "one")?;
        let viewer = self.authority.issue(&client("slow", "viewer").usual())?;
        let mut slow = Vec::new();
        for _ in 0..SLOW {
            // One that is not let in is one less to be served.
            let begun = self.caller().inside(|| {
                let mut stream = self.caller().connect(Some(&viewer))?;
                stream.write_all(b"GET /v1/host HTTP/1.1\r\nX-Slow: ")?;
                Ok(stream)
            });
            slow.extend(begun.ok());
        }
        let flood = Flood::start(self.fleet.client(), self.fleet.api(self.host()), HALF_OPEN)?;
        wait::until(FLOODED, "the crowd", || match flood.opened() {
            opened if opened >= HALF_OPEN as u64 => Ok(()),
            opened => Err(format!("{opened} connections")),
        })?;
        let called =
            self.fleet.ops.ctl("push --yes --wait committed")?.expect(0).context("push in the crowd")?;
        let held = flood.opened();
        eprintln!(
            "pushed with {held} half-open handshakes opened and {} slow requests\n{}",
            slow.len(),
            called.stderr
        );
        project.write(&self.fleet, "two")?;
        self.fleet.ops.ctl("push --wait committed")?.expect(0).context("another push in the crowd")?;
        ensure!(flood.stop()? >= HALF_OPEN as u64);
        drop(slow);
        self.require_open()?;
        let state = self.fleet.wait_settled("shop", RELOADED)?;
        ensure!(state.one_release()? == "v2", "{state:?}");
        Ok(())
    }
}
