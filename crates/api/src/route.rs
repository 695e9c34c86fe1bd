//! Every route of the API: the one table that the agent's router, its access control and the OpenAPI document
//! are made from.
//!
//! Adding a route is an entry in [`ROUTES`] and an arm with its handler in the agent's `http/routes.rs`; a test
//! there holds both lists equal. The types that an entry names are those of `schema::WIRE`.

use std::fmt;

use crate::access::Need;
use crate::ids::AppName;

/// Most bytes of a body, where a route does not say otherwise.
pub const BODY_MAX: u64 = 1 << 20;
/// Most bytes of a rollout's record (thousands of hosts, and a spec) and of secrets with their recovery.
pub const RECORD_MAX: u64 = 4 << 20;
/// Most bytes of certificates: a list of revoked ones may be long.
pub const PEM_MAX: u64 = 8 << 20;
/// Most bytes of a body with a manifest: half a million entries.
pub const LARGE_MAX: u64 = 256 << 20;

/// A method of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
}

impl Method {
    /// As HTTP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a caller must be allowed to, before the app of the path is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Any role.
    View,
    /// To deploy the app that the path names.
    Deploy,
    /// Everything.
    Administer,
}

impl Needs {
    /// What it is for a call: `None` when the path should name an app and does not.
    pub fn of(self, app: Option<&AppName>) -> Option<Need> {
        match self {
            Self::View => Some(Need::View),
            Self::Administer => Some(Need::Administer),
            Self::Deploy => app.cloned().map(Need::Deploy),
        }
    }
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    None,
    /// A JSON document of this type.
    Json(&'static str),
    /// A JSON list of this type.
    List(&'static str),
    /// One JSON document of this type a line.
    Lines(&'static str),
    /// PEM blocks.
    Pem,
    /// Bytes in a form that the reference describes.
    Bytes,
    /// A JSON document of no fixed type.
    Any,
    /// 101: the connection is another protocol's from now on.
    Upgrade,
}

/// A parameter of the query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub doc: &'static str,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// How it is called.
    pub method: Method,
    /// Its path, parts in braces standing for any.
    pub path: &'static str,
    /// Who may call it.
    pub needs: Needs,
    /// What it takes.
    pub takes: Content,
    /// What it answers.
    pub gives: Content,
    /// What may stand behind `?`.
    pub query: &'static [Parameter],
    /// What it is for.
    pub doc: &'static str,
}

impl Route {
    const fn new(
        method: Method,
        path: &'static str,
        needs: Needs,
        takes: Content,
        gives: Content,
        doc: &'static str,
    ) -> Self {
        Self { method, path, needs, takes, gives, query: &[], doc }
    }

    const fn with(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }

    /// Most bytes of its body; `None` when it has none, or is a stream.
    pub fn body_max(&self) -> Option<u64> {
        match self.takes {
            Content::Json("UploadRequest" | "PlanRequest") => Some(LARGE_MAX),
            Content::Json("Rollout" | "SecretsRequest") => Some(RECORD_MAX),
            Content::Pem => Some(PEM_MAX),
            Content::Json(_) | Content::List(_) => Some(BODY_MAX),
            Content::None | Content::Lines(_) | Content::Bytes | Content::Any | Content::Upgrade => {
                Option::None
            }
        }
    }

    /// The parts of the path that stand for any, in order.
    pub fn parts(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

const fn parameter(name: &'static str, doc: &'static str) -> Parameter {
    Parameter { name, doc }
}

/// What `GET …/logs` takes.
const LOGS: &[Parameter] = &[
    parameter("follow", "go on as lines come"),
    parameter("since_ms", "only from this moment on, in milliseconds since 1970"),
    parameter("level", "this level and worse: error, warning, notice, info, debug, or 0 to 7"),
    parameter("instance", "web@1, or a process: web"),
    parameter("release", "only this release: v42"),
    parameter("lines", "at most so many of the past"),
];
/// What `DELETE …/lease` takes.
const LEASE: &[Parameter] = &[parameter("id", "the rollout that holds it")];
/// What `GET …/events` takes.
const EVENTS: &[Parameter] = &[parameter("after", "only events with a greater number")];

use Content::{Any, Bytes, Json, Lines, List, None, Pem};
use Method::{Delete, Get, Post, Put};
use Needs::{Administer, Deploy, View};

/// All of them, sorted by what they are about. One entry a line: others are added without touching these.
#[rustfmt::skip]
pub const ROUTES: &[Route] = &[
    Route::new(Get, "/v1/openapi.json", View, None, Any, "This API, as an OpenAPI 3.1 document"),
    Route::new(Get, "/v1/host", View, None, Json("HostInfo"), "What the host is and has, and who the caller is"),
    Route::new(Get, "/v1/doctor", View, None, Json("DoctorReport"), "Compare what should be with what is"),
    Route::new(Get, "/v1/apps", View, None, List("AppStatus"), "Every app of the host"),
    Route::new(Get, "/v1/apps/{app}", View, None, Json("AppStatus"), "How an app does"),
    Route::new(Delete, "/v1/apps/{app}", Deploy, Json("OperateRequest"), Json("Deployment"), "Take an app off the host, with its files and state"),
    Route::new(Post, "/v1/apps/{app}/uploads", Deploy, Json("UploadRequest"), Json("UploadAnswer"), "Ask which files of an artifact are missing; room for them is reserved"),
    Route::new(Put, "/v1/apps/{app}/uploads/{artifact}", Deploy, Bytes, Any, "Send missing files"),
    Route::new(Post, "/v1/apps/{app}/plan", View, Json("PlanRequest"), Json("PlanAnswer"), "What a push would do"),
    Route::new(Post, "/v1/apps/{app}/deployments", Deploy, Json("PushRequest"), Json("Deployment"), "Make a release live"),
    Route::new(Get, "/v1/apps/{app}/deployments/{id}", View, None, Json("Deployment"), "How a deployment does"),
    Route::new(Get, "/v1/apps/{app}/deployments/{id}/events", View, None, Lines("Event"), "What happened in a deployment, and what happens, until its end").with(EVENTS),
    Route::new(Post, "/v1/apps/{app}/deployments/{id}/abort", Deploy, None, Json("Deployment"), "Undo a deployment that runs"),
    Route::new(Post, "/v1/apps/{app}/rollback", Deploy, Json("RollbackRequest"), Json("Deployment"), "Make an earlier release live again"),
    Route::new(Post, "/v1/apps/{app}/start", Deploy, Json("OperateRequest"), Json("Deployment"), "Start what was stopped"),
    Route::new(Post, "/v1/apps/{app}/stop", Deploy, Json("OperateRequest"), Json("Deployment"), "Stop serving"),
    Route::new(Post, "/v1/apps/{app}/restart", Deploy, Json("OperateRequest"), Json("Deployment"), "Replace the processes by new ones of the same release"),
    Route::new(Get, "/v1/apps/{app}/lease", View, None, Json("Lease"), "Who holds the deploy lock; null when nobody does"),
    Route::new(Post, "/v1/apps/{app}/lease", Deploy, Json("LeaseRequest"), Json("Lease"), "Take the deploy lock, or renew it"),
    Route::new(Delete, "/v1/apps/{app}/lease", Deploy, None, Any, "Give the deploy lock back").with(LEASE),
    Route::new(Get, "/v1/apps/{app}/rollout", View, None, Json("Rollout"), "The last rollout that this host takes part in"),
    Route::new(Put, "/v1/apps/{app}/rollout", Deploy, Json("Rollout"), Json("Rollout"), "Write a rollout down"),
    Route::new(Get, "/v1/apps/{app}/secrets", View, None, List("SecretRow"), "Names and versions of the app's secrets"),
    Route::new(Post, "/v1/apps/{app}/secrets", Deploy, Json("SecretsRequest"), List("SecretRow"), "Set and remove secrets; the app may not be known yet"),
    Route::new(Get, "/v1/apps/{app}/releases", View, None, List("ReleaseRow"), "The releases of an app, newest first"),
    Route::new(Post, "/v1/apps/{app}/releases/{label}/clear", Deploy, None, List("ReleaseRow"), "Let a release be pushed again that undid itself"),
    Route::new(Post, "/v1/apps/{app}/commands", Deploy, Json("CommandRequest"), Any, "Run a command in the surroundings of the live release; answered with 101 and frames in both directions"),
    Route::new(Get, "/v1/apps/{app}/logs", View, None, Lines("LogLine"), "What an app's processes said").with(LOGS),
    Route::new(Post, "/v1/tls/request", Administer, None, Pem, "A request for a new certificate of the host"),
    Route::new(Put, "/v1/tls/certificate", Administer, Pem, Json("CertificateInfo"), "The host's certificate, its CA's, and the list of revoked ones"),
    Route::new(Put, "/v1/tls/crl", Administer, Pem, Any, "The list of revoked certificates"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_there_once_and_says_what_it_needs() {
        let mut seen = std::collections::BTreeSet::new();
        for route in ROUTES {
            assert!(seen.insert(route.to_string()), "{route} is there twice");
            assert!(route.path.starts_with("/v1/") && !route.doc.is_empty(), "{route}");
            let of_app = route.path.starts_with("/v1/apps/{app}");
            assert_eq!(route.parts().any(|part| part == "app"), of_app, "{route}");
            assert!(route.needs != Deploy || of_app, "{route}: whose deployer?");
            // A plan is a question with a body.
            let asks = route.method == Get || route.path.ends_with("/plan");
            assert!(asks == (route.needs == View), "{route}: a viewer changes nothing, and sees all");
        }
    }

    #[test]
    fn a_need_is_that_of_the_app_in_the_path() {
        let shop: AppName = "shop".parse().unwrap();
        assert_eq!(Deploy.of(Some(&shop)), Some(Need::Deploy(shop.clone())));
        assert_eq!(Deploy.of(Option::None), Option::None);
        assert_eq!(
            (View.of(Option::None), Administer.of(Some(&shop))),
            (Some(Need::View), Some(Need::Administer))
        );
    }
}
