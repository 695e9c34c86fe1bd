//! Tables of specs: what is accepted with which defaults, and what every mistake answers.

use proptest::prelude::*;

use super::super::{Address, CheckKind, Drain, Gate, Handoff, Millis, Selector, Share, Spec, Strategy};
use super::{parse, parse_project};
use crate::fleet::OnFailure;
use crate::ids::ProcessName;
use crate::secret::SecretName;

/// A spec that is right; cases add to it.
const BASE: &str = r#"
app = "shop"
[env]
PORT = "8080"
[processes.web]
exec = "bin/shop start"
[listen.http]
address = ":8080"
[checks.health]
path = "/health"
"#;

fn good(text: &str) -> Spec {
    parse(text).unwrap_or_else(|e| panic!("{}", e.render("deployd.toml")))
}

fn rendered(text: &str) -> String {
    parse(text).map_or_else(|e| e.render("f"), |_| "no error".to_owned())
}

#[test]
fn defaults_are_those_of_the_design() {
    let spec = good(BASE);
    assert_eq!(spec.app.as_str(), "shop");
    let web = spec.processes.values().next().unwrap();
    assert_eq!(web.exec, ["bin/shop", "start"]);
    assert_eq!((web.instances, web.overlap, web.kill_signal.as_str()), (1, true, "SIGTERM"));
    assert_eq!((web.kill_timeout, web.memory), (Millis(5000), None));
    let http = spec.listen.values().next().unwrap();
    assert_eq!((http.handoff, http.process.as_str()), (Handoff::Auto, "web"));
    assert_eq!(http.address, Address::Any { port: 8080 });
    let health = spec.checks.values().next().unwrap();
    assert_eq!((health.gate, health.failures), (Gate::Both, 3));
    assert_eq!((health.interval, health.timeout, health.grace), (Millis(1000), Millis(5000), Millis(0)));
    let CheckKind::Http { listener, path, method, headers, host, status, json } = &health.kind else {
        panic!("not http: {health:?}")
    };
    assert_eq!((listener.as_str(), path.as_str(), method.as_str()), ("http", "/health", "GET"));
    assert_eq!(
        (host.as_str(), status.as_slice(), headers.len(), json),
        ("localhost", &[(200, 299)][..], 0, &None)
    );
    assert_eq!((spec.deploy.strategy, spec.deploy.wait_timeout), (Strategy::Rolling, Millis(300_000)));
    assert_eq!(spec.deploy.drain_timeout, Drain::Limited(Millis(30_000)));
    assert_eq!((spec.deploy.min_healthy, spec.deploy.monitor), (Millis(10_000), Millis(300_000)));
}

#[test]
fn every_key_is_read() {
    let spec = good(
        r#"
        app = "shop"
        hosts = ["web", "eu"]
        [env]
        POOL_SIZE = 20
        DEBUG = false
        [processes.web]
        exec = ["bin/shop", "--fd", "{fd:http}", "a b"]
        hosts = "web"
        instances = 2
        memory = "1.5G"
        kill_signal = "INT"
        kill_timeout = "1m30s"
        writable = ["./tmp/", "cache"]
        shared = ["public/uploads"]
        after = ["worker", "postgresql.service"]
        requires = ["redis@main.service"]
        [processes.worker]
        exec = "bin/worker 'a b'"
        overlap = false
        memory = 512
        [listen.http]
        address = "[::1]:8080"
        handoff = "arg"
        [listen.admin]
        address = "/run/shop/admin.sock"
        process = "web"
        [checks.deep]
        path = "/deep?x=1"
        listener = "http"
        method = "HEAD"
        headers = { X-Check = "1" }
        host = "shop.example"
        gate = "traffic"
        interval = "200ms"
        timeout = "2s"
        grace = "3s"
        failures = 5
        expect.status = [200, "3xx", "400-404"]
        expect.json = { status = "ok", n = [1, 2.5, true] }
        [checks.open]
        kind = "tcp"
        listener = "admin"
        [checks.smoke]
        command = "bin/smoke"
        gate = "deploy"
        [checks.ready]
        kind = "notify"
        process = "worker"
        gate = "none"
        [deploy]
        strategy = "immediate"
        wait_timeout = "1m"
        drain_timeout = "unlimited"
        min_healthy = "0s"
        monitor = "1h"
        "#,
    );
    let (web, worker) = (spec.processes.values().next().unwrap(), spec.processes.values().nth(1).unwrap());
    assert_eq!(spec.env["POOL_SIZE"], "20");
    assert_eq!(spec.env["DEBUG"], "false");
    assert_eq!((web.memory, worker.memory), (Some(1536 << 20), Some(512 << 20)));
    assert_eq!((web.kill_signal.as_str(), web.kill_timeout), ("SIGINT", Millis(90_000)));
    assert_eq!((web.writable.join(" "), web.shared.join(" ")), ("tmp cache".into(), "public/uploads".into()));
    assert_eq!(worker.exec, ["bin/worker", "a b"]);
    assert!(!worker.overlap);
    assert_eq!(spec.deploy.drain_timeout, Drain::Unlimited);
    let kinds: Vec<&CheckKind> = spec.checks.values().map(|c| &c.kind).collect();
    let CheckKind::Http { status, json, .. } = kinds[0] else { panic!("{kinds:?}") };
    assert_eq!(status, &[(200, 200), (300, 399), (400, 404)]);
    assert_eq!(json.as_ref().unwrap(), &serde_json::json!({"status": "ok", "n": [1, 2.5, true]}));
    assert!(matches!(kinds[1], CheckKind::Tcp { listener } if listener.as_str() == "admin"));
    assert!(matches!(kinds[2], CheckKind::Notify { process } if process.as_str() == "worker"));
    assert!(matches!(kinds[3], CheckKind::Exec { process, .. } if process.as_str() == "web"));
}

#[test]
fn a_spec_survives_its_wire_form() {
    let spec = good(BASE);
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text =
        "app = \"Shop\"\n[processes.web]\nexce = \"x\"\ninstances = 0\n[listen.http]\naddress = \"x\"\n";
    let errors = parse(text).unwrap_err();
    assert_eq!(
        errors.render("deployd.toml").lines().collect::<Vec<_>>(),
        [
            "deployd.toml:1: app: `Shop` is not a valid app name: only a-z, 0-9 and - are allowed",
            "deployd.toml:2: processes.web.exec: is missing; write for example exec = \"bin/shop start\"",
            "deployd.toml:3: processes.web.exce: unknown key, did you mean `exec`?",
            "deployd.toml:4: processes.web.instances: `0` is out of range; write 1 to 512",
            "deployd.toml:6: listen.http.address: `x` is not an address with a port; write \":8080\", \
             \"127.0.0.1:8080\", \"[::1]:8080\" or \"/run/shop.sock\"",
        ]
    );
    assert_eq!(errors.to_string(), "the spec has 5 errors");
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (text, key) in [
        ("[migrate]\ncommand = \"x\"\nlist = \"x\"", "list"),
        ("[backup]", "backup"),
        ("[processes.web]\ncpus = 2", "cpus"),
        ("[processes.web]\nschedule = \"daily\"", "schedule"),
        ("[processes.web]\nrun_on = \"one\"", "run_on"),
        ("[processes.web]\nauto_stop = \"10m\"", "auto_stop"),
        ("[processes.web]\nmin_running = 1", "min_running"),
        ("[processes.web]\nuser = \"x\"", "user"),
        ("[deploy]\ncanary.steps = [1]", "canary"),
        ("[deploy.analysis]\nx = 1", "analysis"),
        ("[deploy]\nstrategy = \"bluegreen\"", "bluegreen"),
        ("[deploy]\nstrategy = \"canary\"", "canary"),
        ("[deploy]\nstrategy = \"hot\"", "hot"),
        ("[checks.x]\nkind = \"tcp\"\non_failure = \"alert\"", "on_failure"),
    ] {
        let base = if text.contains("processes.web") { String::new() } else { BASE.to_owned() };
        let errors = rendered(&format!("{base}\n{text}\n"));
        assert!(errors.contains(&format!("`{key}` is not built yet in this version")), "{text}: {errors}");
    }
    let errors = rendered(&format!("region = \"x\"\n{BASE}"));
    assert_eq!(errors, "f:1: region: `region` is not built yet in this version");
}

/// Text that is added to [`BASE`], and what its one error says.
const MISTAKES: &[(&str, &str)] = &[
    ("[proceses.x]", "proceses: unknown key, did you mean `processes`?"),
    ("[checks.x]\npaht = \"/\"\npath = \"/\"", "checks.x.paht: unknown key, did you mean `path`?"),
    ("[checks.x]", "checks.x: does not say what to check"),
    ("[checks.x]\npath = \"x\"", "is not a path"),
    ("[checks.x]\npath = \"/\"\nmethod = \"get\"", "is not a method"),
    ("[checks.x]\npath = \"/\"\nlistener = \"htp\"", "there is no listener `htp`, did you mean `http`?"),
    ("[checks.x]\npath = \"/\"\ncommand = \"x\"", "a check of kind http has no `command`"),
    ("[checks.x]\npath = \"/\"\nexpect.status = \"9xx\"", "`9xx` is not a status"),
    ("[checks.x]\npath = \"/\"\nexpect.status = [200, 99]", "`99` is not a status"),
    ("[checks.x]\npath = \"/\"\nexpect.json = \"{x\"", "is not JSON"),
    ("[checks.x]\npath = \"/\"\nheaders = { \"a b\" = \"x\" }", "is not a valid name of a header"),
    ("[checks.x]\nkind = \"htp\"", "`htp` is not allowed; write \"http\", \"tcp\", \"exec\", \"notify\""),
    ("[checks.x]\nkind = \"exec\"", "checks.x.command: is missing"),
    ("[checks.x]\nkind = \"tcp\"\ngate = \"all\"", "`all` is not allowed"),
    ("[checks.x]\nkind = \"tcp\"\ninterval = 10", "a time needs a unit; write for example \"10s\""),
    ("[checks.x]\nkind = \"tcp\"\ninterval = \"1ms\"", "`1ms` is too short; write at least \"50ms\""),
    ("[checks.x]\nkind = \"tcp\"\nfailures = 0", "`0` is out of range"),
    ("[checks.x_y]\nkind = \"tcp\"", "`x_y` is not a valid check name"),
    ("[listen.b]\naddress = \":8080\"", "`:8080` is the address of `b` too"),
    ("[listen.b]\naddress = \"0.0.0.0:8080\"", "is the address of `b` too"),
    ("[listen.b]\naddress = \":0\"", "`:0` has port 0"),
    ("[listen.b]\naddress = \":70000\"", "is not an address"),
    ("[listen.b]\naddress = \":+80\"", "is not an address"),
    ("[listen.b]\naddress = 80", "an address is a text; write \":80\""),
    ("[listen.b]\naddress = \"80\"", "write \":80\""),
    ("[listen.b]\naddress = \"localhost:80\"", "is not an address with a port"),
    ("[listen.b]\naddress = \"run/x.sock\"", "is not an address with a port"),
    ("[listen.b]\naddress = \"/run/../x\"", "is not a clean path"),
    ("[listen.b]\naddress = \":81\"\nprocess = \"wbe\"", "there is no process `wbe`, did you mean `web`?"),
    ("[listen.b]\naddress = \":81\"\nhandoff = \"fd\"", "`fd` is not allowed"),
    ("[listen.b]\naddress = \":81\"\nhandoff = \"stdin\"", "descriptor 0 is one listener"),
    ("[listen.b]\naddress = \":81\"\nhandoff = \"arg\"", "`arg` needs {fd:b} in exec of `web`"),
    ("[processes.x]\nexec = \"x {fd:http}\"", "{fd:http} needs a listener `http` of this process"),
    ("[processes.x]\nexec = \"\"", "the command is empty"),
    ("[processes.x]\nexec = \"a 'b\"", "the quote ' is not closed"),
    ("[processes.x]\nexec = \"a && b\"", "`&&` needs a shell"),
    ("[processes.x]\nexec = 1", "must be a text in quotes, and is a value of type integer"),
    ("[processes.x]\nexec = \"a\"\nkill_signal = \"SIGKILL\"", "`SIGKILL` is not a signal that asks"),
    (
        "[processes.x]\nexec = \"a\"\nmemory = \"12\"\nwritable = [\"../x\"]",
        "is not a folder inside the release",
    ),
    ("[processes.x]\nexec = \"a\"\nmemory = \"1x\"", "`1x` is not a size"),
    ("[processes.x]\nexec = \"a\"\nmemory = \"1k\"", "is less than 1 MiB"),
    ("[processes.x]\nexec = \"a\"\nshared = [\"/tmp\"]", "is not a folder inside the release"),
    ("[processes.x]\nexec = \"a\"\nwritable = [\"t\"]\nshared = [\"t/u\"]", "overlap; keep each folder"),
    ("[processes.x]\nexec = \"a\"\nafter = [\"wb\"]", "there is no process `wb`"),
    ("[processes.x]\nexec = \"a\"\nafter = \"web\"", "must be a list in [ ]"),
    ("[processes.x]\nexec = \"a\"\nafter = [\"x\"]", "the process waits for itself"),
    ("[processes.x]\nexec = \"a\"\nafter = [\"My Db\"]", "is neither a process nor a unit"),
    ("[processes.X]\nexec = \"a\"", "`X` is not a valid process name"),
    ("[deploy]\ndrain_timeout = \"forever\"", "`forever` is not a time"),
    ("[deploy]\nstrategy = \"roling\"", "`roling` is not allowed; write \"rolling\", \"immediate\""),
    ("[deploy]\nwait_timeout = \"0s\"", "`0s` is too short"),
];

#[test]
fn each_mistake_is_named() {
    for (extra, want) in MISTAKES {
        // A second listener makes the check name its own.
        let text = format!("{BASE}listener = \"http\"\n{extra}\n");
        let errors = parse(&text).map_or_else(|e| e.0, |_| panic!("accepted: {extra}"));
        assert_eq!(errors.len(), 1, "{extra}: {errors:?}");
        let (line, all) = (errors[0].line, errors[0].to_string());
        assert!(all.contains(want), "{extra}: {all}");
        let first = if want.contains("the address of") { 1 } else { BASE.lines().count() + 2 };
        assert!((first..=text.lines().count()).contains(&line), "{extra}: line {line}");
    }
}

#[test]
fn mistakes_at_the_top() {
    for (text, want) in [
        ("", "f:1: app: is missing; write for example app = \"shop\"\nf:1: processes: is missing"),
        ("app = \"a\"\n[processes]\n", "f:2: processes: at least one process is needed"),
        ("app = \"a\"\nprocesses = 1\n", "f:2: processes: must be a table [processes]"),
        ("app = \"a\"\nhosts = 1\n[processes.x]\nexec = \"x\"", "f:2: hosts: must be a text in quotes"),
        ("app = \"a\"\n[env]\n1A = \"x\"\n[processes.x]\nexec = \"x\"", "f:3: env.1A: is not a valid name"),
        ("app = \"a\"\n[env]\nLISTEN_FDS = 1\n[processes.x]\nexec = \"x\"", "is set by deployd itself"),
        ("app = \"a\"\n[env]\nA = [1]\n[processes.x]\nexec = \"x\"", "f:3: env.A: must be a text in quotes"),
        ("app = \"a\"\napp = \"b\"\n", "f:2: duplicate key"),
        ("app = a", "f:1: "),
    ] {
        let errors = rendered(text);
        assert!(errors.contains(want), "{text}: {errors}");
    }
}

#[test]
fn the_process_of_a_listener_must_be_clear() {
    let two = "app = \"a\"\n[processes.x]\nexec = \"x\"\n[processes.y]\nexec = \"y\"\n[listen.l]\naddress = \":80\"\n";
    let want = "f:6: listen.l: no process is named and none is called web; add process = \"…\"";
    assert_eq!(rendered(two), want);
    assert_eq!(
        good(&two.replace("[processes.y]", "[processes.web]"))
            .listen
            .values()
            .next()
            .unwrap()
            .process
            .as_str(),
        "web"
    );
    assert!(parse(&format!("{two}process = \"y\"")).is_ok());
}

#[test]
fn a_process_with_a_listener_overlaps() {
    let text = BASE.replace("exec", "overlap = false\nexec");
    assert!(
        rendered(&text).starts_with("f:6: processes.web.overlap: is false, and the process has a listener")
    );
    assert!(rendered(&text).contains("strategy = \"immediate\""));
}

#[test]
fn one_mistake_is_reported_once() {
    // The broken listener is not also missing for the check and the descriptor.
    let text = BASE.replace(":8080", "nonsense").replace("start", "{fd:http}");
    assert_eq!(parse(&text).unwrap_err().0.len(), 1, "{}", rendered(&text));
}

/// What `init` writes, and the words that fly.toml has for the same.
const WHOLE: &str = r#"
app = "shop"
hosts = ["web", "region=fra"]
secrets = ["SECRET_KEY_BASE", "DATABASE_URL"]

[build]
command = "mix release --overwrite"
artifact = "_build/prod/rel/shop"

[processes.web]
exec = "bin/shop start"

[processes.worker]
exec = "bin/shop work"
hosts = "jobs"
after = ["web"]

[listen.http]
address = ":8080"

[checks.health]
path = "/"

[migrate]
command = "bin/shop eval Shop.Release.migrate"

[deploy]
max_unavailable = "50%"
on_failure = "hold"
"#;

#[test]
fn a_project_says_where_it_runs_and_how_it_is_made() {
    let project = parse_project(WHOLE).unwrap();
    let words = |list: &[Selector]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(words(&project.hosts), "web region=fra");
    assert_eq!(words(&project.spec.processes[&"worker".parse().unwrap()].hosts), "jobs");
    assert_eq!(project.build.command.as_deref(), Some("mix release --overwrite"));
    assert_eq!((project.max_unavailable, project.on_failure), (Share::Percent(50), OnFailure::Hold));
    let spec = &project.spec;
    let names: Vec<&str> = spec.secrets.required.iter().map(SecretName::as_str).collect();
    assert_eq!(names, ["DATABASE_URL", "SECRET_KEY_BASE"]);
    let migration = spec.migrate.clone().unwrap();
    assert_eq!(migration.command, ["bin/shop", "eval", "Shop.Release.migrate"]);
    let line = "release_command = \"bin/shop eval Shop.Release.migrate\"\n";
    let flys = WHOLE.replace("[migrate]\ncommand = \"bin/shop eval Shop.Release.migrate\"\n", "");
    assert_eq!(parse(&format!("{line}{flys}")).unwrap().migrate, Some(migration));
    assert!(rendered(&format!("{line}{WHOLE}")).contains("is the same as [migrate] command"));
}

#[test]
fn a_host_has_what_runs_there() {
    let spec = good(WHOLE);
    let web = spec.only(&["web".parse().unwrap()]);
    assert_eq!((web.processes.len(), web.listen.len(), web.checks.len()), (1, 1, 1));
    let worker = spec.only(&["worker".parse().unwrap()]);
    assert_eq!((worker.processes.len(), worker.listen.len(), worker.checks.len()), (1, 0, 0));
    assert!(worker.processes.values().all(|p| p.after.is_empty()), "nothing to wait for there");
    assert!(web.check().is_empty() && worker.check().is_empty());
    assert_eq!(spec.first_process().map(ProcessName::as_str), Some("web"));
}

#[test]
fn what_is_wrong_with_a_project_has_its_line() {
    for (from, to, want) in [
        ("hosts = [\"web\", \"region=fra\"]", "hosts = []", "f:3: hosts: names no hosts"),
        ("\"region=fra\"", "\"region=\"", "f:3: hosts: `region=` is not a valid selector"),
        ("artifact = \"_build/prod/rel/shop\"\n", "", "the build has a command and no artifact"),
        ("\"50%\"", "0", "f:28: deploy.max_unavailable"),
        ("\"50%\"", "\"half\"", "f:28: deploy.max_unavailable: `half` is not a number of hosts or a share"),
        ("\"hold\"", "\"stay\"", "f:29: deploy.on_failure"),
        ("\"DATABASE_URL\"", "\"LD_PRELOAD\"", "f:4: secrets: `LD_PRELOAD` is not a valid name of a secret"),
        ("[listen.http]", "[env]\nDATABASE_URL = \"x\"\n[listen.http]", "env.DATABASE_URL: is a secret, too"),
        ("[migrate]\n", "[migrate]\nlist = \"x\"\n", "not built yet"),
    ] {
        let text = WHOLE.replace(from, to);
        assert_ne!(text, WHOLE, "{from}");
        assert!(rendered(&text).contains(want), "{to}: {}", rendered(&text));
    }
}

proptest! {
    #[test]
    fn nothing_panics(text in ".*") {
        let _ = parse(&text);
    }

    /// Lines of a right spec, shuffled, cut and with wrong values.
    #[test]
    fn no_shuffled_spec_panics(
        lines in prop::collection::vec(0_usize..60, 0..20),
        value in "(\"[a-z:{}/ ]{0,8}\"|[0-9]{1,20}|\\[\\]|\\{ a = 1 \\}|true|1\\.5|1979-05-27)",
    ) {
        let pool: Vec<String> = BASE
            .lines()
            .chain(MISTAKES.iter().flat_map(|(text, _)| text.lines()))
            .map(|line| line.split_once('=').map_or(line.to_owned(), |(key, _)| format!("{key} = {value}")))
            .collect();
        let text: Vec<&str> = lines.iter().filter_map(|i| pool.get(*i)).map(String::as_str).collect();
        if let Err(errors) = parse(&text.join("\n")) {
            prop_assert!(!errors.0.is_empty());
        }
    }
}
