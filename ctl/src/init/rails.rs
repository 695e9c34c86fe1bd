//! Ruby: `Gemfile` with `config.ru`, Rails or another Rack app.

use super::draft::{Check, Draft, Migrate};
use super::health;
use super::sources::Sources;

/// Where gems are installed, and which are not.
const GEMS: &str = "BUNDLE_PATH=vendor/bundle BUNDLE_WITHOUT=development:test";

pub(super) fn read(sources: &Sources) -> Option<Draft> {
    let gemfile = sources.text("Gemfile")?;
    if !sources.has("config.ru") {
        return None;
    }
    let has = |gem: &str| {
        [format!("gem \"{gem}\""), format!("gem '{gem}'")].iter().any(|line| gemfile.contains(line))
    };
    let rails = sources.has("bin/rails") || has("rails");
    let mut draft = Draft::new(if rails { "a Rails project" } else { "a Rack project" });
    draft.set_env("BUNDLE_PATH", "vendor/bundle");
    draft.set_env("BUNDLE_WITHOUT", "development:test");
    let mut build = format!("{GEMS} bundle install");
    let puma = if sources.has("config/puma.rb") { "-C config/puma.rb" } else { "-p 8080" };
    let process = draft.run("web", format!("bundle exec puma {puma}"));
    if rails {
        process.keys.push(("writable", "[\"tmp\", \"log\"]".to_owned()));
        if sources.has("storage") {
            process.keys.push(("shared", "[\"storage\"]".to_owned()));
        }
        if sources.has("app/assets") {
            build += &format!(
                " && SECRET_KEY_BASE_DUMMY=1 RAILS_ENV=production {GEMS} bin/rails assets:precompile"
            );
        }
        for (name, value) in
            [("RAILS_ENV", "production"), ("RAILS_LOG_TO_STDOUT", "1"), ("RAILS_SERVE_STATIC_FILES", "1")]
        {
            draft.set_env(name, value);
        }
        let key =
            if sources.has("config/credentials.yml.enc") { "RAILS_MASTER_KEY" } else { "SECRET_KEY_BASE" };
        draft.secrets.push(key.to_owned());
        if has("pg") || has("mysql2") || has("trilogy") {
            draft.secrets.push("DATABASE_URL".to_owned());
        }
        draft.migrate = Some(Migrate::Command("bin/rails db:migrate".to_owned()));
        draft.check = Some(check(sources));
    } else {
        draft.set_env("RACK_ENV", "production");
        draft.check = Some(health::find(sources, &["rb", "ru"]));
    }
    if !has("puma") {
        draft.notes.push("add puma to the Gemfile: it serves the app".to_owned());
    }
    draft.build = Some((build, ".".to_owned()));
    draft.notes.push("ruby and bundler have to be on the hosts, of the version that builds".to_owned());
    Some(draft)
}

fn check(sources: &Sources) -> Check {
    let routes = sources.text("config/routes.rb").unwrap_or_default();
    if routes.contains("rails/health#show") {
        return Check::Path { path: "/up".to_owned(), from: "found in config/routes.rb".to_owned() };
    }
    if routes.contains("root ") { Check::Root } else { health::find(sources, &["rb"]) }
}
