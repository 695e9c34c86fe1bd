//! Where the sealed secrets of a release are, and which of them a release cannot have.
//!
//! A *generation* is all secrets of an app, each in one version. Its name follows from the versions alone, so a
//! release names its generation without anybody keeping a list, and the same versions have the same name
//! everywhere. The agent seals a generation when it comes to be; PID 1 opens it at each start.

use std::collections::BTreeMap;

use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, Digest};
use deployd_api::release::ReleaseDocument;
use deployd_api::secret::SecretName;
use serde::{Deserialize, Serialize};

/// The credential that holds all secrets of a generation: JSON, name → base64.
pub const BUNDLE: &str = "secrets";
/// Digits of a generation's name: 64 bits, so that two of them are never the same by chance.
const NAME_DIGITS: usize = 16;

/// How credentials of a host stand on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Sealed with the host's key: `LoadCredentialEncrypted=`.
    #[default]
    Sealed,
    /// As they are, in files that only root reads: `LoadCredential=`.
    Plain,
}

impl Form {
    /// The directive that loads them.
    pub fn directive(self) -> &'static str {
        match self {
            Self::Sealed => "LoadCredentialEncrypted",
            Self::Plain => "LoadCredential",
        }
    }

    /// How the names of their files end.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Sealed => "cred",
            Self::Plain => "plain",
        }
    }
}

/// The secrets that a release was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The folder of the app's generations.
    pub folder: String,
    /// The generation's name.
    pub generation: String,
    /// How it stands there.
    pub form: Form,
}

impl Sealed {
    /// The generation of these versions; `None` when there are no secrets.
    pub fn of(
        apps_dir: &str,
        app: &AppName,
        versions: &BTreeMap<SecretName, u32>,
        form: Form,
    ) -> Option<Self> {
        let generation = generation(versions)?;
        Some(Self { folder: folder(apps_dir, app), generation, form })
    }

    /// The file of all of them.
    pub fn bundle(&self) -> String {
        format!("{}/{}.{}", self.folder, self.generation, self.form.suffix())
    }

    /// The file of one that is delivered as a file.
    pub fn file(&self, name: &SecretName) -> String {
        format!("{}/{}.{name}.{}", self.folder, self.generation, self.form.suffix())
    }

    /// What a unit loads: each credential's directive, name and path.
    pub fn credentials(&self, document: &ReleaseDocument) -> Vec<Credential> {
        let one = |id: &str, path| Credential { form: self.form, id: id.to_owned(), path };
        // A file whose secret is not set was refused before.
        let files = document.spec.secrets.files.iter().filter(|n| document.secrets.contains_key(*n));
        let files = files.map(|name| one(name.as_str(), self.file(name)));
        std::iter::once(one(BUNDLE, self.bundle())).chain(files).collect()
    }
}

/// A credential of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// How its file is.
    pub form: Form,
    /// Its name below `$CREDENTIALS_DIRECTORY`.
    pub id: String,
    /// Its file.
    pub path: String,
}

/// The folder of an app's generations.
pub fn folder(apps_dir: &str, app: &AppName) -> String {
    format!("{apps_dir}/{app}/secrets")
}

/// The name of the generation with these versions; `None` when there are none.
pub fn generation(versions: &BTreeMap<SecretName, u32>) -> Option<String> {
    if versions.is_empty() {
        return None;
    }
    let one = |(name, version): (&SecretName, &u32)| format!("{name}={version}");
    let listed = versions.iter().map(one).collect::<Vec<_>>().join("\n");
    Some(Digest::of(listed.as_bytes()).to_string()[..NAME_DIGITS].to_owned())
}

/// Refuses a name that is both a variable of the spec and a secret: which of the two a program gets would be
/// anybody's guess.
pub fn refuse_clash(document: &ReleaseDocument) -> Result<(), Box<ErrorBody>> {
    let spec = &document.spec;
    let is_file = |name: &SecretName| spec.secrets.files.contains(name);
    let both = |name: &&SecretName| !is_file(name) && spec.env.contains_key(name.as_str());
    let Some(name) = document.secrets.keys().find(both) else { return Ok(()) };
    let app = &spec.app;
    Err(Box::new(
        ErrorBody::new(
            ErrorCode::SpecInvalid,
            format!("{name} is a secret of {app}, and [env] of the spec sets it as well"),
            format!("remove {name} from [env], or: deployd-ctl secrets unset {name} -a {app}"),
        )
        .about(name.as_str()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(of: &[(&str, u32)]) -> BTreeMap<SecretName, u32> {
        of.iter().map(|(name, version)| (name.parse().unwrap(), *version)).collect()
    }

    fn document(text: &str, secrets: &[(&str, u32)]) -> ReleaseDocument {
        let text = format!("app = \"shop\"\n[processes.web]\nexec = \"bin/web\"\n{text}");
        let spec = deployd_api::spec::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        ReleaseDocument { secrets: versions(secrets), ..ReleaseDocument::new(Digest::of(b"a"), spec) }
    }

    #[test]
    fn a_generation_follows_from_its_versions() {
        assert_eq!(generation(&versions(&[])), None);
        let names: Vec<_> = [&[("A", 1)][..], &[("A", 2)], &[("A", 1), ("B", 1)], &[("B", 1)], &[("A", 11)]]
            .iter()
            .map(|v| generation(&versions(v)).unwrap())
            .collect();
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        assert_eq!(generation(&versions(&[("A", 1)])), Some(names[0].clone()));
        assert_eq!(names[0].len(), NAME_DIGITS);
    }

    #[test]
    fn files_have_a_credential_of_their_own() {
        let document =
            document("[secrets]\nfiles = [\"TLS_KEY\", \"NOT_SET\"]\n", &[("TLS_KEY", 1), ("TOKEN", 3)]);
        let app = "shop".parse().unwrap();
        for (form, suffix) in [(Form::Sealed, "cred"), (Form::Plain, "plain")] {
            let sealed = Sealed::of("/apps", &app, &document.secrets, form).unwrap();
            let of: Vec<_> = sealed.credentials(&document).into_iter().map(|c| (c.id, c.path)).collect();
            let at = |rest: &str| format!("/apps/shop/secrets/{}{rest}.{suffix}", sealed.generation);
            assert_eq!(of, [("secrets".to_owned(), at("")), ("TLS_KEY".to_owned(), at(".TLS_KEY"))]);
        }
    }

    #[test]
    fn a_variable_cannot_be_a_secret_as_well() {
        let both = document("[env]\nTOKEN = \"x\"\n", &[("TOKEN", 1)]);
        let refusal = refuse_clash(&both).unwrap_err();
        assert!(refusal.message.contains("TOKEN") && refusal.hint.contains("-a shop"), "{refusal:?}");
        let file = document("[env]\nTOKEN = \"x\"\n[secrets]\nfiles = [\"TOKEN\"]\n", &[("TOKEN", 1)]);
        assert_eq!(refuse_clash(&file), Ok(()));
        assert_eq!(refuse_clash(&document("[env]\nA = \"x\"\n", &[("TOKEN", 1)])), Ok(()));
    }
}
