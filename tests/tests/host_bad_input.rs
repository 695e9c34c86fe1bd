//! What people get wrong, on a real fleet: each time one message that says what, where, why, and what to type next;
//! the right exit code; and nothing touched on any host.

use anyhow::{Context as _, Result, ensure};
use deployd_tests::effort::Effort;
use deployd_tests::fleet::{Fleet, HOME, PROJECT, Project, Shell};
use deployd_tests::pki::{Authority, Usage};
use deployd_tests::site::{Called, fixture};

/// Exit codes, which are documented.
const USAGE: &[i32] = &[2];
const REFUSED: &[i32] = &[3];
const UNAUTHORIZED: &[i32] = &[8];
/// Where the machine of an ELF file is named, and what an arm64 has there.
const ELF_MACHINE: usize = 18;
const AARCH64: [u8; 2] = [183, 0];
/// How a program of macOS begins: 64 bits, arm64, executable.
const MACH_O: [u8; 16] = [0xcf, 0xfa, 0xed, 0xfe, 0x0c, 0, 0, 0x01, 0, 0, 0, 0, 0x02, 0, 0, 0];

struct Trial {
    fleet: Fleet,
    authority: Authority,
}

#[test]
fn what_people_get_wrong_is_told_and_changes_nothing() -> Result<()> {
    let authority = Authority::new("the fleet's")?;
    let suite = Effort::of_this_run().suites(0)[0];
    let fleet = Fleet::by_hand(&[suite], &authority)?;
    let trial = Trial { fleet, authority };
    trial.fresh()?;
    trial.fleet.ops.ctl("push --yes --wait committed")?.expect(0).context("the control")?;
    trial.inventories().context("inventories")?;
    trial.specs().context("specs")?;
    trial.artifacts().context("artifacts")?;
    trial.identities().context("identities")?;
    trial.places().context("places")?;
    // After all that, what is right still works.
    trial.fresh()?;
    Project::default().write(&trial.fleet, "another")?;
    trial.fleet.ops.ctl("push --wait committed")?.expect(0).context("the control at the end")?;
    trial.fleet.finish()
}

impl Trial {
    /// The project as it should be.
    fn fresh(&self) -> Result<()> {
        self.fleet.ops.host.ok(&format!("rm -rf {PROJECT} && mkdir {PROJECT}"))?;
        self.fleet.write_inventory()?;
        Project::default().write(&self.fleet, "one")
    }

    /// Runs `line`, which must end with one of `codes`, name all `words`, say what to do next, and touch nothing.
    fn wrong(&self, shell: &Shell, line: &str, codes: &[i32], words: &[&str]) -> Result<Called> {
        let called =
            self.fleet.untouched(|| self.fleet.ops.run_in(shell, line)).with_context(|| line.to_owned())?;
        ensure!(
            codes.contains(&called.code),
            "{line}: exit {}, not one of {codes:?}: {called:?}",
            called.code
        );
        for word in words {
            ensure!(called.stderr.contains(word), "{line}: no `{word}` in {}", called.stderr);
        }
        let next = called.stderr.lines().any(|line| {
            let line = line.trim_start();
            line.strip_prefix("next").is_some_and(|rest| !rest.trim().is_empty())
        });
        ensure!(next, "{line}: nothing to do next in {}", called.stderr);
        let errors = called.stderr.lines().filter(|line| line.starts_with("error")).count();
        ensure!(errors == 1, "{line}: {errors} errors in {}", called.stderr);
        ensure!(!called.stderr.contains("panicked") && !called.stderr.contains("Os {"), "{}", called.stderr);
        Ok(called)
    }

    fn push_is_wrong(&self, codes: &[i32], words: &[&str]) -> Result<()> {
        self.wrong(&Shell::default(), "deployd-ctl push --yes", codes, words).map(drop)
    }

    fn inventory(&self, text: &str) -> Result<()> {
        self.fleet.ops.host.write_file(&format!("{PROJECT}/fleet.toml"), text, 0o644)
    }

    fn inventories(&self) -> Result<()> {
        let right = self.fleet.ops.host.read_file(&format!("{PROJECT}/fleet.toml"))?;
        let address = self.fleet.hosts[0].address().v4.to_string();
        let cases: [(String, &[&str]); 5] = [
            (format!("{right}\n{right}"), &["fleet.toml", "web1"]),
            (right.replace("hosts.web1", "hosts.web9") + &right, &["fleet.toml", "web9", &address]),
            (right.replace("groups", "group"), &["fleet.toml", "group", "groups"]),
            (right.replace("\"web\"", "\"jobs\""), &["web", "jobs"]),
            (right.replace('=', ":"), &["fleet.toml"]),
        ];
        for (text, words) in cases {
            self.inventory(&text)?;
            self.push_is_wrong(USAGE, words).with_context(|| text.clone())?;
        }
        self.inventory("")?;
        self.push_is_wrong(USAGE, &["fleet.toml", "deployd-ctl hosts add"])?;
        self.inventory(&right)
    }

    fn specs(&self) -> Result<()> {
        let right = Project::default().text();
        let cases: [(String, &[i32], &[&str]); 5] = [
            (right.replace("hosts = \"web\"", "hosts = \"wbe\""), USAGE, &["wbe", "web"]),
            (right.replace("hosts = \"web\"", "hosts = \"region=fra\""), USAGE, &["region=fra"]),
            (
                right.replace("[processes.web]", "[proceses.web]"),
                USAGE,
                &["deployd.toml", "proceses", "processes"],
            ),
            (right.replace("app = \"shop\"", "app = \"Shop App\""), USAGE, &["deployd.toml", "Shop App"]),
            (
                right.replace("hosts = \"web\"", "hosts = \"web\"\nsecrets = [\"STRIPE_KEY\"]"),
                REFUSED,
                &["STRIPE_KEY", "secrets set"],
            ),
        ];
        for (text, codes, words) in cases {
            self.fleet.ops.host.write_file(&format!("{PROJECT}/deployd.toml"), &text, 0o644)?;
            self.push_is_wrong(codes, words).with_context(|| text.clone())?;
        }
        self.fleet.ops.host.write_file(&format!("{PROJECT}/deployd.toml"), &right, 0o644)
    }

    /// Programs of other machines, none at all, and a build that fails or makes nothing.
    fn artifacts(&self) -> Result<()> {
        let program = format!("{PROJECT}/dist/bin/app");
        let right = std::fs::read(fixture()?)?;
        let mut arm = right.clone();
        arm[ELF_MACHINE..ELF_MACHINE + 2].copy_from_slice(&AARCH64);
        let mut mac = MACH_O.to_vec();
        mac.resize(4096, 0);
        let cases: [(&[u8], &[&str]); 2] =
            [(&arm, &["aarch64", "x86_64", "bin/app"]), (&mac, &["macOS", "bin/app"])];
        for (bytes, words) in cases {
            self.fleet.ops.host.write_file(&program, bytes, 0o755)?;
            self.push_is_wrong(REFUSED, words)?;
        }
        self.fleet.ops.host.ok(&format!("rm -r {PROJECT}/dist"))?;
        self.push_is_wrong(USAGE, &["dist"])?;
        self.fresh()?;
        let failing = Project::default().built_by("echo no compiler >&2; exit 9");
        failing.write(&self.fleet, "one")?;
        // What the build itself said is there, above the error.
        self.push_is_wrong(&[2, 3], &["no compiler", "build", "9"])?;
        self.fresh()
    }

    fn identities(&self) -> Result<()> {
        let of = |wanted| Ok::<_, anyhow::Error>(self.authority.issue(&wanted)?.file(&self.authority));
        let admin = || Usage::Client("ops-1".to_owned(), vec!["admin".to_owned()]).usual();
        let viewer = Usage::Client("ops-1".to_owned(), vec!["viewer".to_owned()]).usual();
        let stranger = Authority::new("somebody else's")?;
        let strange = stranger.issue(&admin())?;
        let cases: [(String, &[i32], &[&str]); 4] = [
            (of(admin().between(-48, -1))?, UNAUTHORIZED, &["ops-1", "deployd-ctl pki"]),
            (of(viewer)?, UNAUTHORIZED, &["viewer"]),
            // Right in itself, but of another fleet: neither side trusts the other.
            (strange.file(&stranger), UNAUTHORIZED, &["web1"]),
            ("no certificate\n".to_owned(), &[2, 8], &["identity.pem"]),
        ];
        Project::default().write(&self.fleet, "by another")?;
        for (pem, codes, words) in cases {
            self.fleet.become_identity(&pem)?;
            self.push_is_wrong(codes, words)?;
        }
        self.fleet.ops.host.ok(&format!("rm {HOME}/.config/deployd/identity.pem"))?;
        self.push_is_wrong(&[2, 8], &["deployd-ctl pki"])?;
        self.fleet.become_identity(&of(admin())?)?;
        self.fresh()
    }

    /// Places and words that are none.
    fn places(&self) -> Result<()> {
        self.fleet.ops.host.ok("mkdir -p /root/empty")?;
        let empty = Shell::default().within("/root/empty");
        self.wrong(&empty, "deployd-ctl push", USAGE, &["deployd.toml", "deployd-ctl init"])?;
        let here = Shell::default();
        self.wrong(&here, "deployd-ctl push nowhere", USAGE, &["nowhere"])?;
        self.wrong(&here, "deployd-ctl push -c nowhere.toml", USAGE, &["nowhere.toml"])?;
        self.wrong(&here, "deployd-ctl rollback v99", &[2, 3], &["v99"])?;
        self.wrong(&here, "deployd-ctl secrets set 1ABC=x", USAGE, &["1ABC"])?;
        Ok(())
    }
}
