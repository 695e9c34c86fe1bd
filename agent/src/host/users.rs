//! The system user of an app, `dpl-<app>`, by systemd-sysusers in a transient unit.
//!
//! The agent writes no user database itself. It must never take over a user or group that it did not make:
//! ours carry a marker in their description. The uid is given by the caller, who never gives one twice.

use std::ffi::CStr;
use std::time::Duration;

use deployd_api::ids::AppName;
use deployd_core::units;
use nix::unistd::{Group, User};

use super::systemd::{Ended, Leftover, Systemd, SystemdError, TransientSpec};

/// How long making or removing a user may take: a lock file of another tool may be waited for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Programs, where each distribution has them.
const SYSUSERS: [&str; 2] = ["/usr/bin/systemd-sysusers", "/bin/systemd-sysusers"];
const USERDEL: [&str; 2] = ["/usr/sbin/userdel", "/sbin/userdel"];
const GROUPDEL: [&str; 2] = ["/usr/sbin/groupdel", "/sbin/groupdel"];

/// Why a user is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The user database could not be read.
    #[error("failed to look up {name}")]
    Lookup {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: nix::Error,
    },
    /// The name belongs to somebody else.
    #[error("user {name} (uid {uid}) exists and was not made by deployd")]
    NotOurs {
        /// The name.
        name: String,
        /// Its uid.
        uid: u32,
    },
    /// A group of that name exists without our user.
    #[error("group {name} (gid {gid}) exists and was not made by deployd")]
    GroupExists {
        /// The name.
        name: String,
        /// Its gid.
        gid: u32,
    },
    /// It is ours, with another uid than it should have.
    #[error("user {name} has uid {uid}, not {wanted}")]
    OtherUid {
        /// The name.
        name: String,
        /// Its uid.
        uid: u32,
        /// The one asked for.
        wanted: u32,
    },
    /// The uid belongs to somebody else.
    #[error("uid {uid} belongs to {holder}")]
    UidTaken {
        /// The uid.
        uid: u32,
        /// Who has it.
        holder: String,
    },
    /// No program for it on this host.
    #[error("failed to find {program} on this host")]
    NoProgram {
        /// The first place looked at.
        program: &'static str,
    },
    /// The unit that does it could not run.
    #[error("failed to {attempt} user {name}")]
    Unit {
        /// What was attempted.
        attempt: &'static str,
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: SystemdError,
    },
    /// The program failed.
    #[error("failed to {attempt} user {name}: {ended:?}: {output}")]
    Program {
        /// What was attempted.
        attempt: &'static str,
        /// The name.
        name: String,
        /// How it ended.
        ended: Ended,
        /// What it said.
        output: String,
    },
}

/// An app's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppUser {
    /// `dpl-<app>`.
    pub name: String,
    /// Its uid.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

/// The description that marks a user as ours.
fn marker(app: &AppName) -> String {
    format!("deployd app {app}")
}

/// The app's user; `None` if there is none. An error if the name is somebody else's.
pub fn lookup(app: &AppName) -> Result<Option<AppUser>, UserError> {
    let name = units::user(app);
    let failed = |source| UserError::Lookup { name: name.clone(), source };
    let Some(user) = User::from_name(&name).map_err(failed)? else {
        return Ok(None);
    };
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    if !is_ours(&user.gecos, app) {
        return Err(UserError::NotOurs { name, uid });
    }
    Ok(Some(AppUser { name, uid, gid }))
}

/// Whether no user and no group has this number. One that cannot be looked up counts as taken.
pub fn is_free(id: u32) -> bool {
    matches!(User::from_uid(id.into()), Ok(None)) && matches!(Group::from_gid(id.into()), Ok(None))
}

fn is_ours(gecos: &CStr, app: &AppName) -> bool {
    gecos.to_bytes() == marker(app).as_bytes()
}

/// Makes the app's user with this uid and a group of the same name and number. A user that is there
/// already, ours and with that uid, is left as it is.
pub async fn ensure(systemd: &Systemd, app: &AppName, uid: u32) -> Result<AppUser, UserError> {
    if let Some(user) = lookup(app)? {
        return expect_uid(user, uid);
    }
    let name = units::user(app);
    let failed = |source| UserError::Lookup { name: name.clone(), source };
    if let Some(group) = Group::from_name(&name).map_err(failed)? {
        return Err(UserError::GroupExists { name, gid: group.gid.as_raw() });
    }
    if let Some(holder) = User::from_uid(uid.into()).map_err(failed)? {
        return Err(UserError::UidTaken { uid, holder: holder.name });
    }
    if let Some(holder) = Group::from_gid(uid.into()).map_err(failed)? {
        return Err(UserError::UidTaken { uid, holder: format!("group {}", holder.name) });
    }
    let line = format!("u {name} {uid} \"{}\" /var/lib/deployd-apps/{app} /usr/sbin/nologin\n", marker(app));
    run(systemd, "make", app, &SYSUSERS, &["-"], Some(line)).await?;
    let made = lookup(app)?.ok_or(UserError::Program {
        attempt: "make",
        name,
        ended: Ended::Exited(0),
        output: "systemd-sysusers succeeded, yet there is no such user".to_owned(),
    })?;
    expect_uid(made, uid)
}

fn expect_uid(user: AppUser, wanted: u32) -> Result<AppUser, UserError> {
    if user.uid == wanted {
        return Ok(user);
    }
    Err(UserError::OtherUid { name: user.name, uid: user.uid, wanted })
}

/// Removes the app's user and its group. Nothing happens when there is none; its files stay.
pub async fn remove(systemd: &Systemd, app: &AppName) -> Result<(), UserError> {
    let name = units::user(app);
    let Some(user) = lookup(app)? else {
        return Ok(());
    };
    run(systemd, "remove", app, &USERDEL, &[&name], None).await?;
    // userdel removes the group as well, unless the host's login.defs says otherwise.
    let failed = |source| UserError::Lookup { name: name.clone(), source };
    let group = Group::from_name(&name).map_err(failed)?;
    if group.is_some_and(|g| g.gid.as_raw() == user.gid) {
        run(systemd, "remove the group of", app, &GROUPDEL, &[&name], None).await?;
    }
    Ok(())
}

async fn run(
    systemd: &Systemd,
    attempt: &'static str,
    app: &AppName,
    programs: &[&'static str; 2],
    args: &[&str],
    stdin: Option<String>,
) -> Result<(), UserError> {
    let name = units::user(app);
    let program = programs.iter().find(|p| std::path::Path::new(p).exists());
    let program = program.ok_or(UserError::NoProgram { program: programs[0] })?;
    let mut words = vec![(*program).to_owned()];
    words.extend(args.iter().map(|a| (*a).to_owned()));
    let unit = format!("deployd-user-{}.service", app.unit_part());
    let output = Some(std::path::PathBuf::from(format!("/run/deployd/{unit}.out")));
    let stdin = stdin.map(String::into_bytes);
    let spec = TransientSpec { words, stdin, output, timeout: TIMEOUT, ..Default::default() };
    // A unit of that name may be left from an agent that died here: it is finished first, then ours runs.
    let done = systemd.run_transient(&unit, &spec, Leftover::Finish).await;
    let done = done.map_err(|source| UserError::Unit { attempt, name: name.clone(), source })?;
    match done.ended {
        Ended::Exited(0) => Ok(()),
        ended => Err(UserError::Program { attempt, name, ended, output: done.output.trim().to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_marker_is_ours() {
        let app: AppName = "shop".parse().unwrap();
        assert!(is_ours(c"deployd app shop", &app));
        assert!(!is_ours(c"deployd app shop2", &app));
        assert!(!is_ours(c"", &app));
    }
}
