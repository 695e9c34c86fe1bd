//! Takes requests: one deployment an app at a time, apps side by side.
//!
//! It knows the apps' states, plans requests against observed facts, makes plans durable and starts their
//! drivers. It is all that the HTTP handlers see; it never touches the host itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use deployd_api::deployment::{Deployment, Kind};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, DeploymentId, Label};
use deployd_api::release::Origin;
use deployd_core::lint;
use deployd_core::machine::Progress;
use deployd_core::plan::{self, Plan, Planned, Request};
use deployd_core::state::{AppState, Change};
use tokio::sync::{Mutex, mpsc, watch};
use tracing::{Instrument as _, error, info_span};

use crate::driver::hold::Hold;
use crate::driver::{Control, Driver, Port, Recorder, SharedState, clock, record};
use crate::store::journal::{Begun, NewDeployment};
use crate::store::{Store, StoreError};
use crate::view;

/// What only the real host knows, asked for once before a plan.
pub trait Observer: Send + Sync + 'static {
    /// Everything the planner may know.
    fn facts(
        &self,
        request: &Request,
        state: AppState,
    ) -> impl Future<Output = Result<deployd_core::facts::Facts, ErrorBody>> + Send;
    /// The id of this boot.
    fn boot_id(&self) -> String;
    /// Gives an app the uid that it keeps for ever.
    fn allocate_uid(&self, app: &AppName) -> impl Future<Output = Result<u32, ErrorBody>> + Send;
}

/// A deployment that runs.
#[derive(Debug, Clone)]
struct Running {
    id: DeploymentId,
    kind: Kind,
    from: Option<Label>,
    control: mpsc::Sender<Control>,
    /// Becomes true when the driver has ended.
    ended: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Slot {
    state: SharedState,
    /// Held from the look at `running` until the new deployment is durable: requests queue here.
    running: Mutex<Option<Running>>,
}

/// See the module.
#[derive(Debug)]
pub struct Supervisor<H> {
    store: Store,
    host: Arc<H>,
    slots: Mutex<BTreeMap<AppName, Arc<Slot>>>,
    news: watch::Sender<u64>,
    hold: Option<Hold>,
}

impl<H: Port + Observer> Supervisor<H> {
    /// With the apps that the store knows.
    pub async fn open(store: Store, host: Arc<H>, hold: Option<Hold>) -> Result<Arc<Self>, StoreError> {
        let mut slots = BTreeMap::new();
        for row in store.load_apps().await? {
            match serde_json::from_str::<AppState>(&row.state) {
                Ok(state) => {
                    slots.insert(row.app, Arc::new(Slot::new(state)));
                }
                Err(e) => {
                    error!(app = %row.app, error = %e, "the app's state cannot be read: it is left alone");
                }
            }
        }
        let (news, _) = watch::channel(0);
        Ok(Arc::new(Self { store, host, slots: Mutex::new(slots), news, hold }))
    }

    /// The store, for readers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The host, for readers.
    pub fn host(&self) -> &Arc<H> {
        &self.host
    }

    /// Changes whenever any deployment wrote a record.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The apps that the host knows, with their states.
    pub async fn apps(&self) -> Vec<(AppName, SharedState)> {
        let slots = self.slots.lock().await;
        slots.iter().map(|(app, slot)| (app.clone(), slot.state.clone())).collect()
    }

    /// The state of an app, if the host knows it.
    pub async fn app(&self, app: &AppName) -> Result<SharedState, ErrorBody> {
        let slot = self.slots.lock().await.get(app).cloned();
        slot.map(|s| s.state.clone()).ok_or_else(|| unknown_app(app))
    }

    /// The deployment that runs for an app.
    pub async fn running(&self, app: &AppName) -> Option<DeploymentId> {
        let slot = self.slots.lock().await.get(app).cloned()?;
        let running = slot.running.lock().await;
        running.as_ref().filter(|r| !*r.ended.borrow()).map(|r| r.id.clone())
    }

    /// Carries a request out: returns once its plan is durable, or it is refused.
    pub async fn submit(
        self: &Arc<Self>,
        app: &AppName,
        id: DeploymentId,
        request: Request,
        origin: Origin,
    ) -> Result<Deployment, ErrorBody> {
        if let Some(known) = self.known(&id).await? {
            return Ok(known);
        }
        let slot = self.slot(app, &request).await?;
        let mut running = slot.running.lock().await;
        if let Some(current) = running.as_ref().filter(|r| !*r.ended.borrow()).cloned()
            && let Some(instead) = self.make_way(app, &current, &request, &id, &origin).await?
        {
            return Ok(instead);
        }
        let state = slot.state.lock().await.clone();
        let facts = self.host.facts(&request, state).await?;
        let plan = match plan::plan(&request, &facts).map_err(|e| *e)? {
            Planned::Plan(_) if facts.artifact.as_ref().is_some_and(|a| !a.complete) => {
                let message = format!("files of this artifact of {app} have not arrived");
                let hint = "push again: it goes on where it stopped";
                return Err(ErrorBody::new(ErrorCode::UploadIncomplete, message, hint));
            }
            Planned::Plan(plan) => *plan,
            Planned::Nothing { live } => return Ok(view::nothing(app, id, &request, live, origin)),
        };
        if let Some(broken) = lint::lint(&plan).first() {
            let hint = "this is a defect of deployd: please report it with the spec";
            return Err(ErrorBody::new(
                ErrorCode::Internal,
                format!("the plan breaks a rule: {broken}"),
                hint,
            ));
        }
        match self.begin(&slot, id.clone(), plan, &origin).await? {
            Some(new) => *running = Some(new),
            None => return self.known(&id).await?.ok_or_else(|| unknown_deployment(&id)),
        }
        drop(running);
        self.known(&id).await?.ok_or_else(|| unknown_deployment(&id))
    }

    /// The plan that a request would get; nothing is changed.
    pub async fn dry_run(&self, app: &AppName, request: &Request) -> Result<(AppState, Planned), ErrorBody> {
        let known = self.slots.lock().await.get(app).cloned();
        let state = match known {
            Some(slot) => slot.state.lock().await.clone(),
            // The uid is only shown inside units, and none is written.
            None => AppState::new(app.clone(), 0),
        };
        let facts = self.host.facts(request, state.clone()).await?;
        Ok((state, plan::plan(request, &facts).map_err(|e| *e)?))
    }

    /// Undoes a running deployment.
    pub async fn abort(&self, id: &DeploymentId, failure: ErrorBody) -> Result<Deployment, ErrorBody> {
        let slots: Vec<Arc<Slot>> = self.slots.lock().await.values().cloned().collect();
        for slot in slots {
            let running = slot.running.lock().await.clone();
            let Some(running) = running.filter(|r| r.id == *id && !*r.ended.borrow()) else { continue };
            // A driver that ends at this moment takes no message; what it became is the answer.
            drop(running.control.send(Control::Abort(Box::new(failure))).await);
            break;
        }
        self.known(id).await?.ok_or_else(|| unknown_deployment(id))
    }

    /// Lets a release that undid itself be pushed again.
    pub async fn clear(&self, app: &AppName, label: Label) -> Result<(), ErrorBody> {
        let state = self.app(app).await?;
        let known = state.lock().await.releases.get(&label).map(|r| r.failure.is_some());
        if known != Some(true) {
            let message = format!("{label} of {app} is not marked as bad");
            return Err(ErrorBody::new(
                ErrorCode::WrongState,
                message,
                format!("deployd-ctl releases -a {app} lists them"),
            ));
        }
        let change = Change::Forget { labels: vec![label] };
        record::save(&self.store, &state, &[change], None).await.map_err(|e| store_failed(&e))
    }

    /// A deployment by its id, or by the id of a call that was answered with it.
    pub async fn known(&self, id: &DeploymentId) -> Result<Option<Deployment>, ErrorBody> {
        let alias = self.store.get_meta(alias(id)).await.map_err(|e| store_failed(&e))?;
        let id = alias.and_then(|a| a.parse().ok()).unwrap_or_else(|| id.clone());
        let Some(row) = self.store.get(&id).await.map_err(|e| store_failed(&e))? else { return Ok(None) };
        let rows = self.store.load(&id).await.map_err(|e| store_failed(&e))?;
        view::deployment(&row, &rows).map(Some)
    }

    /// What a running deployment does for a newer request: the watch ends early, or goes back.
    async fn make_way(
        &self,
        app: &AppName,
        current: &Running,
        request: &Request,
        id: &DeploymentId,
        origin: &Origin,
    ) -> Result<Option<Deployment>, ErrorBody> {
        let deployment = self.known(&current.id).await?.ok_or_else(|| unknown_deployment(&current.id))?;
        let watched = deployment.live && deployment.verdict.is_none() && deployment.watched_until.is_some();
        if let Request::Rollback { to } = request
            && current.kind == Kind::Push
            && (to.is_none() || *to == current.from)
            && current.from.is_some()
        {
            let who = if origin.by.is_empty() { "an operator".to_owned() } else { origin.by.clone() };
            let message = format!("{who} rolled {app} back");
            let hint = "push again when it is mended";
            let failure = ErrorBody::new(ErrorCode::Aborted, message, hint);
            let target = current.id.to_string();
            self.store.put_meta(alias(id), target).await.map_err(|e| store_failed(&e))?;
            drop(current.control.send(Control::Abort(Box::new(failure))).await);
            return self.known(&current.id).await;
        }
        if !watched {
            return Err(lease_held(app, &deployment));
        }
        drop(current.control.send(Control::Supersede).await);
        let mut ended = current.ended.clone();
        // The driver always ends; if it is gone, it has.
        drop(ended.wait_for(|e| *e).await);
        Ok(None)
    }

    /// Makes the plan durable and starts its driver; `None` when the id was known after all.
    async fn begin(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        id: DeploymentId,
        plan: Plan,
        origin: &Origin,
    ) -> Result<Option<Running>, ErrorBody> {
        let new = NewDeployment {
            id: id.clone(),
            app: plan.app.clone(),
            kind: plan.kind.to_string(),
            label: plan.to.map(|t| t.label),
            digest: None,
            request: json(origin)?,
            plan: json(&plan)?,
            boot_id: self.host.boot_id(),
            started: clock::now(),
        };
        match self.store.begin(new).await.map_err(|e| store_failed(&e))? {
            Begun::Known(_) => Ok(None),
            Begun::New => {
                let progress = Progress::new(&plan);
                Ok(Some(self.spawn(slot, id, plan, progress, 0)))
            }
        }
    }

    /// Starts a driver from where a deployment stands.
    fn spawn(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        id: DeploymentId,
        plan: Plan,
        progress: Progress,
        seq: u64,
    ) -> Running {
        let (control, receiver) = mpsc::channel(4);
        let (ended_tx, ended) = watch::channel(false);
        let running =
            Running { id: id.clone(), kind: plan.kind, from: plan.from.map(|t| t.label), control, ended };
        let span = info_span!("deployment", app = %plan.app, kind = %plan.kind, id = id.short());
        let recorder = Recorder {
            id,
            store: self.store.clone(),
            state: slot.state.clone(),
            seq,
            news: self.news.clone(),
            hold: self.hold,
        };
        let removes = plan.kind == Kind::Remove;
        let app = plan.app.clone();
        let driver = Driver { plan, progress, recorder, port: self.host.clone(), control: receiver };
        let this = self.clone();
        let work = async move {
            match driver.run().await {
                Ok(verdict) if removes && verdict == deployd_api::deployment::Verdict::Committed => {
                    this.slots.lock().await.remove(&app);
                }
                Ok(_) => {}
                Err(e) => {
                    error!(error = %e, "the deployment stands still: its journal cannot be written. {}", e.hint());
                }
            }
            ended_tx.send_replace(true);
            this.news.send_modify(|n| *n += 1);
        };
        tokio::spawn(work.instrument(span));
        running
    }

    /// Goes on with a deployment that the agent's end interrupted.
    pub async fn resume(
        self: &Arc<Self>,
        id: DeploymentId,
        plan: Plan,
        progress: Progress,
        seq: u64,
    ) -> Result<(), ErrorBody> {
        let slot = match self.slots.lock().await.get(&plan.app) {
            Some(slot) => slot.clone(),
            None => return Err(unknown_app(&plan.app)),
        };
        let running = self.spawn(&slot, id, plan, progress, seq);
        *slot.running.lock().await = Some(running);
        Ok(())
    }

    /// The app's slot; a push makes one.
    async fn slot(&self, app: &AppName, request: &Request) -> Result<Arc<Slot>, ErrorBody> {
        if let Some(slot) = self.slots.lock().await.get(app) {
            return Ok(slot.clone());
        }
        if !matches!(request, Request::Push { .. }) {
            return Err(unknown_app(app));
        }
        let uid = self.host.allocate_uid(app).await?;
        let mut slots = self.slots.lock().await;
        let slot =
            slots.entry(app.clone()).or_insert_with(|| Arc::new(Slot::new(AppState::new(app.clone(), uid))));
        let slot = slot.clone();
        drop(slots);
        let state = json(&*slot.state.lock().await)?;
        self.store.put_app(app, state, clock::now()).await.map_err(|e| store_failed(&e))?;
        Ok(slot)
    }
}

impl Slot {
    fn new(state: AppState) -> Self {
        Self { state: Arc::new(Mutex::new(state)), running: Mutex::new(None) }
    }
}

/// Where the deployment is noted that a rollback's call was answered with.
fn alias(id: &DeploymentId) -> String {
    format!("alias:{id}")
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, ErrorBody> {
    serde_json::to_string(value).map_err(|e| {
        ErrorBody::new(
            ErrorCode::Internal,
            format!("failed to write a document: {e}"),
            "please report this defect",
        )
    })
}

/// A failure of the store as an answer.
pub fn store_failed(e: &StoreError) -> ErrorBody {
    ErrorBody::new(ErrorCode::Internal, e.to_string(), e.hint())
}

fn unknown_app(app: &AppName) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::AppNotFound,
        format!("there is no app {app} on this host"),
        "deployd-ctl status --all lists the apps; deployd-ctl push DIR makes one",
    )
}

/// No such deployment.
pub fn unknown_deployment(id: &DeploymentId) -> ErrorBody {
    ErrorBody::new(
        ErrorCode::DeploymentNotFound,
        format!("there is no deployment {id} on this host"),
        "deployd-ctl status --all shows what runs",
    )
}

fn lease_held(app: &AppName, by: &Deployment) -> ErrorBody {
    let who = if by.origin.by.is_empty() { String::new() } else { format!(" by {}", by.origin.by) };
    let label = by.label.map(|l| format!(" {l}")).unwrap_or_default();
    let step = by.step.as_deref().unwrap_or("it is about to end");
    ErrorBody::new(
        ErrorCode::LeaseHeld,
        format!("{app} has a {} of{label} under way{who}", by.kind),
        format!("wait for it (deployd-ctl status -a {app}), or end it: deployd-ctl abort -a {app}"),
    )
    .cause("now", step)
}
