//! `hosts`: from bare hosts to a fleet and back, and every way in which that can fail.

use std::fs;

use super::fake_host::{Host, Hosts};
use super::pki::ran;

/// Lines with what a run took, which host is where, and its clock taken out.
fn steps(text: &str, hosts: &[&Host]) -> Vec<String> {
    let mut text = text.to_owned();
    for host in hosts {
        text = text.replace(&host.address(), "ADDRESS");
    }
    let cut = |line: &str| match line.rsplit_once(", clock") {
        Some((before, _)) => before.rsplit_once(", ").map_or(before, |(b, _)| b).to_owned(),
        None => match line.rsplit_once(", ") {
            Some((before, last)) if last.ends_with('s') && last.starts_with(|c: char| c.is_ascii_digit()) => {
                before.to_owned()
            }
            _ => line.to_owned(),
        },
    };
    text.lines().map(cut).collect()
}

#[tokio::test]
async fn a_bare_host_becomes_one_of_the_fleet_and_stays_so() {
    let hosts = Hosts::new().await;
    let web1 = hosts.bare("web1").await;
    let add = ["hosts", "add", "web1", "--ssh", "root@web1", "--group", "web", "--label", "region=fra"];
    let run = ran(hosts.command(&add)).await;
    assert_eq!(
        steps(&run.stderr, &[&web1]),
        [
            "web1  ssh       root@web1",
            "web1  system    Debian GNU/Linux 12 (bookworm), systemd 252, amd64",
            "web1  package   deployd 0.1.0 installed",
            "web1  identity  certificate for 90 d; its key stays on the host",
            "web1  call      ADDRESS answers over TLS",
            "web1  fleet     written into fleet.toml",
        ]
    );
    assert_eq!(
        run.stdout,
        "web1 is in the fleet.\nnext: deployd-ctl init, in the folder of your app\nundo: deployd-ctl hosts remove web1\n"
    );
    assert_eq!(
        web1.done(),
        [
            "probe",
            "dpkg the package",
            "deployd enroll request web1",
            "deployd enroll install",
            "systemctl enable -q deployd.socket",
            "systemctl restart deployd.socket deployd.service",
        ]
    );
    let bundle = fs::read_to_string(web1.folder.join("bundle.pem")).unwrap();
    let blocks: Vec<&str> = bundle.lines().filter(|l| l.starts_with("-----BEGIN")).collect();
    let certificate = "-----BEGIN CERTIFICATE-----";
    assert_eq!(blocks, [certificate, certificate, "-----BEGIN X509 CRL-----"]);
    let fleet = hosts.fleet().unwrap();
    let want = format!(
        "[hosts.web1]\naddress = \"{}\"\ngroups = [\"web\"]\nlabels = {{ region = \"fra\" }}\n",
        web1.address()
    );
    assert!(fleet.ends_with(&want), "{fleet}");
    // Again: no ssh, no passphrase, no change.
    let mut again = hosts.command(&add);
    again.env_remove("DEPLOYD_PASSPHRASE");
    let again = ran(again).await;
    assert_eq!(again.stdout, "web1 is in the fleet: nothing to change.\n", "{}", again.stderr);
    assert_eq!((again.code, web1.done().len(), hosts.fleet().unwrap()), (0, 0, fleet));
}

#[tokio::test]
async fn several_hosts_in_one_command_and_the_one_that_fails_is_told() {
    let hosts = Hosts::new().await;
    let (web1, web2, web3) = (hosts.bare("web1").await, hosts.bare("web2").await, hosts.bare("web3").await);
    fs::write(web2.folder.join("closed"), "ssh: connect to host web2 port 22: Connection refused\n").unwrap();
    web3.say("id=debian", "id=fedora");
    let add = ["hosts", "add", "web1=root@web1", "web2=root@web2", "web3=root@web3", "--group", "web"];
    let run = ran(hosts.command(&add)).await;
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (6, "web1 is in the fleet.\nundo: deployd-ctl hosts remove web1\n")
    );
    for want in [
        "error agent_unreachable: web2 is not added: ssh cannot connect",
        "  what    ssh: connect to host web2 port 22: Connection refused",
        "error host_not_added: web3 cannot be a host: it runs Debian GNU/Linux 12 (bookworm)",
        "not in the fleet: web2 web3. Run it again: what is done is not done twice.",
        "exit 6",
    ] {
        assert!(run.stderr.lines().any(|line| line == want), "{want}\n{}", run.stderr);
    }
    assert_eq!(web3.done(), ["probe"]);
    assert_eq!(hosts.fleet().unwrap().matches("[hosts.").count(), 1);
    // Mended, and typed again.
    fs::remove_file(web2.folder.join("closed")).unwrap();
    web3.say("id=fedora", "id=debian");
    web1.done();
    let run = ran(hosts.command(&add)).await;
    assert_eq!(
        (run.code, run.stdout.lines().next()),
        (0, Some("web1 web2 web3 are in the fleet.")),
        "{}",
        run.stderr
    );
    assert_eq!(web1.done().len(), 0);
    assert_eq!(hosts.fleet().unwrap().matches("groups = [\"web\"]").count(), 3);
}

#[tokio::test]
async fn a_host_that_cannot_be_called_is_not_written_down() {
    let hosts = Hosts::new().await;
    let web1 = hosts.bare("web1").await;
    // Nothing listens there.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let add = ["hosts", "add", "web1", "--ssh", "root@web1", "--address", &closed];
    let run = ran(hosts.command(&add)).await;
    assert_eq!(run.code, 6);
    let port = closed.rsplit_once(':').unwrap().1;
    let text = run.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(&format!("web1 is ready, but {closed} does not answer from here")), "{text}");
    assert!(text.contains(&format!("open port {port}/tcp")), "{text}");
    assert_eq!(hosts.fleet(), None);
    // A package that cannot be installed.
    fs::write(web1.folder.join("broken"), "").unwrap();
    let run = ran(hosts.command(&["hosts", "add", "web1", "--ssh", "root@web1"])).await;
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(run.stderr.contains("web1 is not added: installing the package failed on it"), "{}", run.stderr);
    assert!(run.stderr.contains("  what    dpkg: error: disk full"), "{}", run.stderr);
    assert_eq!(hosts.fleet(), None);
}

#[tokio::test]
async fn without_ssh_a_request_is_signed_and_the_host_called_later() {
    let hosts = Hosts::new().await;
    let web1 = hosts.bare("web1").await;
    let (request, address) = (web1.folder.join("request.pem"), web1.address());
    let sign = ["hosts", "add", "web1", "--csr", request.to_str().unwrap(), "--address", &address];
    let run = ran(hosts.command(&sign)).await;
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("  deployd enroll install < BUNDLE"), "{}", run.stderr);
    assert_eq!(hosts.fleet(), None);
    fs::write(web1.folder.join("bundle.pem"), &run.stdout).unwrap();
    let run = ran(hosts.command(&["hosts", "add", "web1", "--address", &address, "--group", "web"])).await;
    assert_eq!((run.code, run.stdout.lines().next()), (0, Some("web1 is in the fleet.")), "{}", run.stderr);
    assert!(hosts.fleet().unwrap().contains(&address));
    let run =
        ran(hosts.command(&["hosts", "add", "web2", "--csr", "fleet.toml", "--address", "10.0.0.9"])).await;
    assert_eq!(run.code, 8);
    assert!(run.stderr.contains("this is no certificate request"), "{}", run.stderr);
}

#[tokio::test]
async fn a_fleet_is_listed_checked_and_hosts_leave_it() {
    let hosts = Hosts::new().await;
    let (web1, web2) = (hosts.bare("web1").await, hosts.bare("web2").await);
    ran(hosts.command(&["hosts", "add", "web1=root@web1", "web2=root@web2", "--group", "web"])).await;
    let list = ran(hosts.command(&["hosts", "list"])).await;
    let lines: Vec<Vec<&str>> = list.stdout.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["HOST", "ADDRESS", "GROUPS", "LABELS"]);
    assert_eq!(lines[1], ["web1", web1.address().as_str(), "web", "-"]);
    let check = ran(hosts.command(&["hosts", "check"])).await;
    assert_eq!(check.code, 0, "{}", check.stderr);
    assert!(check.stdout.lines().nth(2).unwrap().contains("0.1.0  252"), "{}", check.stdout);
    assert!(web1.asked.lock().unwrap().contains(&"PUT /v1/tls/crl -----BEGIN X509 CRL-".to_owned()));
    let removed = ran(hosts.command(&["hosts", "remove", "web1", "--yes"])).await;
    assert_eq!(removed.code, 0, "{}", removed.stderr);
    let undo = format!(
        "undo: deployd-ctl hosts add web1 --ssh root@127.0.0.1 --address {} --group web",
        web1.address()
    );
    assert_eq!(removed.stdout, format!("web1 is not in the fleet any more.\n{undo}\n"));
    assert!(!hosts.fleet().unwrap().contains("web1"));
    // Put back by hand, it is refused: its certificate is revoked.
    let fleet = format!("{}[hosts.web1]\naddress = \"{}\"\n", hosts.fleet().unwrap(), web1.address());
    fs::write(hosts.dir.path().join("fleet.toml"), fleet).unwrap();
    let check = ran(hosts.command(&["hosts", "check", "web1", "-o", "json"])).await;
    assert_eq!(check.code, 8, "{}", check.stdout);
    assert!(check.stdout.contains("the certificate of web1 is revoked"), "{}", check.stdout);
    // A host that is away.
    drop(web2);
    let check = ran(hosts.command(&["hosts", "check", "web2"])).await;
    assert_eq!(check.code, 6);
    assert!(check.stdout.contains("no answer"), "{}", check.stdout);
}

#[tokio::test]
async fn what_is_revoked_is_told_to_every_host() {
    let hosts = Hosts::new().await;
    let (web1, web2) = (hosts.bare("web1").await, hosts.bare("web2").await);
    ran(hosts.command(&["hosts", "add", "web1=root@web1", "web2=root@web2"])).await;
    let issued = ran(hosts.command(&["pki", "issue", "ci", "--role", "deployer/shop", "--print"])).await;
    assert_eq!(issued.code, 0);
    drop(web2);
    let run = ran(hosts.command(&["pki", "revoke", "ci"])).await;
    assert_eq!(run.code, 6);
    assert_eq!(
        run.stdout.lines().next(),
        Some("ci is revoked on 1 of 2 hosts, and still let in on: web2."),
        "{}",
        run.stderr
    );
    assert!(web1.asked.lock().unwrap().last().unwrap().starts_with("PUT /v1/tls/crl"));
    let own = ran(hosts.command(&["pki", "revoke", "ops-1"])).await;
    assert_eq!(own.stderr.lines().next(), Some("error: ops-1 is the identity that you call with"));
    let nobody = ran(hosts.command(&["pki", "revoke", "ci"])).await;
    assert_eq!(nobody.code, 2, "revoked once");
}

#[tokio::test]
async fn a_fleet_that_is_wrong_touches_nothing() {
    let hosts = Hosts::new().await;
    let file = hosts.dir.path().join("fleet.toml");
    let missing = ran(hosts.command(&["hosts", "list"])).await;
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("there is no fleet.toml here"), "{}", missing.stderr);
    let double = "[hosts.a]\naddress = \"10.0.0.1\"\n[hosts.a]\naddress = \"10.0.0.2\"\n";
    fs::write(&file, double).unwrap();
    for command in [&["hosts", "list"][..], &["hosts", "add", "b", "--ssh", "root@b"], &["status", "--all"]] {
        let run = ran(hosts.command(command)).await;
        assert_eq!(run.code, 2, "{command:?} {}", run.stderr);
        let want = "fleet.toml:3: hosts.a: there are two hosts of this name: lines 1 and 3";
        assert!(run.stderr.contains(want), "{}", run.stderr);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), double);
    fs::write(&file, "[hosts.a]\naddress = \"10.0.0.1\"\ngroups = [\"web\"]\n").unwrap();
    let run = ran(hosts.command(&["status", "--all", "-H", "api"])).await;
    assert_eq!(run.code, 2);
    for want in ["error fleet_invalid: no host of the fleet is api", "  groups  web", "  hosts   a"] {
        assert!(run.stderr.lines().any(|line| line == want), "{want}\n{}", run.stderr);
    }
    let twice = ran(hosts.command(&["hosts", "add", "b", "--ssh", "root@b", "--address", "10.0.0.1"])).await;
    assert_eq!(twice.code, 3);
    assert!(twice.stderr.contains("10.0.0.1:7443 is the address of a already"), "{}", twice.stderr);
}

#[tokio::test]
async fn a_slip_in_names_or_addresses_adds_nothing() {
    let hosts = Hosts::new().await;
    let (web1, web2) = (hosts.bare("web1").await, hosts.bare("web2").await);
    let other = "[hosts.db]\naddress = \"10.0.0.1\"\n";
    fs::write(hosts.dir.path().join("fleet.toml"), other).unwrap();
    // One machine under two names.
    web1.say("uid=0", "machine_id=0a1b\nuid=0");
    web2.say("uid=0", "machine_id=0a1b\nuid=0");
    let run = ran(hosts.command(&["hosts", "add", "web1=root@web1", "web2=root@web2", "-o", "json"])).await;
    assert_eq!(run.code, 6, "{}", run.stderr);
    assert!(
        run.stderr.contains("web2 is not added: it is the machine that is called web1"),
        "{}",
        run.stderr
    );
    let rows: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&rows[0]["host"], &rows[0]["change"], &rows[0]["enrolled"]),
        (&"web1".into(), &"added".into(), &true.into())
    );
    assert_eq!((&rows[1]["host"], &rows[1]["error"]["code"]), (&"web2".into(), &"host_not_added".into()));
    assert_eq!(web2.done(), ["probe"]);
    // A name that is known, and another machine.
    web1.done();
    fs::write(web2.folder.join("address"), "10.0.0.12").unwrap();
    let before = hosts.fleet();
    let run = ran(hosts.command(&["hosts", "add", "web1", "--ssh", "root@web2"])).await;
    assert_eq!(run.code, 3, "{}", run.stderr);
    let want = format!("web1 is {}, and root@web2 is 10.0.0.12", web1.address());
    assert!(run.stderr.contains(&want) && run.stderr.contains("hosts remove web1 first"), "{}", run.stderr);
    // Words that are wrong are told before ssh.
    let run = ran(hosts.command(&["hosts", "add", "web2", "--ssh", "root@web2", "--label", "x"])).await;
    assert_eq!((run.code, run.stderr.lines().next()), (2, Some("error: `x` is no label")));
    assert_eq!((web1.done().len(), web2.done().len(), hosts.fleet()), (0, 0, before));
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_told_before_a_host_is_entered() {
    let hosts = Hosts::new().await;
    let web1 = hosts.bare("web1").await;
    let add = ["hosts", "add", "web1", "--ssh", "root@web1", "--fleet", "nowhere/fleet.toml"];
    let run = ran(hosts.command(&add)).await;
    assert_eq!(run.code, 2, "{}", run.stderr);
    assert!(run.stderr.contains("cannot write nowhere/fleet.toml"), "{}", run.stderr);
    assert!(run.stderr.contains("nothing was changed"), "{}", run.stderr);
    assert_eq!(web1.done().len(), 0);
}

/// What programs get of the other ends.
#[tokio::test]
async fn each_end_has_a_value_for_programs() {
    let hosts = Hosts::new().await;
    let (web1, web2) = (hosts.bare("web1").await, hosts.bare("web2").await);
    let json = |arguments: &'static [&'static str]| {
        let command = hosts.command(&[arguments, &["-o", "json"]].concat());
        async move {
            let run = ran(command).await;
            (
                run.code,
                serde_json::from_str::<serde_json::Value>(&run.stdout)
                    .unwrap_or_else(|e| panic!("{e} {} {}", run.stdout, run.stderr)),
            )
        }
    };
    ran(hosts.command(&["hosts", "add", "web1=root@web1", "web2=root@web2", "--group", "web"])).await;
    fs::copy(web1.folder.join("request.pem"), hosts.dir.path().join("request.pem")).unwrap();
    let (_, signed) = json(&["hosts", "add", "web3", "--csr", "request.pem", "--address", "10.0.0.3"]).await;
    assert!(signed["bundle"].as_str().unwrap().contains("BEGIN X509 CRL"), "{signed}");
    assert_eq!((&signed["host"], &signed["address"]), (&"web3".into(), &"10.0.0.3:7443".into()));
    ran(hosts.command(&["pki", "issue", "ci", "--role", "viewer", "--print"])).await;
    drop(web2);
    let (code, revoked) = json(&["pki", "revoke", "ci"]).await;
    assert_eq!((code, &revoked["sent"], &revoked["missed"][0]["host"]), (6, &1.into(), &"web2".into()));
    let (code, own) = json(&["pki", "renew"]).await;
    assert_eq!((code, &own["certificate"]["name"]), (0, &"ops-1".into()));
    let (code, removed) = json(&["hosts", "remove", "web2", "--yes"]).await;
    assert_eq!((code, &removed["host"], &removed["revoked"]), (0, &"web2".into(), &true.into()));
    assert!(removed["undo"].as_str().unwrap().ends_with("--group web"), "{removed}");
}
