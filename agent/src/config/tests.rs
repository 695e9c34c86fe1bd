//! Config files as people write them, right and wrong.
#![expect(clippy::disallowed_methods, reason = "a test's own files and programs")]

use std::path::Path;

use super::*;
use crate::store::disk::DEFAULT_RESERVE_BYTES;

struct Etc(tempfile::TempDir);

impl Etc {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("agent.d")).unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Self(dir)
    }

    fn load(&self) -> Result<Effective, ConfigErrors> {
        Settings::load(&self.0.path().join("agent.toml"))
    }

    /// Errors as printed, without the folder.
    fn errors(&self) -> Vec<String> {
        let folder = format!("{}/", self.0.path().display());
        self.load().unwrap_err().to_string().replace(&folder, "").lines().map(str::to_owned).collect()
    }
}

#[test]
fn without_a_file_everything_is_default() {
    let etc = tempfile::tempdir().unwrap();
    let effective = Settings::load(&etc.path().join("agent.toml")).unwrap();
    assert_eq!(effective.settings, Settings::default());
    assert_eq!(effective.settings.mark_prefix, 0x4450);
    assert!(effective.rows().iter().all(|(_, _, source)| **source == Source::Default));
}

#[test]
fn additions_win_in_order_of_name() {
    let etc = Etc::new(&[
        ("agent.toml", "# comment\nkeep_releases = 3\nregion = \"fra\"\nlog_level = \"debug\"\n"),
        ("agent.d/20-b.toml", "keep_releases = 9\n"),
        ("agent.d/10-a.toml", "\nkeep_releases = 7\nmark_prefix = 0x10\n"),
        ("agent.d/30-c.toml.dpkg-old", "nonsense"),
        ("agent.d/.hidden.toml", "nonsense"),
    ]);
    let effective = etc.load().unwrap();
    assert_eq!(effective.settings.keep_releases, 9);
    assert_eq!(effective.settings.mark_prefix, 0x10);
    assert_eq!(effective.settings.log_level, LogLevel::Debug);
    let text = effective.to_string().replace(&format!("{}/", etc.0.path().display()), "");
    assert_eq!(
        text,
        "state_dir = \"/var/lib/deployd\"           # default\n\
         disk_reserve = \"1gb\"                     # default\n\
         keep_releases = 9                        # agent.d/20-b.toml:1\n\
         mark_prefix = 0x0010                     # agent.d/10-a.toml:3\n\
         uid_range = \"50000-59999\"                # default\n\
         secrets = \"sealed\"                       # default\n\
         log_level = \"debug\"                      # agent.toml:4\n\
         region = \"fra\"                           # agent.toml:3\n\
         # host_name                              # not set\n"
    );
    let json = effective.to_json();
    assert_eq!(json["keep_releases"]["value"], "9");
    assert_eq!(json["state_dir"]["source"], "default");
    assert_eq!(json["host_name"]["value"], serde_json::Value::Null);
}

#[test]
fn what_is_printed_can_be_read_again() {
    let etc = Etc::new(&[(
        "agent.toml",
        "state_dir = \"/srv/deployd\"\ndisk_reserve = \"512mb\"\nuid_range = \"50000-50009\"\nhost_name = \"a.example\"\n",
    )]);
    let first = etc.load().unwrap();
    assert_eq!(first.settings.disk_reserve, 512 << 20);
    let again = Etc::new(&[("agent.toml", &first.to_string())]);
    assert_eq!(again.load().unwrap().settings, first.settings);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let etc = Etc::new(&[
        ("agent.toml", "keep_release = 3\nzzz = 1\n[http]\nport = 1\n"),
        ("agent.d/a.toml", "mark_prefix = 0\nregion = \"\"\n"),
        ("agent.d/b.toml", "a = = 1\n"),
    ]);
    let errors = etc.errors();
    assert_eq!(errors[0], "agent.toml:1: unknown key `keep_release` (did you mean `keep_releases`?)");
    assert!(errors[1].starts_with("agent.toml:2: unknown key `zzz` (the keys are state_dir, "), "{errors:?}");
    assert!(errors[2].starts_with("agent.toml:3: unknown key `http`"), "{errors:?}");
    assert!(errors[3].starts_with("agent.d/b.toml:1: "), "{errors:?}");
    assert_eq!(errors[4], "agent.d/a.toml:1: `mark_prefix` must be a number from 1 to 65535");
    assert_eq!(errors.len(), 6, "{errors:?}");
}

#[test]
fn wrong_values_say_what_is_right() {
    for (text, what) in [
        ("state_dir = \"var\"", "absolute path"),
        ("state_dir = \"/a/../b\"", "absolute path"),
        ("state_dir = \"/\"", "absolute path"),
        ("state_dir = 5", "text in quotes"),
        ("disk_reserve = 5", "\"5mb\""),
        ("disk_reserve = \"much\"", "is wrong"),
        ("keep_releases = 0", "from 1 to 1000"),
        ("keep_releases = 1.5", "not a number with a fraction"),
        ("keep_releases = \"5\"", "must be a number"),
        ("mark_prefix = 0x10000", "from 1 to 65535"),
        ("mark_prefix = 99999999999999999999", "too large"),
        ("uid_range = \"0-100\"", "50000-59999"),
        ("uid_range = \"59999-50000\"", "50000-59999"),
        ("uid_range = \"50000-65534\"", "50000-59999"),
        ("uid_range = [1, 2]", "not a list"),
        ("secrets = \"plain\"", "plaintext-0600"),
        ("log_level = \"loud\"", "\"trace\""),
        ("region = \"a b\"", "1 to 64"),
        ("host_name = true", "not a truth value"),
        ("region = \"a\"\nregion = \"b\"", "duplicate"),
    ] {
        let errors = Etc::new(&[("agent.toml", text)]).errors();
        assert_eq!(errors.len(), 1, "{text}: {errors:?}");
        assert!(errors[0].contains(what), "{text}: {errors:?}");
    }
}

#[test]
fn an_unreadable_file_is_no_empty_one() {
    let etc = Etc::new(&[]);
    std::fs::create_dir(etc.0.path().join("agent.toml")).unwrap();
    assert!(etc.errors()[0].starts_with("agent.toml: cannot be read: "));
    let etc = Etc::new(&[("agent.d/x.toml", "")]);
    std::fs::write(etc.0.path().join("agent.d/y.toml"), [0xff, 0xfe]).unwrap();
    assert!(etc.errors()[0].starts_with("agent.d/y.toml: cannot be read: "));
}

/// The packaged file shows every key, commented out, with its true default.
#[test]
fn the_packaged_file_says_the_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/agent.toml");
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(Etc::new(&[("agent.toml", &text)]).load().unwrap().settings, Settings::default());
    let keys = text.lines().filter_map(|line| line.strip_prefix('#').filter(|l| !l.starts_with(' ')));
    let uncommented = keys.collect::<Vec<_>>().join("\n");
    let effective = Etc::new(&[("agent.toml", &uncommented)]).load().unwrap();
    let shown = Settings { region: None, host_name: None, ..effective.settings.clone() };
    assert_eq!(shown, Settings::default());
    assert_eq!(effective.settings.disk_reserve, DEFAULT_RESERVE_BYTES);
    for (key, _, source) in effective.rows() {
        assert_ne!(*source, Source::Default, "{key} is not in the packaged file");
    }
}
