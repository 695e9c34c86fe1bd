//! `pki`: what it makes, what it prints, and what it refuses.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{Run, assert_lines};

/// The binary in a folder, as an operator whose files are in `home/` there.
pub(crate) fn operator(dir: &Path, arguments: &[&str]) -> tokio::process::Command {
    let mut command = super::command(dir, Path::new("none"), arguments);
    command.env("DEPLOYD_HOME", dir.join("home")).env("DEPLOYD_PASSPHRASE", "correct horse");
    command
}

pub(crate) async fn ran(mut command: tokio::process::Command) -> Run {
    let output = command.output().await.unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) async fn init(dir: &Path) {
    let made = ran(operator(dir, &["pki", "init", "--name", "shop"])).await;
    assert_eq!(made.code, 0, "{}", made.stderr);
}

/// Every file below a folder, with its content.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn init_makes_a_fleet_and_never_over_another() {
    let dir = tempfile::tempdir().unwrap();
    let made = ran(operator(dir.path(), &["pki", "init", "--name", "shop"])).await;
    assert_lines(
        &made.stdout,
        &[
            "fleet shop has a CA, and ops-1 is its first admin.",
            "next: deployd-ctl hosts add NAME --ssh root@ADDRESS",
        ],
    );
    assert!(made.stderr.contains("identity.pem      you: ops-1, admin, 365 d"), "{}", made.stderr);
    let home = dir.path().join("home");
    let before = contents(&home);
    let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    let want = [
        "ca.key.age",
        "ca.pem",
        "crl.pem",
        "identity.pem",
        "issued.jsonl",
        "recovery.key.age",
        "recovery.pub",
    ];
    assert_eq!(names, want);
    for (name, content) in &before {
        let mode = std::fs::metadata(home.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
        let text = String::from_utf8_lossy(content);
        assert_eq!(text.contains("PRIVATE KEY"), name == "identity.pem", "{name}");
        assert!(!text.contains("AGE-SECRET-KEY"), "{name}");
    }
    let again = ran(operator(dir.path(), &["pki", "init", "--name", "other"])).await;
    assert_eq!(again.code, 8);
    assert!(
        again.stderr.contains("there is an identity or a CA already; nothing was made"),
        "{}",
        again.stderr
    );
    assert_eq!(contents(&home), before);
}

#[tokio::test]
async fn a_passphrase_that_is_short_or_cannot_be_asked_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut short = operator(dir.path(), &["pki", "init"]);
    short.env("DEPLOYD_PASSPHRASE", "short");
    let mut none = operator(dir.path(), &["pki", "init"]);
    none.env_remove("DEPLOYD_PASSPHRASE");
    for (command, want) in [
        (short, "error: the passphrase has fewer than 8 characters; nothing was made"),
        (none, "error: the passphrase of the CA is needed, and there is no terminal to ask"),
    ] {
        let run = ran(command).await;
        assert_eq!((run.code, run.stderr.lines().next()), (2, Some(want)));
        assert!(!dir.path().join("home").exists());
    }
}

#[tokio::test]
async fn print_gives_one_line_that_is_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let issue = ["pki", "issue", "ci", "--role", "deployer/shop", "--ttl", "90d", "--print"];
    let run = ran(operator(dir.path(), &issue)).await;
    assert_eq!((run.code, run.stdout.lines().count()), (0, 1), "{}", run.stderr);
    let mut show = operator(dir.path(), &["pki", "show"]);
    show.env("DEPLOYD_IDENTITY", run.stdout.trim()).env("DEPLOYD_HOME", dir.path().join("elsewhere"));
    let shown = ran(show).await;
    let lines: Vec<&str> = shown.stdout.lines().collect();
    assert!(lines[0].starts_with("you          ci (deployer/shop), 90 d left, until "), "{}", lines[0]);
    assert_eq!(lines[1], "  from       DEPLOYD_IDENTITY");
    assert_eq!(lines[5], "  from       its key is not here");
    assert!(!shown.stdout.contains(run.stdout.trim()));
    // A line that lost its end is not printed again.
    let mut broken = operator(dir.path(), &["pki", "show"]);
    broken.env("DEPLOYD_IDENTITY", &run.stdout.trim()[..1001]);
    let broken = ran(broken).await;
    assert_eq!(broken.code, 8);
    assert!(!broken.stderr.contains(&run.stdout[..40]), "{}", broken.stderr);
}

#[tokio::test]
async fn what_was_issued_is_shown_and_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let issue = ["pki", "issue", "ops-2", "--role", "viewer", "--role", "deployer/shop", "--out", "two.pem"];
    let run = ran(operator(dir.path(), &issue)).await;
    let first = run.stdout.lines().next();
    assert_eq!(first, Some("ops-2 may act as viewer, deployer/shop for 365 d: two.pem"), "{}", run.stderr);
    assert_eq!(std::fs::metadata(dir.path().join("two.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let again = ran(operator(dir.path(), &issue)).await;
    assert_eq!((again.code, again.stderr.lines().next()), (2, Some("error: two.pem exists already")));
    let shown = ran(operator(dir.path(), &["pki", "show"])).await;
    let rows: Vec<&str> = shown.stdout.lines().skip(9).collect();
    assert!(rows[0].starts_with("NAME   MAY                    ENDS IN  SERIAL"), "{}", shown.stdout);
    assert!(rows[1].starts_with("ops-1  admin                    365 d  "), "{}", shown.stdout);
    assert!(rows[2].starts_with("ops-2  viewer, deployer/shop    365 d  "), "{}", shown.stdout);
    assert_eq!(rows.len(), 3);
    let mut wrong = operator(dir.path(), &["pki", "issue", "x", "--role", "viewer"]);
    wrong.env("DEPLOYD_PASSPHRASE", "battery staple");
    let wrong = ran(wrong).await;
    assert_eq!(wrong.code, 8);
    assert!(wrong.stderr.contains("this passphrase does not open "), "{}", wrong.stderr);
    let role = ran(operator(dir.path(), &["pki", "issue", "x", "--role", "root"])).await;
    assert_eq!(role.code, 2);
    assert!(role.stderr.contains("roles are viewer, deployer/APP and admin"), "{}", role.stderr);
}

#[tokio::test]
async fn renewal_keeps_name_and_roles_and_makes_a_new_key() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let identity = dir.path().join("home/identity.pem");
    let before = std::fs::read_to_string(&identity).unwrap();
    let run = ran(operator(dir.path(), &["pki", "renew"])).await;
    assert_eq!(
        run.stdout, "your identity ops-1 holds for 365 d; the old one had 365 d left.\n",
        "{}",
        run.stderr
    );
    let after = std::fs::read_to_string(&identity).unwrap();
    let key = |text: &str| text.split("PRIVATE KEY").nth(1).unwrap().to_owned();
    assert_ne!(key(&before), key(&after));
    let public = std::fs::read_to_string(dir.path().join("home/recovery.pub")).unwrap();
    let last = format!("# recovery: {}", public.trim());
    assert!(public.starts_with("age1"), "{public}");
    assert_eq!((before.lines().last(), after.lines().last()), (Some(last.as_str()), Some(last.as_str())));
    let list = std::fs::read_to_string(dir.path().join("home/issued.jsonl")).unwrap();
    assert_eq!(list.matches("\"roles\":[\"admin\"]").count(), 2);
}

/// Their key stays with them: what comes back and the key, one after the other, are an identity.
#[tokio::test]
async fn a_request_and_its_key_become_an_identity() {
    let dir = tempfile::tempdir().unwrap();
    init(dir.path()).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    std::fs::write(dir.path().join("ops-2.csr"), request).unwrap();
    let issue = ["pki", "issue", "ops-2", "--role", "viewer", "--csr", "ops-2.csr", "--out", "ops-2.pem"];
    let run = ran(operator(dir.path(), &issue)).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    let signed = std::fs::read_to_string(dir.path().join("ops-2.pem")).unwrap();
    assert!(signed.contains("\n# recovery: age1") && !signed.contains("PRIVATE"), "{signed}");
    std::fs::write(dir.path().join("two.pem"), signed + &key.serialize_pem()).unwrap();
    let shown = ran(operator(dir.path(), &["pki", "show", "--identity", "two.pem"])).await;
    assert!(
        shown.stdout.starts_with("you          ops-2 (viewer), 365 d left"),
        "{} {}",
        shown.stdout,
        shown.stderr
    );
}
