//! What goes into a Debian root: packages, what is dropped, what is switched off. Data only; `make` carries it out.

/// A Debian release that deployd is tested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Debian 12, systemd 252.
    Bookworm,
    /// Debian 13, systemd 257.
    Trixie,
}

impl Suite {
    /// All suites, oldest first.
    pub const ALL: [Self; 2] = [Self::Bookworm, Self::Trixie];

    /// The name debootstrap knows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// What every host needs: an init, a bus, tools that suites call, and the runtimes of unchanged fixture programs;
/// sshd, as every bare server has it, with the programs that copy files over it (peers of a push).
const PACKAGES: &[&str] = &[
    "systemd-sysv",
    "dbus",
    "libpam-systemd",
    "iproute2",
    "procps",
    "ca-certificates",
    "python3",
    "nodejs",
    "openssh-server",
    "openssh-client",
    "openssl",
    "rsync",
    "zstd",
];

/// Only the oldest root builds the `mix release` fixture; newer ones run it with the runtime it carries.
const ELIXIR_PACKAGES: &[&str] = &["elixir", "erlang-dev", "erlang-tools"];

/// Removed after the installation: never read by a host, more than a third of the size.
pub(super) const DROPPED: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log/bootstrap.log",
];

/// Units that would act on their own in the middle of a test, or hold a port that a fixture wants (epmd).
pub(super) const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "epmd.service",
    "epmd.socket",
    "getty@.service",
    "console-getty.service",
    "systemd-pstore.service",
];

/// Raise when `make` changes what it does to a root in a way that the lists here do not show.
const REVISION: u32 = 1;

/// The whole recipe of one suite's root.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) suite: Suite,
    pub(super) packages: Vec<&'static str>,
}

impl Recipe {
    pub(super) fn of(suite: Suite) -> Self {
        let extra: &[&str] = match suite {
            Suite::Bookworm => ELIXIR_PACKAGES,
            Suite::Trixie => &[],
        };
        Self { suite, packages: PACKAGES.iter().chain(extra).copied().collect() }
    }

    /// Twelve hex digits over everything that decides what the root contains.
    pub(super) fn hash(&self) -> String {
        let text = format!("{REVISION} {} {:?} {DROPPED:?} {MASKED:?}", self.suite.name(), self.packages);
        blake3::hash(text.as_bytes()).to_hex().as_str()[..12].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_have_roots_of_their_own() {
        let [old, new] = Suite::ALL.map(Recipe::of);
        assert_ne!(old.hash(), new.hash());
        assert_eq!(old.hash(), Recipe::of(Suite::Bookworm).hash());
        assert!(old.packages.contains(&"elixir") && !new.packages.contains(&"elixir"));
    }
}
