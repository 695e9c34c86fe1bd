//! Which package of the agent a host gets, by the names of packages: `deployd_0.1.0_amd64.deb`.

use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};

use super::{answer, refused};
use crate::error::CtlError;

/// Where the package of ctl keeps the agent's.
const SHIPPED: &str = "/usr/share/deployd";

/// A package file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) path: PathBuf,
    pub(crate) version: String,
    pub(crate) arch: String,
}

/// What is done to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// What is installed stays.
    Keep(String),
    Install(Package),
    /// It has none, and there is none for it.
    Missing,
}

impl Package {
    /// By its name, as packages are named.
    fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".deb")?;
        let mut parts = name.split('_');
        let (kind, version, arch) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = kind == "deployd" && parts.next().is_none();
        whole.then(|| Self { path: path.to_owned(), version: version.to_owned(), arch: arch.to_owned() })
    }
}

/// The packages there are: those that were named, else those that came with ctl.
pub(crate) fn find(named: &[PathBuf]) -> Result<Vec<Package>, CtlError> {
    let mut packages = Vec::new();
    for path in named {
        let package = Package::of(path).filter(|_| path.is_file()).ok_or_else(|| {
            let next = "name the file that a release has: deployd_VERSION_ARCH.deb";
            let what =
                if path.exists() { "its name is not that of the agent's package" } else { "no such file" };
            answer(
                refused(format!("{} is not a package of the agent", path.display()), next)
                    .cause("what", what),
            )
        })?;
        packages.push(package);
    }
    if named.is_empty() {
        let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        for folder in [Some(PathBuf::from(SHIPPED)), own].into_iter().flatten() {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            packages.extend(entries.filter_map(|entry| Package::of(&entry.path())));
        }
    }
    Ok(packages)
}

/// What a host of this architecture gets, that has this version or none.
pub(crate) fn choose(packages: &[Package], arch: &str, installed: Option<&str>) -> Choice {
    let fitting = packages.iter().filter(|p| p.arch == arch || p.arch == "all");
    let best = fitting.max_by(|a, b| compare(&a.version, &b.version));
    match (best, installed) {
        (Some(best), Some(installed)) if compare(&best.version, installed) != Ordering::Greater => {
            Choice::Keep(installed.to_owned())
        }
        (Some(best), _) => Choice::Install(best.clone()),
        (None, Some(installed)) => Choice::Keep(installed.to_owned()),
        (None, None) => Choice::Missing,
    }
}

/// Versions by their numbers, then by their text.
fn compare(a: &str, b: &str) -> Ordering {
    let numbers = |version: &str| -> Vec<u64> {
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
    };
    numbers(a).cmp(&numbers(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> Package {
        Package::of(Path::new(name)).unwrap()
    }

    #[test]
    fn only_names_of_packages_are_packages() {
        assert_eq!(package("a/deployd_0.1.0_amd64.deb").version, "0.1.0");
        for other in
            ["deployd-ctl_0.1.0_amd64.deb", "deployd.deb", "deployd_0.1.0_amd64.rpm", "deployd_1_2_3.deb"]
        {
            assert_eq!(Package::of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn the_newest_that_fits_is_installed_and_nothing_older_than_what_is_there() {
        let packages = [
            package("deployd_0.9.0_amd64.deb"),
            package("deployd_0.10.0_amd64.deb"),
            package("deployd_0.11.0_arm64.deb"),
        ];
        let install = |name: &str| Choice::Install(package(name));
        for (arch, installed, want) in [
            ("amd64", None, install("deployd_0.10.0_amd64.deb")),
            ("amd64", Some("0.9.9"), install("deployd_0.10.0_amd64.deb")),
            ("amd64", Some("0.10.0"), Choice::Keep("0.10.0".into())),
            ("amd64", Some("0.12.0"), Choice::Keep("0.12.0".into())),
            ("arm64", None, install("deployd_0.11.0_arm64.deb")),
            ("riscv64", None, Choice::Missing),
            ("riscv64", Some("0.1.0"), Choice::Keep("0.1.0".into())),
        ] {
            assert_eq!(choose(&packages, arch, installed), want, "{arch} {installed:?}");
        }
    }

    #[test]
    fn a_named_package_must_be_one() {
        let error = find(&["/nowhere/deployd_0.1.0_amd64.deb".into()]).unwrap_err();
        assert_eq!(error.to_body().causes[0].1, "no such file");
    }
}
