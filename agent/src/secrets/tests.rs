//! The vault with plain files: what stands on disk when, and what survives.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use deployd_api::ids::Digest;
use deployd_api::secret::{NewSecret, SecretValue};

use super::*;

struct Site {
    dir: tempfile::TempDir,
    vault: Vault,
    app: AppName,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("apps")).unwrap();
        let store = Store::open(dir.path()).unwrap();
        let vault = Vault::new(store, None, dir.path().join("apps"), Form::Plain);
        Self { dir, vault, app: "shop".parse().unwrap() }
    }

    async fn set(&self, name: &str, version: u32, value: &str) -> Result<(), ErrorBody> {
        let value = SecretValue::new(value.as_bytes().to_vec());
        let new = NewSecret { version, value, recovery: Some("age".to_owned()) };
        let set = BTreeMap::from([(name.parse().unwrap(), new)]);
        let request = SecretsRequest { set, unset: vec![], by: String::new() };
        self.vault.change(&self.app, &request, "maria", Timestamp(7), None).await
    }

    async fn unset(&self, name: &str) {
        let unset = vec![name.parse().unwrap()];
        let request = SecretsRequest { set: BTreeMap::new(), unset, by: String::new() };
        self.vault.change(&self.app, &request, "maria", Timestamp(8), None).await.unwrap();
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path().join("apps/shop/secrets")).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// A release with the secrets of now, of which KEY is a file.
    async fn release(&self) -> ReleaseDocument {
        let text = "app = \"shop\"\n[processes.web]\nexec = \"x\"\n[secrets]\nfiles = [\"KEY\"]\n";
        let spec = deployd_api::spec::parse(text).unwrap();
        let secrets = self.vault.versions(&self.app).await.unwrap();
        ReleaseDocument { secrets, ..ReleaseDocument::new(Digest::of(b"a"), spec) }
    }

    fn bundle(&self, release: &ReleaseDocument) -> String {
        let sealed = self.vault.sealed(&self.app, &release.secrets).unwrap();
        std::fs::read_to_string(sealed.bundle()).unwrap()
    }
}

#[tokio::test]
async fn a_release_keeps_the_values_that_it_was_made_with() {
    let site = Site::new();
    site.set("TOKEN", 1, "one").await.unwrap();
    let first = site.release().await;
    site.set("TOKEN", 2, "two").await.unwrap();
    site.set("OTHER", 1, "x").await.unwrap();
    let second = site.release().await;
    assert_eq!(site.bundle(&first), r#"{"TOKEN":"b25l"}"#);
    assert_eq!(site.bundle(&second), r#"{"OTHER":"eA==","TOKEN":"dHdv"}"#);
    // The generation between the two is of no release.
    assert_eq!(site.files().len(), 3);
    assert_eq!(site.vault.prune(&site.app, [&first, &second].into_iter()).await.unwrap(), 1);
    assert_eq!(site.vault.prune(&site.app, std::iter::once(&first)).await.unwrap(), 0, "one is current");
    assert_eq!(site.vault.prune(&site.app, std::iter::empty()).await.unwrap(), 1);
    assert_eq!(site.bundle(&second), r#"{"OTHER":"eA==","TOKEN":"dHdv"}"#);
}

#[tokio::test]
async fn a_version_is_never_given_twice() {
    let site = Site::new();
    site.set("TOKEN", 1, "one").await.unwrap();
    site.set("TOKEN", 1, "one").await.unwrap();
    assert_eq!(site.set("TOKEN", 1, "two").await.unwrap_err().code, ErrorCode::PlanStale);
    site.unset("TOKEN").await;
    assert!(site.vault.versions(&site.app).await.unwrap().is_empty());
    // Of an app that was never pushed nothing stays, but its versions.
    assert_eq!(site.vault.prune(&site.app, std::iter::empty()).await.unwrap(), 1);
    assert!(!site.dir.path().join("apps/shop").exists());
    assert_eq!(site.set("TOKEN", 1, "one").await.unwrap_err().code, ErrorCode::PlanStale);
    site.set("TOKEN", 2, "two").await.unwrap();
    let record = site.vault.records(&site.app).await.unwrap().remove(0);
    assert_eq!((record.version, record.removed, record.by.as_str()), (2, false, "maria"));
    assert_eq!(record.recovery.as_deref(), Some("age"));
    site.vault.forget(&site.app, async { Ok(()) }).await.unwrap();
    assert!(site.vault.records(&site.app).await.unwrap().is_empty());
}

#[tokio::test]
async fn files_are_made_when_a_release_needs_them_and_only_root_reads_them() {
    let site = Site::new();
    site.set("KEY", 1, "pem").await.unwrap();
    let release = site.release().await;
    site.vault.prepare(&site.app, &release).await.unwrap();
    site.vault.prepare(&site.app, &release).await.unwrap();
    let sealed = site.vault.sealed(&site.app, &release.secrets).unwrap();
    let path = sealed.file(&"KEY".parse().unwrap());
    assert_eq!(std::fs::read(&path).unwrap(), b"pem");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(Path::new(&path)), mode(Path::new(&sealed.bundle()))), (0o600, 0o600));
    assert_eq!(mode(Path::new(&sealed.folder)), 0o700);
}

#[tokio::test]
async fn a_release_whose_secrets_are_not_here_is_refused() {
    let site = Site::new();
    site.set("TOKEN", 1, "one").await.unwrap();
    let mut release = site.release().await;
    release.secrets.insert("TOKEN".parse().unwrap(), 2);
    let refusal = site.vault.prepare(&site.app, &release).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::SecretMissing);
    assert!(refusal.hint.contains("-a shop"));
}

/// A generation whose file is gone, or is not what it was, is a loss of its values and no more: all of them together
/// can be set again, or unset.
#[tokio::test]
async fn what_was_lost_can_be_set_again() {
    for wreck in [
        |path: &str| std::fs::remove_file(path).unwrap(),
        |path: &str| {
            atomic::write(Path::new(path), b"\0nonsense", 0o600).unwrap();
        },
    ] {
        let site = Site::new();
        site.set("TOKEN", 1, "one").await.unwrap();
        site.set("OTHER", 1, "x").await.unwrap();
        let release = site.release().await;
        wreck(&site.vault.sealed(&site.app, &release.secrets).unwrap().bundle());
        assert!(site.set("TOKEN", 2, "two").await.is_err(), "OTHER would be lost");
        let new = |text: &str| {
            let value = SecretValue::new(text.as_bytes().to_vec());
            NewSecret { version: 2, value, recovery: None }
        };
        let set = BTreeMap::from([("TOKEN".parse().unwrap(), new("two"))]);
        let request = SecretsRequest { set, unset: vec!["OTHER".parse().unwrap()], by: String::new() };
        site.vault.change(&site.app, &request, "maria", Timestamp(9), None).await.unwrap();
        assert_eq!(site.bundle(&site.release().await), r#"{"TOKEN":"dHdv"}"#);
        site.set("OTHER", 2, "y").await.unwrap();
        assert_eq!(site.bundle(&site.release().await), r#"{"OTHER":"eQ==","TOKEN":"dHdv"}"#);
    }
}
