//! The calls to PID 1 over D-Bus, each typed by hand: only what the agent needs.
//!
//! No retries, no waiting, no meaning: [`super`] adds those. Nothing else in the agent calls PID 1.

use std::collections::HashMap;

use serde::{Serialize, de::DeserializeOwned};
use zbus::message::Type;
use zbus::{Connection, DynamicType, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, Variant};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const JOB: &str = "org.freedesktop.systemd1.Job";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Replaces a queued job that contradicts this one, as `systemctl` does.
const REPLACE: &str = "replace";

/// A row of `ListUnitsByPatterns`.
pub(super) type UnitRow =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// A property of a transient unit.
pub(super) type Property<'a> = (&'a str, Variant<'a>);

async fn call<B>(connection: &Connection, method: &str, body: &B) -> zbus::Result<zbus::Message>
where
    B: Serialize + DynamicType,
{
    connection.call_method(Some(SYSTEMD), MANAGER_PATH, Some(MANAGER), method, body).await
}

async fn property<T>(connection: &Connection, path: &str, interface: &str, name: &str) -> zbus::Result<T>
where
    T: TryFrom<OwnedVariant, Error = zbus::Error>,
{
    let reply =
        connection.call_method(Some(SYSTEMD), path, Some(PROPERTIES), "Get", &(interface, name)).await?;
    reply.body().deserialize::<OwnedVariant>()?.try_into()
}

/// Asks PID 1 for its signals on this connection.
pub(super) async fn subscribe(connection: &Connection) -> zbus::Result<()> {
    call(connection, "Subscribe", &()).await.map(drop)
}

/// `running`, `degraded`, `stopping`, …
pub(super) async fn system_state(connection: &Connection) -> zbus::Result<String> {
    property(connection, MANAGER_PATH, MANAGER, "SystemState").await
}

pub(super) async fn version(connection: &Connection) -> zbus::Result<String> {
    property(connection, MANAGER_PATH, MANAGER, "Version").await
}

pub(super) async fn start_unit(connection: &Connection, unit: &str) -> zbus::Result<OwnedObjectPath> {
    call(connection, "StartUnit", &(unit, REPLACE)).await?.body().deserialize()
}

pub(super) async fn stop_unit(connection: &Connection, unit: &str) -> zbus::Result<OwnedObjectPath> {
    call(connection, "StopUnit", &(unit, REPLACE)).await?.body().deserialize()
}

pub(super) async fn restart_unit(connection: &Connection, unit: &str) -> zbus::Result<OwnedObjectPath> {
    call(connection, "RestartUnit", &(unit, REPLACE)).await?.body().deserialize()
}

pub(super) async fn start_transient(
    connection: &Connection,
    unit: &str,
    properties: &[Property<'_>],
) -> zbus::Result<OwnedObjectPath> {
    let auxiliary: Vec<(&str, Vec<Property<'_>>)> = Vec::new();
    call(connection, "StartTransientUnit", &(unit, "fail", properties, auxiliary)).await?.body().deserialize()
}

pub(super) async fn reset_failed(connection: &Connection, unit: &str) -> zbus::Result<()> {
    call(connection, "ResetFailedUnit", &(unit,)).await.map(drop)
}

pub(super) async fn reload(connection: &Connection) -> zbus::Result<()> {
    call(connection, "Reload", &()).await.map(drop)
}

pub(super) async fn list(connection: &Connection, patterns: &[&str]) -> zbus::Result<Vec<UnitRow>> {
    let states: [&str; 0] = [];
    let reply = call(connection, "ListUnitsByPatterns", &(&states[..], patterns)).await?;
    reply.body().deserialize()
}

/// The object of a *loaded* unit. It never loads one: a unit that is loaded to be looked at would keep
/// the settings it had at that moment.
pub(super) async fn loaded_unit(connection: &Connection, unit: &str) -> zbus::Result<OwnedObjectPath> {
    call(connection, "GetUnit", &(unit,)).await?.body().deserialize()
}

/// Every property of a unit's object, those of all its interfaces.
pub(super) async fn all_properties(
    connection: &Connection,
    path: &OwnedObjectPath,
) -> zbus::Result<HashMap<String, OwnedVariant>> {
    let reply = connection.call_method(Some(SYSTEMD), path, Some(PROPERTIES), "GetAll", &("",)).await?;
    deserialize(&reply)
}

/// The job that is queued or runs for a unit.
pub(super) async fn job_of_unit(
    connection: &Connection,
    path: &OwnedObjectPath,
) -> zbus::Result<Option<OwnedObjectPath>> {
    let job: (u32, OwnedObjectPath) = property(connection, path.as_str(), UNIT, "Job").await?;
    Ok((job.0 != 0).then_some(job.1))
}

/// The state of a job; an error when it is gone.
pub(super) async fn job_state(connection: &Connection, job: &OwnedObjectPath) -> zbus::Result<String> {
    property(connection, job.as_str(), JOB, "State").await
}

/// `JobRemoved` signals: (id, job, unit, result).
pub(super) async fn jobs_removed(connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SYSTEMD)
        .interface(MANAGER)
        .member("JobRemoved")
        .build()?;
    MessageStream::for_match_rule(rule, connection, None).await
}

/// `PropertiesChanged` signals of one unit.
pub(super) async fn unit_changes(connection: &Connection, unit: &str) -> zbus::Result<MessageStream> {
    let path = unit_path(unit);
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SYSTEMD)
        .path(path.as_str())
        .interface(PROPERTIES)
        .member("PropertiesChanged")
        .build()?;
    MessageStream::for_match_rule(rule, connection, None).await
}

/// The fields of a `JobRemoved` signal: which job, and its result.
pub(super) fn removed_job(message: &zbus::Message) -> zbus::Result<(OwnedObjectPath, String)> {
    let (_, job, _, result): (u32, OwnedObjectPath, String, String) = deserialize(message)?;
    Ok((job, result))
}

fn deserialize<T: DeserializeOwned + zbus::Type>(message: &zbus::Message) -> zbus::Result<T> {
    let body = message.body();
    body.deserialize()
}

/// The path of a unit's object: every byte that is not a letter or digit is `_` and two hex digits, and so
/// is a digit at the beginning.
fn unit_path(unit: &str) -> String {
    let mut path = format!("{MANAGER_PATH}/unit/");
    for (i, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (i > 0 && byte.is_ascii_digit()) {
            path.push(byte.into());
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::unit_path;

    #[test]
    fn unit_paths_are_escaped_as_systemd_does() {
        assert_eq!(
            unit_path("deployd-shop-web-v42@1.service"),
            "/org/freedesktop/systemd1/unit/deployd_2dshop_2dweb_2dv42_401_2eservice"
        );
        assert_eq!(unit_path("1a_b.socket"), "/org/freedesktop/systemd1/unit/_31a_5fb_2esocket");
    }
}
