//! The OpenAPI 3.1 document of the API and the JSON Schema of the release document, made from [`ROUTES`] and the
//! wire types. Only with the feature `schema`: `cargo xtask docs` writes them down, the agent serves what is written.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::access::Role;
use crate::error::ErrorBody;
use crate::release::ReleaseDocument;
use crate::route::{Content, ROUTES, Route};
use crate::{command, deployment, event, fleet, release, secret, status};

/// Where OpenAPI keeps types.
const SCHEMAS: &str = "#/components/schemas/";

/// Makes the schema of one type, and of what it refers to.
type Make = fn(&mut SchemaGenerator) -> Schema;

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// Every type that a route may name.
const WIRE: &[(&str, Make)] = &[
    ("AppStatus", of::<status::AppStatus>),
    ("CertificateInfo", of::<fleet::CertificateInfo>),
    ("CommandRequest", of::<command::CommandRequest>),
    ("Deployment", of::<deployment::Deployment>),
    ("DoctorReport", of::<status::DoctorReport>),
    ("ErrorBody", of::<ErrorBody>),
    ("Event", of::<event::Event>),
    ("HostInfo", of::<fleet::HostInfo>),
    ("Lease", of::<fleet::Lease>),
    ("LeaseRequest", of::<fleet::LeaseRequest>),
    ("LogLine", of::<status::LogLine>),
    ("OperateRequest", of::<deployment::OperateRequest>),
    ("PlanAnswer", of::<deployment::PlanAnswer>),
    ("PlanRequest", of::<deployment::PlanRequest>),
    ("PushRequest", of::<deployment::PushRequest>),
    ("ReleaseRow", of::<release::ReleaseRow>),
    ("RollbackRequest", of::<deployment::RollbackRequest>),
    ("Rollout", of::<fleet::Rollout>),
    ("SecretRow", of::<secret::SecretRow>),
    ("SecretsRequest", of::<secret::SecretsRequest>),
    ("UploadAnswer", of::<deployment::UploadAnswer>),
    ("UploadRequest", of::<deployment::UploadRequest>),
];

/// The API as an OpenAPI 3.1 document.
pub fn openapi() -> Value {
    let mut generator = SchemaSettings::draft2020_12()
        .with(|settings| {
            settings.definitions_path = SCHEMAS.trim_start_matches('#').into();
            settings.meta_schema = None;
        })
        .into_generator();
    for (_, make) in WIRE {
        make(&mut generator);
    }
    generator.subschema_for::<Role>();
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "deployd",
            "version": format!("{}", crate::API_VERSION),
            "description": "The API of the agent of one host: over mutual TLS on port 7443, and for root on \
                            /run/deployd/deployd.sock. Fields and event types are only added within a version; \
                            readers ignore what they do not know.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{
            "url": "https://{host}:7443",
            "variables": {"host": {"default": "web1", "description": "the name in the host's certificate"}},
        }],
        "security": [{"certificate": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"certificate": {
                "type": "mutualTLS",
                "description": "a client certificate of the fleet's CA; its roles are URI SANs, deployd://role/…",
            }},
            "responses": {"refused": {
                "description": "The call was refused; nothing was changed",
                "content": {"application/json": {"schema": reference("ErrorBody")}},
            }},
            "schemas": generator.take_definitions(true),
        },
    })
}

/// The JSON Schema of the document whose digest is a release's identity, with the spec in it.
pub fn release_document() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<ReleaseDocument>().to_value()
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{SCHEMAS}{name}") })
}

fn operation(route: &Route) -> Value {
    let in_path = route
        .parts()
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    let in_query = route.query.iter().map(|parameter| {
        json!({"name": parameter.name, "in": "query", "description": parameter.doc, "schema": {"type": "string"}})
    });
    let mut responses = Map::new();
    let status = if route.gives == Content::Upgrade { "101" } else { "200" };
    let mut done = json!({ "description": "Done" });
    if let Some(content) = content(route.gives) {
        done["content"] = content;
    }
    responses.insert(status.to_owned(), done.clone());
    if changes(route) {
        done["description"] = json!("Begun: its events tell how it ends");
        responses.insert("202".to_owned(), done);
    }
    responses.insert("default".to_owned(), json!({"$ref": "#/components/responses/refused"}));
    let mut operation = json!({
        "summary": route.doc,
        "operationId": operation_id(route),
        "x-needs": format!("{:?}", route.needs).to_lowercase(),
        "parameters": in_path.chain(in_query).collect::<Vec<_>>(),
        "responses": responses,
    });
    if let Some(content) = content(route.takes) {
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

/// Whether it begins a deployment.
fn changes(route: &Route) -> bool {
    route.takes != Content::None && route.gives == Content::Json("Deployment")
}

fn content(content: Content) -> Option<Value> {
    Some(match content {
        Content::None | Content::Upgrade => return None,
        Content::Json(name) => json!({"application/json": {"schema": reference(name)}}),
        Content::List(name) => {
            json!({"application/json": {"schema": {"type": "array", "items": reference(name)}}})
        }
        Content::Lines(name) => json!({"application/x-ndjson": {"schema": reference(name)}}),
        Content::Pem => json!({"application/x-pem-file": {"schema": {"type": "string"}}}),
        Content::Bytes => json!({"application/octet-stream": {}}),
        Content::Any => json!({"application/json": {"schema": {"type": "object"}}}),
    })
}

/// `post_apps_app_rollback`: stable, and a name in any language.
fn operation_id(route: &Route) -> String {
    let path = route.path.trim_start_matches("/v1/");
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let id: String = format!("{} {path}", route.method.as_str().to_lowercase()).chars().map(word).collect();
    id.split('_').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every `$ref` of the document.
    fn references<'a>(value: &'a Value, into: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => {
                into.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|v| references(v, into));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, into)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let document = openapi();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.contains("#/components/schemas/Deployment"), "{found:?}");
        for reference in found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        for (name, _) in WIRE {
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }

    #[test]
    fn every_route_and_code_is_in_the_document() {
        let document = openapi();
        let mut ids = BTreeSet::new();
        for route in ROUTES {
            let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
            assert_eq!(operation["summary"], route.doc, "{route}");
            assert!(ids.insert(operation["operationId"].to_string()), "{route}");
        }
        let text = document["components"]["schemas"]["ErrorCode"].to_string();
        for code in crate::error::ErrorCode::ALL {
            assert!(text.contains(&format!("\"{code}\"")), "{code}");
        }
    }

    #[test]
    fn ids_are_texts_with_a_pattern() {
        let schemas = &openapi()["components"]["schemas"];
        for name in ["AppName", "Label", "Digest", "DeploymentId", "HostName", "SecretName"] {
            assert_eq!(schemas[name]["type"], "string", "{name}: {}", schemas[name]);
            assert!(schemas[name]["pattern"].is_string(), "{name}");
        }
        assert_eq!(release_document()["properties"]["artifact"]["$ref"], "#/$defs/Digest");
    }
}
