//! Tests of `arguments`: every form that the agent writes, and what is refused.

use super::*;

fn parsed(line: &str) -> Result<Command, String> {
    parse(line.split(' ').map(OsString::from)).map_err(|error| error.to_string())
}

#[test]
fn run_takes_listeners_and_leaves_the_words_alone() {
    let line = "run --listener http=auto:[::]:8080 --listener a=arg:v6only:[::1]:1 --shim /s --base-port 9000 \
                --instance 2 -- bin/shop --shim -- x";
    let Command::Run(run) = parsed(line).unwrap() else { panic!("not run") };
    let listener = |name: &str, handoff, address: &str| Listener {
        name: name.to_owned(),
        handoff,
        address: address.to_owned(),
    };
    assert_eq!(
        run.listeners,
        [listener("http", Handoff::Auto, "[::]:8080"), listener("a", Handoff::Arg, "v6only:[::1]:1")]
    );
    assert_eq!((run.shim.as_deref(), run.port), (Some("/s"), Some(9002)));
    assert_eq!(run.words, ["bin/shop", "--shim", "--", "x"]);
}

#[test]
fn the_other_subcommands() {
    assert_eq!(parsed("proxy --base-port 9000 --instance 1"), Ok(Command::Proxy(9001)));
    let lend = Lend { unit: "a.socket".into(), lender: LENDER.into() };
    assert_eq!(parsed("lend a.socket"), Ok(Command::Lend(lend)));
    let relay = Relay {
        unit: "a.socket".into(),
        lender: "/l".into(),
        to: "[::1]:80".parse().unwrap(),
        quiet: Duration::from_millis(5),
        limit: Duration::from_secs(1),
        carry: None,
    };
    let line = "relay --lender /l a.socket --to [::]:80 --quiet-ms 5 --max-ms 1000";
    assert_eq!(parsed(line), Ok(Command::Relay(relay)));
    let Ok(Command::Relay(relay)) = parsed(&format!("{line} --carry-ms 30000")) else { panic!("{line}") };
    assert_eq!(relay.carry, Some(Duration::from_secs(30)));
}

#[test]
fn mistakes_are_named() {
    for (line, word) in [
        ("walk", "walk"),
        ("run --", "program"),
        ("run --listener http=maybe:x -- p", "--listener"),
        ("run --listener http=auto:/a,b -- p", "--listener"),
        ("run --base-port 1 -- p", "--instance"),
        ("proxy --base-port 65535 --instance 1", "65535"),
        ("proxy --shim x", "--shim"),
        ("lend", ".socket"),
        ("relay a.socket --to :80 --quiet-ms 5 --max-ms 1", "--to"),
        ("relay a.socket --to 1.2.3.4:80 --quiet-ms", "--quiet-ms"),
    ] {
        let error = parsed(line).unwrap_err();
        assert!(error.contains(word), "{line}: {error}");
    }
}
