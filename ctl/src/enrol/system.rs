//! What a host is, by one script, and whether it can be one of the fleet. The judgement is pure.

use std::collections::BTreeMap;

use deployd_api::ids::Timestamp;

/// Lines of `key=value`. It must work in every shell that is `sh`, as any user.
pub(crate) const PROBE: &str = r#"
. /etc/os-release 2>/dev/null
echo "id=${ID-}"; echo "like=${ID_LIKE-}"; echo "name=${PRETTY_NAME-}"
echo "pid1=$(cat /proc/1/comm 2>/dev/null)"
echo "systemd=$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
echo "cgroup=$(stat -fc %T /sys/fs/cgroup 2>/dev/null)"
echo "machine=$(uname -m)"
echo "arch=$(dpkg --print-architecture 2>/dev/null)"
echo "deployd=$(dpkg-query -W -f '${db:Status-Status} ${Version}' deployd 2>/dev/null | sed -n 's/^installed //p')"
echo "uid=$(id -u)"
echo "sudo=$([ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null && echo yes)"
echo "machine_id=$(cat /etc/machine-id /proc/sys/kernel/random/boot_id 2>/dev/null | tr '\n' /)$(uname -n)"
echo "now=$(date +%s)"
"#;

/// Oldest systemd that has what the agent needs.
const SYSTEMD_MIN: u32 = 247;
/// Certificates begin 25 hours back; beyond a day no clock is near enough.
const CLOCK_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// What the script found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System {
    id: String,
    like: String,
    pub(crate) name: String,
    pid1: String,
    pub(crate) systemd: Option<u32>,
    cgroup: String,
    machine: String,
    /// As packages name it: `amd64`.
    pub(crate) arch: String,
    /// Version of the agent's package, if it is installed.
    pub(crate) deployd: Option<String>,
    machine_id: String,
    is_root: bool,
    may_be_root: bool,
    now: Option<Timestamp>,
}

/// Why a host cannot be one of the fleet, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit {
    pub(crate) why: String,
    pub(crate) next: String,
}

/// How commands become root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    IsRoot,
    BySudo,
}

impl System {
    /// Reads what [`PROBE`] wrote.
    pub(crate) fn parse(text: &str) -> Self {
        let values: BTreeMap<&str, &str> =
            text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k, v.trim())).collect();
        let get = |key: &str| values.get(key).copied().unwrap_or_default().to_owned();
        let seconds = get("now").parse::<u64>().ok();
        Self {
            machine_id: get("machine_id"),
            id: get("id"),
            like: get("like"),
            name: get("name"),
            pid1: get("pid1"),
            systemd: get("systemd").parse().ok(),
            cgroup: get("cgroup"),
            machine: get("machine"),
            arch: get("arch"),
            deployd: Some(get("deployd")).filter(|v| !v.is_empty()),
            is_root: get("uid") == "0",
            may_be_root: get("sudo") == "yes",
            now: seconds.map(|s| Timestamp(s.saturating_mul(1000))),
        }
    }

    /// By machine id, boot and name: copies of one image may share the first, containers of one kernel the second.
    pub(crate) fn is_same_machine(&self, other: &Self) -> bool {
        !self.machine_id.is_empty() && self.machine_id == other.machine_id
    }

    /// Whether it can be a host of the fleet, and how its commands become root's.
    pub(crate) fn judge(&self, now: Timestamp) -> Result<Root, Unfit> {
        let unfit = |why: String, next: &str| Err(Unfit { why, next: next.to_owned() });
        let debian = |word: &str| ["debian", "ubuntu"].contains(&word);
        if !debian(&self.id) && !self.like.split_whitespace().any(debian) {
            let name = if self.name.is_empty() { "an unknown system" } else { &self.name };
            return unfit(
                format!("it runs {name}"),
                "hosts run Debian 11 or newer, or Ubuntu 22.04 or newer",
            );
        }
        if self.pid1 != "systemd" {
            let why = format!("its first process is {}, not systemd", self.pid1);
            return unfit(why, "use a machine that systemd boots, not a container of one program");
        }
        match self.systemd {
            Some(version) if version >= SYSTEMD_MIN => {}
            Some(version) => {
                let why = format!("its systemd is {version}, and {SYSTEMD_MIN} is the oldest that works");
                return unfit(why, "upgrade it to Debian 11 or newer, or Ubuntu 22.04 or newer");
            }
            None => {
                return unfit("its systemd does not say its version".to_owned(), "look: systemctl --version");
            }
        }
        if self.cgroup != "cgroup2fs" {
            let next = "boot it with systemd.unified_cgroup_hierarchy=1 on the kernel's command line";
            return unfit("it does not use cgroup v2 alone".to_owned(), next);
        }
        if self.arch.is_empty() {
            return unfit(format!("it has no dpkg ({})", self.machine), "hosts run Debian or Ubuntu");
        }
        if let Some(theirs) = self.now {
            let apart = theirs.since_ms(now).max(now.since_ms(theirs));
            if apart > CLOCK_MAX_MS {
                let why = format!("its clock is {} h from the one here", apart / 3_600_000);
                return unfit(why, "set it: timedatectl set-ntp true");
            }
        }
        match (self.is_root, self.may_be_root) {
            (true, _) => Ok(Root::IsRoot),
            (false, true) => Ok(Root::BySudo),
            (false, false) => unfit(
                "the user is not root, and sudo wants a password".to_owned(),
                "enter it as root: --ssh root@ADDRESS; or let the user use sudo without a password",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "id=debian\nlike=\nname=Debian GNU/Linux 12 (bookworm)\npid1=systemd\nsystemd=252\n\
                        cgroup=cgroup2fs\nmachine=x86_64\narch=amd64\ndeployd=\nuid=0\nsudo=yes\nnow=1000000\n";

    #[test]
    fn a_host_is_judged_by_what_it_is() {
        let now = Timestamp(1_000_000_000);
        for (change, want) in [
            (("", ""), Ok(Root::IsRoot)),
            (("id=debian", "id=raspbian"), Err("it runs Debian GNU/Linux 12 (bookworm)")),
            (("id=debian\nlike=", "id=mint\nlike=ubuntu debian"), Ok(Root::IsRoot)),
            (("pid1=systemd", "pid1=bash"), Err("its first process is bash, not systemd")),
            (("systemd=252", "systemd=245"), Err("its systemd is 245, and 247 is the oldest that works")),
            (("systemd=252", "systemd="), Err("its systemd does not say its version")),
            (("cgroup2fs", "tmpfs"), Err("it does not use cgroup v2 alone")),
            (("arch=amd64", "arch="), Err("it has no dpkg (x86_64)")),
            (("now=1000000", "now=1360000"), Err("its clock is 100 h from the one here")),
            (("uid=0", "uid=1000"), Ok(Root::BySudo)),
            (("uid=0\nsudo=yes", "uid=1000\nsudo="), Err("the user is not root, and sudo wants a password")),
        ] {
            let system = System::parse(&GOOD.replace(change.0, change.1));
            let judged = system.judge(now);
            assert_eq!(judged.as_ref().copied().map_err(|u| u.why.as_str()), want, "{change:?}");
        }
        let (of, none) = (|id: &str| System::parse(&format!("{GOOD}machine_id={id}\n")), System::parse(GOOD));
        assert!(of("0a1b").is_same_machine(&of("0a1b")) && !of("0a1b").is_same_machine(&of("0a1c")));
        assert!(!none.is_same_machine(&none), "nothing is known of either");
        assert_eq!(System::parse(GOOD).deployd, None);
        assert_eq!(System::parse("deployd=0.1.0\n").deployd.as_deref(), Some("0.1.0"));
    }

    /// The script runs where the tests run, and finds what this machine is.
    #[test]
    fn the_script_runs() {
        let output = std::process::Command::new("sh").args(["-c", PROBE]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let system = System::parse(&String::from_utf8(output.stdout).unwrap());
        assert!(!system.machine.is_empty() && system.now.is_some(), "{system:?}");
    }
}
