//! Python: `manage.py`, `pyproject.toml`, `requirements.txt`.
//!
//! Libraries are installed into a folder of the release: the scripts of a virtual environment name the path of the
//! machine where it was made, and do not run elsewhere.

use super::draft::{Draft, Migrate};
use super::health;
use super::sources::Sources;

/// Where libraries are installed.
const LIBRARIES: &str = "vendor";

/// Programs that are run when nothing else serves.
const SCRIPTS: [&str; 3] = ["app.py", "main.py", "server.py"];

pub(super) fn read(sources: &Sources) -> Option<Draft> {
    let requirements = sources.text("requirements.txt");
    let pyproject = sources.text("pyproject.toml");
    let manage = sources.text("manage.py").filter(|text| text.contains("DJANGO_SETTINGS_MODULE"));
    if requirements.is_none() && pyproject.is_none() && manage.is_none() {
        return None;
    }
    let listed = format!("{}\n{}", requirements.as_deref().unwrap_or(""), pyproject.as_deref().unwrap_or(""));
    let depends = |name: &str| depends_on(&listed, name);
    let mut draft = Draft::new("a Python project");
    let table: Option<toml::Table> = pyproject.as_deref().and_then(|text| toml::from_str(text).ok());
    let name = table.as_ref().and_then(|table| table.get("project")?.get("name")?.as_str());
    draft.app = name.map(str::to_owned);
    let install = match (&requirements, sources.has("uv.lock")) {
        (_, true) => Some(format!("uv pip install --target {LIBRARIES} --upgrade -r pyproject.toml")),
        (Some(_), _) => {
            Some(format!("python3 -m pip install --target {LIBRARIES} --upgrade -r requirements.txt"))
        }
        (None, _) if pyproject.is_some() => {
            Some(format!("python3 -m pip install --target {LIBRARIES} --upgrade ."))
        }
        _ => None,
    };
    if let Some(install) = install {
        draft.build = Some((install, ".".to_owned()));
        draft.set_env("PYTHONPATH", LIBRARIES);
    }
    draft.set_env("PYTHONUNBUFFERED", "1");
    serve(sources, &mut draft, manage.as_deref(), &depends);
    draft.notes.push("python3 has to be on the hosts, of the version of the machine that builds".to_owned());
    Some(draft)
}

/// A program without a list of what it needs.
pub(super) fn read_script(sources: &Sources) -> Option<Draft> {
    SCRIPTS.iter().any(|file| sources.has(file)).then_some(())?;
    let mut draft = Draft::new("a Python project");
    draft.set_env("PYTHONUNBUFFERED", "1");
    serve(sources, &mut draft, None, &|_| false);
    draft.notes.push("python3 has to be on the hosts".to_owned());
    Some(draft)
}

/// Finds what serves: Django, an ASGI app, a WSGI app, a script.
fn serve(sources: &Sources, draft: &mut Draft, manage: Option<&str>, depends: &dyn Fn(&str) -> bool) {
    if let Some(manage) = manage {
        "a Django project".clone_into(&mut draft.project);
        let settings = manage.split(['"', '\'']).find(|word| word.ends_with(".settings"));
        let package = settings.and_then(|s| s.split('.').next()).unwrap_or("FILL-IN").to_owned();
        let exec = if depends("uvicorn") && !depends("gunicorn") {
            format!("python3 -m uvicorn {package}.asgi:application --host 0.0.0.0 --port {}", draft.port())
        } else {
            format!("python3 -m gunicorn {package}.wsgi")
        };
        wants(draft, depends, if exec.contains("uvicorn") { "uvicorn" } else { "gunicorn" });
        draft.run("web", exec);
        draft.app.get_or_insert(package);
        draft.migrate = Some(Migrate::Command("python3 manage.py migrate --noinput".to_owned()));
        draft.check = Some(health::find(sources, &["py"]));
        return;
    }
    let asgi = application(sources, &["FastAPI(", "Starlette(", "Litestar("]);
    let wsgi = application(sources, &["Flask(", "falcon.App("]);
    let script = SCRIPTS.into_iter().find(|file| sources.has(file));
    let exec = match (asgi, wsgi, script) {
        (Some(app), ..) => {
            wants(draft, depends, "uvicorn");
            format!("python3 -m uvicorn {app} --host 0.0.0.0 --port {}", draft.port())
        }
        (None, Some(app), _) => {
            wants(draft, depends, "gunicorn");
            format!("python3 -m gunicorn {app}")
        }
        (None, None, Some(script)) => format!("python3 {script}"),
        (None, None, None) => {
            draft.notes.push("nothing that serves was found: fill in exec".to_owned());
            draft.check = Some(super::draft::Check::Root);
            return;
        }
    };
    draft.run("web", exec);
    draft.check = Some(health::find(sources, &["py"]));
}

fn wants(draft: &mut Draft, depends: &dyn Fn(&str) -> bool, server: &str) {
    if !depends(server) {
        draft.notes.push(format!("add {server} to the project's dependencies: it serves the app"));
    }
}

/// `package.module:variable` of the first line `variable = Kind(…)`.
fn application(sources: &Sources, kinds: &[&str]) -> Option<String> {
    sources.search(&["py"], |file, text| {
        let line = text.lines().find(|line| {
            !line.starts_with([' ', '\t', '#'])
                && kinds.iter().any(|kind| line.contains(&format!("= {kind}")))
        })?;
        let variable = line.split(['=', ':']).next()?.trim();
        let module = file.strip_suffix(".py")?.replace('/', ".");
        let module = module.strip_suffix(".__init__").unwrap_or(&module);
        let module = module.strip_prefix("src.").unwrap_or(module);
        Some(format!("{module}:{variable}"))
    })
}

/// Whether a list of requirements names the package.
fn depends_on(list: &str, name: &str) -> bool {
    list.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
        .any(|word| word.eq_ignore_ascii_case(name))
}
