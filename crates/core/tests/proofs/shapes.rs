//! Every shape that a plan can have: what stood before, and what is asked.

use std::collections::BTreeMap;

use deployd_api::deployment::Verdict;
use deployd_api::ids::{Digest, Label};
use deployd_api::release::ReleaseDocument;
use deployd_api::spec::{Spec, Strategy, parse};
use deployd_core::facts::{ArtifactFacts, Facts, Platform};
use deployd_core::plan::{Plan, Planned, Push, Request, plan};
use deployd_core::state::AppState;

use crate::driver::{AT, Run, Serving, tidy};
use crate::sim::Host;

/// What is asked of a host.
#[derive(Debug, Clone)]
pub(crate) enum Ask {
    Push {
        spec: String,
        build: u32,
        memory: u64,
    },
    /// The same with these processes only.
    Place {
        spec: String,
        build: u32,
        only: &'static [&'static str],
    },
    Rollback(Option<u32>),
    Start,
    Stop,
    Restart,
    Remove,
}

/// A host and a request.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) before: Vec<Ask>,
    pub(crate) ask: Ask,
    pub(crate) serving: Serving,
}

pub(crate) const WEB: &str = "[processes.web]\nexec = \"bin/web\"\nmemory = \"100mb\"\n";
pub(crate) const HTTP: &str = "[listen.http]\naddress = \":8080\"\nprocess = \"web\"\n";
pub(crate) const ADMIN: &str = "[listen.admin]\naddress = \"127.0.0.1:9090\"\nprocess = \"web\"\n";
pub(crate) const UNIX: &str = "[listen.sock]\naddress = \"/run/shop/s.sock\"\nprocess = \"web\"\n";
pub(crate) const PORT: &str = "[listen.http]\naddress = \":8080\"\nprocess = \"web\"\nhandoff = \"port\"\n";
pub(crate) const JOB: &str = "[processes.job]\nexec = \"bin/job\"\n";
pub(crate) const ALONE: &str = "[processes.job]\nexec = \"bin/job\"\noverlap = false\n";
pub(crate) const CHECK: &str = "[checks.up]\nkind = \"tcp\"\nlistener = \"http\"\n";
pub(crate) const QUIET: &str = "[deploy]\nmonitor = \"0s\"\nmin_healthy = \"0s\"\n";
pub(crate) const DEPLOY: &str = "[deploy]\n";
pub(crate) const IMMEDIATE: &str = "[deploy]\nstrategy = \"immediate\"\n";
pub(crate) const MIGRATE: &str = "[migrate]\ncommand = \"bin/web migrate\"\n";
pub(crate) const UNLIMITED: &str = "[deploy]\ndrain_timeout = \"unlimited\"\n";

pub(crate) fn spec(parts: &[&str]) -> String {
    format!("app = \"shop\"\nhosts = \"web\"\n{}", parts.concat())
}

pub(crate) fn beam(text: &str) -> String {
    text.replace("bin/web", "bin/beam")
}

pub(crate) fn two(text: &str) -> String {
    text.replace("exec = \"bin/web\"\n", "exec = \"bin/web\"\ninstances = 2\n")
}

/// What a plan may know of the host. A program called `bin/beam` makes the artifact a BEAM release.
pub(crate) fn facts(state: &AppState, memory: u64, host: &Host, beam: bool) -> Facts {
    Facts {
        state: state.clone(),
        now: AT,
        host: "h1".to_owned(),
        region: None,
        apps_dir: "/var/lib/deployd/apps".to_owned(),
        runtime: "/var/lib/deployd/runtime/0".to_owned(),
        memory_available: memory,
        artifact: Some(ArtifactFacts {
            size: 1,
            complete: true,
            needs: 1,
            room: 2,
            beam,
            epmd: beam.then(|| "erts-1/bin/epmd".to_owned()),
            programs: BTreeMap::new(),
        }),
        strangers: BTreeMap::new(),
        user_taken: None,
        base_port: 20_000,
        keep: 5,
        epmd: host.epmd(&state.app),
        platform: Platform::default(),
        secrets: BTreeMap::new(),
        unsealed: BTreeMap::new(),
        credentials: deployd_core::secrets::Form::Sealed,
    }
}

pub(crate) fn spec_of(text: &str) -> Spec {
    parse(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

pub(crate) const PLENTY: u64 = 1 << 40;

pub(crate) fn planned(ask: &Ask, state: &AppState, host: &Host) -> Option<Plan> {
    match asked(ask, state, host) {
        Ok(Planned::Plan(plan)) => Some(*plan),
        Ok(Planned::Nothing { .. }) => None,
        Err(e) => panic!("{ask:?} refused: {e} {}", e.hint),
    }
}

/// None too when it is refused.
pub(crate) fn try_planned(ask: &Ask, state: &AppState, host: &Host) -> Option<Plan> {
    match asked(ask, state, host) {
        Ok(Planned::Plan(plan)) => Some(*plan),
        Ok(Planned::Nothing { .. }) | Err(_) => None,
    }
}

pub(crate) fn document(spec: &str, build: u32) -> ReleaseDocument {
    ReleaseDocument::new(Digest::of(&build.to_be_bytes()), spec_of(spec))
}

fn asked(ask: &Ask, state: &AppState, host: &Host) -> Result<Planned, Box<deployd_api::error::ErrorBody>> {
    let beam = matches!(ask, Ask::Push { spec, .. } if spec.contains("bin/beam"));
    let (request, memory) = match ask {
        Ask::Push { spec, build, memory } => {
            (Request::Push(Box::new(Push::new(document(spec, *build), None))), *memory)
        }
        Ask::Place { spec, build, only } => {
            let only: Vec<_> = only.iter().map(|p| p.parse().unwrap()).collect();
            (Request::Push(Box::new(Push::new(document(spec, *build), Some(&only)))), PLENTY)
        }
        Ask::Rollback(to) => (Request::Rollback { to: to.map(|n| Label::new(n).unwrap()) }, PLENTY),
        Ask::Start => (Request::Start, PLENTY),
        Ask::Stop => (Request::Stop, PLENTY),
        Ask::Restart => (Request::Restart, PLENTY),
        Ask::Remove => (Request::Remove, PLENTY),
    };
    plan(&request, &facts(state, memory, host, beam))
}

impl Shape {
    /// A run of what is asked, on a host where everything before went well.
    pub(crate) fn run(&self) -> Run {
        let mut host = Host::default();
        let mut state = AppState::new("shop".parse().unwrap(), 50_000);
        for (i, ask) in self.before.iter().enumerate() {
            let plan = planned(ask, &state, &host).unwrap();
            let serving = if plan.strategy == Strategy::Rolling { Serving::Always } else { Serving::MayWait };
            let mut run = Run::new(host, state, plan, serving);
            run.alone = self.alone();
            assert_eq!(run.run(), Verdict::Committed, "{}: {}", self.name, run.story());
            (host, state) = (run.host, run.state);
            // The last one's predecessor still drains when the next thing begins.
            if i + 1 < self.before.len() {
                tidy(&mut host, &mut state);
            }
        }
        let plan = planned(&self.ask, &state, &host).unwrap();
        let mut run = Run::new(host, state, plan, self.serving);
        run.alone = self.alone();
        run
    }

    /// Processes of which two activations never run at once.
    fn alone(&self) -> Vec<String> {
        let asks: Vec<&Ask> = self.before.iter().chain([&self.ask]).collect();
        let spec_has = |a: &&Ask, text: &str| matches!(a, Ask::Push { spec, .. } if spec.contains(text));
        let mut alone = Vec::new();
        if asks.iter().any(|a| spec_has(a, ALONE)) {
            alone.push("deployd-shop-job-".to_owned());
        }
        // `immediate` stops before it starts, whoever connects meanwhile. A Unix socket is one for both: when
        // it is given back in an undo, its next connection may wake either.
        // One without a listener is a worker, which may overlap.
        let listens = |a: &&Ask| spec_has(a, "process = \"web\"") && !spec_has(a, UNIX);
        let immediate = |a: &&Ask| spec_has(a, IMMEDIATE) && listens(a);
        if asks.iter().all(|a| immediate(a) || !matches!(a, Ask::Push { .. })) {
            alone.push("deployd-shop-web-".to_owned());
        }
        alone
    }
}

pub(crate) fn push(spec: &str, build: u32) -> Ask {
    Ask::Push { spec: spec.to_owned(), build, memory: PLENTY }
}

/// Memory for the new release, without the margin that keeping the old one beside it takes.
pub(crate) fn tight(spec: &str, build: u32) -> Ask {
    let instances = if spec.contains("instances = 2") { 2 } else { 1 };
    Ask::Push { spec: spec.to_owned(), build, memory: (instances * 105) << 20 }
}

/// All of them.
pub(crate) fn all() -> Vec<Shape> {
    let mut out = Vec::new();
    let mut add = |name: String, before: Vec<Ask>, ask: Ask, serving: Serving| {
        out.push(Shape { name, before, ask, serving });
    };
    let bodies: Vec<(&str, String)> = vec![
        ("web", [WEB, HTTP, CHECK].concat()),
        ("web without checks", [WEB, HTTP].concat()),
        ("two instances", two(&[WEB, HTTP, CHECK].concat())),
        ("two listeners", [WEB, HTTP, ADMIN, CHECK].concat()),
        ("worker beside", [WEB, HTTP, JOB, CHECK].concat()),
        ("lone worker beside", [WEB, HTTP, ALONE, CHECK].concat()),
        ("no listener", JOB.to_owned()),
        ("no listener, alone", ALONE.to_owned()),
        ("port", [WEB, PORT].concat()),
        ("port, two instances", two(&[WEB, PORT].concat())),
        ("beam", beam(&[WEB, HTTP].concat())),
        ("unix", [WEB, UNIX].concat()),
        ("unix and tcp, two instances", two(&[WEB, UNIX, HTTP].concat())),
    ];
    for (name, body) in &bodies {
        for (how, deploy) in
            [("", DEPLOY), (", quiet", QUIET), (", immediate", IMMEDIATE), (", unlimited", UNLIMITED)]
        {
            let s = &spec(&[body, deploy]);
            let wait = if deploy == IMMEDIATE { Serving::MayWait } else { Serving::Always };
            let n = |what: &str| format!("{name}{how}: {what}");
            add(n("first push"), vec![], push(s, 1), wait);
            add(n("push over live"), vec![push(s, 1)], push(s, 2), wait);
            add(n("rollback"), vec![push(s, 1), push(s, 2)], Ask::Rollback(None), wait);
            // What does not depend on how releases replace one another is proven once.
            if deploy == UNLIMITED {
                add(n("push without memory"), vec![push(s, 1)], tight(s, 2), wait);
                add(n("start"), vec![push(s, 1), Ask::Stop], Ask::Start, wait);
            }
            if deploy != DEPLOY {
                continue;
            }
            add(n("push without memory"), vec![push(s, 1)], tight(s, 2), wait);
            let again = vec![push(s, 1), push(s, 2), Ask::Rollback(None)];
            add(n("push while one drains"), again, push(s, 3), wait);
            add(n("stop"), vec![push(s, 1)], Ask::Stop, wait);
            add(n("start"), vec![push(s, 1), Ask::Stop], Ask::Start, wait);
            add(n("push while stopped"), vec![push(s, 1), Ask::Stop], push(s, 2), wait);
            add(n("same push while stopped"), vec![push(s, 1), Ask::Stop], push(s, 1), wait);
            let restart = if body.contains("instances = 2") { wait } else { Serving::MayWait };
            add(n("restart"), vec![push(s, 1)], Ask::Restart, restart);
            add(n("remove"), vec![push(s, 1)], Ask::Remove, wait);
            add(n("remove while one drains"), vec![push(s, 1), push(s, 2)], Ask::Remove, wait);
        }
    }
    changes(&mut add);
    migrations(&mut add);
    placements(&mut add);
    out
}

/// Releases that differ in more than their code.
fn changes(add: &mut impl FnMut(String, Vec<Ask>, Ask, Serving)) {
    let web = [WEB, HTTP, CHECK].concat();
    let api = web.replace("processes.web", "processes.api").replace("\"web\"\n", "\"api\"\n");
    let pairs: Vec<(&str, String, String)> = vec![
        (
            "listener renamed",
            [WEB, HTTP].concat(),
            [WEB, &HTTP.replace("listen.http", "listen.main")].concat(),
        ),
        ("listener re-addressed", [WEB, HTTP].concat(), [WEB, &HTTP.replace("8080", "8081")].concat()),
        ("listener added", web.clone(), [&web, ADMIN].concat()),
        ("listener removed", [&web, ADMIN].concat(), web.clone()),
        ("listener swap", [WEB, HTTP, ADMIN].concat(), {
            let swapped = [HTTP, ADMIN].concat().replace("listen.http", "listen.x");
            [WEB, &swapped.replace("listen.admin", "listen.http").replace("listen.x", "listen.admin")]
                .concat()
        }),
        ("process renamed", web.clone(), api),
        ("worker added", web.clone(), [&web, JOB].concat()),
        ("worker removed", [&web, ALONE].concat(), web.clone()),
        ("worker forbids overlap", [&web, JOB].concat(), [&web, ALONE].concat()),
        ("worker allows overlap", [&web, ALONE].concat(), [&web, JOB].concat()),
        ("auto to port", [WEB, HTTP].concat(), [WEB, PORT].concat()),
        ("port to auto", [WEB, PORT].concat(), [WEB, HTTP].concat()),
        ("unix added", web.clone(), [&web, UNIX].concat()),
        ("unix removed", [&web, UNIX].concat(), web.clone()),
        ("one to two instances", web.clone(), two(&web)),
        ("beam comes", web.clone(), beam(&web)),
        ("beam goes", beam(&web), web.clone()),
        ("two to one instance", two(&web), web.clone()),
        ("listener lost", web, WEB.to_owned()),
        ("listener moved", [WEB, HTTP, JOB].concat(), {
            [WEB, &HTTP.replace("process = \"web\"", "process = \"job\""), JOB].concat()
        }),
    ];
    for (name, a, b) in pairs {
        for (how, deploy) in [("", DEPLOY), (", immediate", IMMEDIATE), (", unlimited", UNLIMITED)] {
            let wait = if deploy == IMMEDIATE { Serving::MayWait } else { Serving::Always };
            let (a, b) = (&spec(&[&a, deploy]), &spec(&[&b, deploy]));
            add(format!("{name}{how}: push"), vec![push(a, 1)], push(b, 2), wait);
            add(format!("{name}{how}: rollback"), vec![push(a, 1), push(b, 2)], Ask::Rollback(None), wait);
            if deploy == DEPLOY {
                add(format!("{name}: without memory"), vec![push(a, 1)], tight(b, 2), wait);
                add(format!("{name}: while stopped"), vec![push(a, 1), Ask::Stop], push(b, 2), wait);
            }
        }
    }
}

/// Releases that migrate before anything of them is seen.
fn migrations(add: &mut impl FnMut(String, Vec<Ask>, Ask, Serving)) {
    for (how, deploy) in [("", DEPLOY), (", immediate", IMMEDIATE), (", unlimited", UNLIMITED)] {
        let wait = if deploy == IMMEDIATE { Serving::MayWait } else { Serving::Always };
        let s = &spec(&[WEB, HTTP, CHECK, deploy, MIGRATE]);
        let n = |what: &str| format!("migrates{how}: {what}");
        add(n("first push"), vec![], push(s, 1), wait);
        add(n("push over live"), vec![push(s, 1)], push(s, 2), wait);
        add(n("push of a kept build"), vec![push(s, 1), push(s, 2)], push(s, 1), wait);
        add(n("rollback"), vec![push(s, 1), push(s, 2)], Ask::Rollback(None), wait);
        if deploy == DEPLOY {
            add(n("same push while stopped"), vec![push(s, 1), Ask::Stop], push(s, 1), wait);
            add(n("push without memory"), vec![push(s, 1)], tight(s, 2), wait);
        }
    }
}

/// One release of which the host gets other processes.
fn placements(add: &mut impl FnMut(String, Vec<Ask>, Ask, Serving)) {
    for (how, deploy) in [("", DEPLOY), (", immediate", IMMEDIATE), (", unlimited", UNLIMITED)] {
        let wait = if deploy == IMMEDIATE { Serving::MayWait } else { Serving::Always };
        let s = &spec(&[WEB, HTTP, JOB, CHECK, deploy, MIGRATE]);
        let only = |build, only| Ask::Place { spec: s.clone(), build, only };
        let n = |what: &str| format!("placed{how}: {what}");
        add(n("more of what is live"), vec![only(1, &["web"])], push(s, 1), wait);
        add(n("less of what is live"), vec![push(s, 1)], only(1, &["web"]), wait);
        add(n("more of what is kept"), vec![only(1, &["web"]), push(s, 2)], push(s, 1), wait);
        add(n("other parts"), vec![push(s, 1), only(1, &["web"])], push(s, 1), wait);
        add(n("rollback from it"), vec![only(1, &["web"]), push(s, 2)], Ask::Rollback(None), wait);
    }
}
