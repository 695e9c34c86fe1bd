//! Folders of every kind of project: what is written parses, and says what it should.

use std::fs;

use deployd_api::spec::{Address, CheckKind, Project, Strategy, parse_project};

use super::*;

/// The draft's file for a folder of these files, and the notes.
fn written(files: &[(&str, &str)]) -> (String, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("my_folder");
    fs::create_dir(&folder).unwrap();
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let draft = draft(&folder, None, None);
    (draft.render(), draft.notes)
}

fn project(files: &[(&str, &str)]) -> Project {
    let (text, _) = written(files);
    parse_project(&text).unwrap_or_else(|e| panic!("{}\n{text}", e.render("deployd.toml")))
}

fn exec(project: &Project, process: &str) -> String {
    project.spec.processes[&process.parse().unwrap()].exec.join(" ")
}

/// `GET /path 200-299`, or `tcp`.
fn check(project: &Project) -> String {
    match &project.spec.checks.values().next().unwrap().kind {
        CheckKind::Http { path, status, .. } => format!("{path} {}-{}", status[0].0, status[0].1),
        CheckKind::Tcp { .. } => "tcp".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn port(project: &Project) -> u16 {
    match project.spec.listen.values().next().unwrap().address {
        Address::Any { port } => port,
        ref other => panic!("{other:?}"),
    }
}

fn command(project: &Project) -> &str {
    project.build.command.as_deref().unwrap()
}

fn secrets(project: &Project) -> Vec<String> {
    project.spec.secrets.required.iter().map(ToString::to_string).collect()
}

const MIX: &str = r#"
defmodule MyShop.MixProject do
  use Mix.Project
  def project do
    [app: :my_shop, version: "0.1.0", aliases: aliases(), deps: deps()]
  end
  defp deps do
    [{:phoenix, "~> 1.7"}, {:ecto_sql, "~> 3.10"}, {:bandit, "~> 1.5"}]
  end
  defp aliases do
    ["assets.deploy": ["tailwind shop --minify", "phx.digest"]]
  end
end
"#;
const RUNTIME: &str = r#"
if System.get_env("PHX_SERVER") do
  config :my_shop, MyShopWeb.Endpoint, server: true
end
database_url =
  System.get_env("DATABASE_URL") ||
    raise "environment variable DATABASE_URL is missing."
secret = System.fetch_env!("SECRET_KEY_BASE")
host = System.get_env("PHX_HOST") || "example.com"
region = System.fetch_env!("SHOP_REGION")
# System.fetch_env!("UNUSED_KEY")
"#;
const ROUTER: &str = r#"
defmodule MyShopWeb.Router do
  use MyShopWeb, :router
  scope "/", MyShopWeb do
    pipe_through :browser
    get "/", PageController, :home
  end
end
"#;

#[test]
fn a_phoenix_project() {
    let files = [
        ("mix.exs", MIX),
        ("config/runtime.exs", RUNTIME),
        ("lib/my_shop_web/router.ex", ROUTER),
        ("lib/my_shop/release.ex", "defmodule MyShop.Release do\n  def migrate do\n  end\nend\n"),
    ];
    let (text, notes) = written(&files);
    let project = project(&files);
    assert_eq!(project.spec.app.as_str(), "my-shop");
    assert_eq!(command(&project), "MIX_ENV=prod mix do deps.get, assets.deploy, release --overwrite");
    assert_eq!(project.build.artifact.as_deref(), Some("_build/prod/rel/my_shop"));
    assert_eq!(exec(&project, "web"), "bin/my_shop start");
    assert_eq!(check(&project), "/ 200-399");
    assert_eq!(secrets(&project), ["DATABASE_URL", "SECRET_KEY_BASE"]);
    assert_eq!(project.spec.env["PHX_SERVER"], "true");
    assert_eq!(project.spec.env["PORT"], "8080");
    assert_eq!(project.spec.migrate.unwrap().command, ["bin/my_shop", "eval", "MyShop.Release.migrate"]);
    assert!(notes.iter().any(|note| note.contains("SHOP_REGION")), "{notes:?}");
    assert!(
        text.starts_with("# deployd.toml: how my-shop runs. All keys: deployd-ctl help spec\n"),
        "{text}"
    );
    assert!(text.contains("# run by push (--no-build skips it)"), "{text}");
    assert!(!text.contains("hosts"), "{text}");
}

#[test]
fn an_elixir_project_with_a_named_release_and_no_migration() {
    let mix = MIX.replace("aliases: aliases(),", "releases: [store: [include_executables_for: [:unix]]],");
    let files = [("mix.exs", mix.as_str())];
    let project = project(&files);
    assert_eq!(command(&project), "MIX_ENV=prod mix do deps.get, assets.deploy, release store --overwrite");
    assert_eq!(exec(&project, "web"), "bin/store start");
    assert_eq!(project.spec.migrate, None);
    let (text, _) = written(&files);
    assert!(text.contains("# command = \"bin/store eval Store.Release.migrate\""), "{text}");
    let called = MIX.replace("aliases: aliases(),", "releases: releases(),")
        + "\n  defp releases do\n    [\n      depot: [strip_beams: true]\n    ]\n  end\n";
    assert_eq!(exec(&self::project(&[("mix.exs", &called)]), "web"), "bin/depot start");
    let worker = "defmodule W.MixProject do\n  def project, do: [app: :w, deps: []]\nend\n";
    let project = self::project(&[("mix.exs", worker)]);
    assert!(project.spec.listen.is_empty() && project.spec.checks.is_empty(), "it serves nothing");
    let listens = ("lib/w.ex", "port = System.get_env(\"PORT\")\n");
    assert_eq!(check(&self::project(&[("mix.exs", worker), listens])), "/ 200-399");
}

#[test]
fn node_projects() {
    let package = r#"{"name": "@acme/web_shop", "scripts": {"start": "NODE_OPTIONS=--trace-warnings node server.js",
        "build": "tsc"}, "engines": {"node": ">=20"}, "dependencies": {"express": "4"}}"#;
    let server = ("server.js", "app.get('/healthz', (q, r) => r.send('ok'))\n");
    let files = [("package.json", package), ("package-lock.json", "{}"), server];
    let project = project(&files);
    assert_eq!((project.spec.app.as_str(), exec(&project, "web").as_str()), ("web-shop", "node server.js"));
    assert_eq!(command(&project), "npm ci && npm run build");
    assert_eq!(check(&project), "/healthz 200-299");
    assert_eq!(project.spec.env["NODE_OPTIONS"], "--trace-warnings");
    assert!(written(&files).1.iter().any(|note| note.contains("node >=20")));
    for (start, want) in [
        ("next start", "node_modules/.bin/next start"),
        ("node a.js && echo done", "sh -c node a.js && echo done"),
        ("node \\\"a b.js\\\"", "node a b.js"),
    ] {
        let package = format!("{{\"name\": \"a\", \"scripts\": {{\"start\": \"{start}\"}}}}");
        assert_eq!(exec(&self::project(&[("package.json", &package)]), "web"), want);
    }
    let alone = self::project(&[("server.js", "")]);
    assert_eq!((exec(&alone, "web").as_str(), alone.build.command), ("node server.js", None));
    let bare = self::project(&[("package.json", "{}"), ("index.js", "")]);
    assert_eq!((exec(&bare, "web").as_str(), bare.build.command), ("node index.js", None));
    assert_eq!(bare.spec.app.as_str(), "my-folder");
}

#[test]
fn python_projects() {
    let manage = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'depot.settings')\n";
    let django = project(&[("manage.py", manage), ("requirements.txt", "Django==5.0\ngunicorn\n")]);
    assert_eq!(
        (django.spec.app.as_str(), exec(&django, "web").as_str()),
        ("depot", "python3 -m gunicorn depot.wsgi")
    );
    assert_eq!(django.spec.migrate.unwrap().command.join(" "), "python3 manage.py migrate --noinput");
    assert_eq!(django.spec.env["PYTHONPATH"], "vendor");
    let fast = project(&[
        ("pyproject.toml", "[project]\nname = \"rates\"\ndependencies = [\"fastapi\", \"uvicorn\"]\n"),
        ("src/rates/main.py", "from fastapi import FastAPI\napp = FastAPI()\n\n@app.get(\"/health\")\n"),
    ]);
    assert_eq!(exec(&fast, "web"), "python3 -m uvicorn rates.main:app --host 0.0.0.0 --port 8080");
    assert_eq!((fast.spec.app.as_str(), check(&fast).as_str()), ("rates", "/health 200-299"));
    let files = [("requirements.txt", "flask\n"), ("app.py", "app = Flask(__name__)\n")];
    assert_eq!(exec(&project(&files), "web"), "python3 -m gunicorn app:app");
    assert!(written(&files).1.iter().any(|note| note.starts_with("add gunicorn")));
    assert_eq!(exec(&project(&[("requirements.txt", ""), ("main.py", "x()")]), "web"), "python3 main.py");
    let alone = project(&[("server.py", "x()")]);
    assert_eq!((exec(&alone, "web").as_str(), alone.build.command), ("python3 server.py", None));
}

#[test]
fn rails_and_rack_projects() {
    let rails = project(&[
        ("Gemfile", "gem \"rails\"\ngem \"pg\"\ngem \"puma\"\n"),
        ("config.ru", ""),
        ("config/puma.rb", ""),
        ("config/credentials.yml.enc", "x"),
        ("config/routes.rb", "get \"up\" => \"rails/health#show\", as: :x\n"),
        ("app/assets/a.css", ""),
        ("storage/keep", ""),
    ]);
    assert_eq!(exec(&rails, "web"), "bundle exec puma -C config/puma.rb");
    assert_eq!((check(&rails).as_str(), port(&rails)), ("/up 200-299", 8080));
    assert_eq!(secrets(&rails), ["DATABASE_URL", "RAILS_MASTER_KEY"]);
    assert!(command(&rails).ends_with("bin/rails assets:precompile"));
    assert_eq!(rails.spec.migrate.unwrap().command, ["bin/rails", "db:migrate"]);
    let rack = project(&[("Gemfile", "gem 'sinatra'\n"), ("config.ru", "run App\n")]);
    assert_eq!(
        (exec(&rack, "web").as_str(), check(&rack).as_str()),
        ("bundle exec puma -p 8080", "/ 200-399")
    );
}

#[test]
fn rust_projects() {
    let own = project(&[
        ("Cargo.toml", "[package]\nname = \"rates-api\"\n"),
        ("src/main.rs", "fn main() { route(\"/health\") }\n"),
        ("templates/a.html", ""),
    ]);
    assert_eq!((exec(&own, "web").as_str(), check(&own).as_str()), ("bin/rates-api", "/health 200-299"));
    assert!(command(&own).contains("cp target/release/rates-api rel/bin/ && cp -R templates rel/"));
    assert_eq!(own.build.artifact.as_deref(), Some("rel"));
    let workspace = project(&[
        ("Cargo.toml", "[workspace]\nmembers = [\"lib\", \"server\"]\n"),
        ("lib/Cargo.toml", "[package]\nname = \"lib\"\n"),
        ("server/Cargo.toml", "[package]\nname = \"server\"\n[[bin]]\nname = \"depot\"\n"),
    ]);
    assert_eq!(exec(&workspace, "web"), "bin/depot");
}

#[test]
fn what_fly_knew_is_taken_over_and_the_rest_is_named() {
    let fly = r#"
app = "acme-shop"
primary_region = "fra"
kill_signal = "SIGINT"
kill_timeout = "20s"
[env]
PHX_HOST = "shop.example.com"
PORT = 4000
LISTEN_FDS = "3"
[processes]
app = "/app/bin/server"
jobs = "/app/bin/my_shop eval Jobs.run"
[http_service]
internal_port = 4000
force_https = true
[[http_service.checks]]
path = "/status?full=1"
[deploy]
release_command = "/app/bin/migrate"
strategy = "immediate"
[mounts]
source = "data"
"#;
    let files = [("mix.exs", MIX), ("fly.toml", fly)];
    let project = project(&files);
    assert_eq!(project.spec.app.as_str(), "acme-shop");
    assert_eq!((exec(&project, "web").as_str(), port(&project)), ("bin/server", 4000));
    assert_eq!(exec(&project, "jobs"), "bin/my_shop eval Jobs.run");
    assert_eq!(check(&project), "/status?full=1 200-299");
    assert_eq!(
        (project.spec.env["PORT"].as_str(), project.spec.env["PHX_HOST"].as_str()),
        ("4000", "shop.example.com")
    );
    assert_eq!(project.spec.migrate.unwrap().command, ["bin/migrate"]);
    assert_eq!(project.spec.deploy.strategy, Strategy::Immediate);
    assert_eq!(project.spec.processes[&"jobs".parse().unwrap()].kill_signal, "SIGINT");
    let (_, notes) = written(&files);
    let left = notes.iter().find(|note| note.starts_with("not taken over")).unwrap();
    assert_eq!(left, "not taken over from fly.toml: env.LISTEN_FDS, http_service.force_https, mounts");
    assert!(written(&[("fly.toml", "not = toml =")]).1[0].contains("cannot be read"));
}

#[test]
fn a_procfile_and_a_dockerfile_are_hints() {
    let procfile = "web: bundle exec rails server -p $PORT\nworker_1: bundle exec sidekiq\nrelease: bin/rails db:migrate\n";
    let rails = project(&[("Gemfile", "gem 'rails'\n"), ("config.ru", ""), ("Procfile", procfile)]);
    assert_eq!(exec(&rails, "web"), "bundle exec rails server -p 8080");
    assert_eq!(exec(&rails, "worker-1"), "bundle exec sidekiq");
    let docker = "FROM go AS b\nEXPOSE 1\nCMD x\nFROM scratch\nWORKDIR /srv\nEXPOSE 3000/tcp\nCMD [\"/srv/run\", \"--x\"]\n";
    let image = project(&[("Dockerfile", docker)]);
    assert_eq!((exec(&image, "web").as_str(), port(&image)), ("run --x", 3000));
}

/// The template of a project that nobody knows is TOML, and a push says which line to fill in.
#[test]
fn an_unknown_project_is_a_template_with_one_place_to_fill_in() {
    let (text, _) = written(&[("README", "hello")]);
    toml::from_str::<toml::Table>(&text).unwrap();
    let errors = parse_project(&text).unwrap_err().0;
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].key, "processes.web.exec");
    let line = text.lines().nth(errors[0].line - 1).unwrap();
    assert!(line.contains("FILL IN"), "{line}");
    let filled = text.replacen("exec = \"\"", "exec = \"bin/x\"", 1);
    assert_eq!(check(&parse_project(&filled).unwrap()), "/ 200-399");
}

/// `hosts` is asked for only when a fleet has a choice.
#[test]
fn hosts_are_named_when_the_fleet_has_several_groups() {
    let dir = tempfile::tempdir().unwrap();
    let of = |groups: &[&str]| {
        let groups = groups.iter().map(ToString::to_string).collect();
        draft(dir.path(), None, Some(groups)).render()
    };
    assert!(!of(&["web"]).contains("hosts"));
    let several = of(&["db", "web"]);
    assert!(several.contains("hosts = \"web\"") && several.contains("fleet.toml: db, web"), "{several}");
}

/// Whatever names and texts a project has, what is written is TOML.
#[test]
fn strange_names_do_not_break_the_file() {
    let package = r#"{"name": "\"; x = 1", "scripts": {"start": "node \"a'b\\n.js"}}"#;
    let (text, _) = written(&[("package.json", package), ("Procfile", "we\"b: echo \"hi\" > 'x'\n: y\n")]);
    toml::from_str::<toml::Table>(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    written(&[("package.json", "[]"), ("Cargo.toml", "x"), ("pyproject.toml", "]"), ("fly.toml", "app = 3")]);
}
