//! Takes requests: one deployment an app at a time, apps side by side.
//!
//! It knows the apps' states, plans requests against observed facts, makes plans durable and starts their
//! drivers. It is all that the HTTP handlers see; it never touches the host itself. `run` keeps a driver
//! going; `way` is what a running deployment does for a newer request; `leases` says who may change an app now;
//! `rollouts` keeps what a fleet is doing; `refusal` the answers that say no.

mod call;
mod claims;
mod fleet;
mod leases;
mod refusal;
mod rollouts;
mod run;
mod way;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use deployd_api::deployment::{Deployment, Kind};
use deployd_api::error::{ErrorBody, ErrorCode};
use deployd_api::ids::{AppName, DeploymentId, Label};
use deployd_api::release::Origin;
use deployd_core::action::{Action, UnitFile};
use deployd_core::lint;
use deployd_core::machine::Progress;
use deployd_core::plan::{self, Plan, Planned, Request};
use deployd_core::state::{AppState, Change};
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, watch};
use tracing::error;

use crate::driver::hold::Hold;
use crate::driver::{Control, Port, SharedState, clock, record};
use crate::store::journal::{Begun, NewDeployment};
use crate::store::{Store, StoreError};
use crate::view;

pub use call::Call;
pub use claims::Claims;
pub use leases::Claim;
use leases::Leases;
use refusal::{json, unknown_app, unreadable};
pub use refusal::{store_failed, unknown_deployment};
pub use rollouts::key as rollouts_key;

/// What only the real host knows, asked for once before a plan.
pub trait Observer: Send + Sync + 'static {
    /// Everything the planner may know.
    fn facts(
        &self,
        request: &Request,
        state: AppState,
        others: &Claims,
    ) -> impl Future<Output = Result<deployd_core::facts::Facts, ErrorBody>> + Send;
    /// Makes ready what a push needs before it is planned, and what may take its time.
    fn prepare(&self, app: &AppName, request: &Request)
    -> impl Future<Output = Result<(), ErrorBody>> + Send;
    /// The id of this boot.
    fn boot_id(&self) -> String;
    /// Whether this target, linked there, is what boots.
    fn is_committed(&self, target: &UnitFile, wanted_by: &str) -> bool;
    /// The uid that the next new app is given, if nobody comes between.
    fn next_uid(&self) -> impl Future<Output = Result<u32, ErrorBody>> + Send;
    /// Gives an app the uid that it keeps for ever.
    fn allocate_uid(&self, app: &AppName) -> impl Future<Output = Result<u32, ErrorBody>> + Send;
}

/// A deployment that runs.
#[derive(Debug, Clone)]
struct Running {
    id: DeploymentId,
    kind: Kind,
    from: Option<Label>,
    claims: Arc<Claims>,
    control: mpsc::Sender<Control>,
    /// Becomes true when it has its verdict.
    ended: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Slot {
    state: SharedState,
    /// Held from the look at what runs until the new deployment is durable: requests queue here, and the
    /// janitor keeps away.
    gate: Arc<Mutex<()>>,
    /// What runs. Never held over an await: whoever asks for the status must not queue.
    running: StdMutex<Option<Running>>,
}

/// See the module.
#[derive(Debug)]
pub struct Supervisor<H> {
    store: Store,
    host: Arc<H>,
    slots: Mutex<BTreeMap<AppName, Arc<Slot>>>,
    /// Held from the look at the host until a plan is durable: no two plans get the same port.
    planning: Mutex<()>,
    /// Apps whose state cannot be read, and why: nothing is done to them.
    unreadable: BTreeMap<AppName, String>,
    leases: Leases,
    /// Held while the record of a rollout is written.
    rollouts: Mutex<()>,
    news: watch::Sender<u64>,
    hold: Option<Hold>,
}

impl<H: Port + Observer> Supervisor<H> {
    /// With the apps that the store knows.
    pub async fn open(store: Store, host: Arc<H>, hold: Option<Hold>) -> Result<Arc<Self>, StoreError> {
        let (mut slots, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
        for row in store.load_apps().await? {
            match serde_json::from_str::<AppState>(&row.state) {
                Ok(state) => {
                    slots.insert(row.app, Arc::new(Slot::new(state)));
                }
                Err(e) => {
                    error!(app = %row.app, error = %e, "the app's state cannot be read: it is left alone");
                    unreadable.insert(row.app, e.to_string());
                }
            }
        }
        let (news, _) = watch::channel(0);
        let leases = Leases::new(store.clone(), host.boot_id());
        Ok(Arc::new(Self {
            leases,
            rollouts: Mutex::new(()),
            store,
            host,
            slots: Mutex::new(slots),
            planning: Mutex::new(()),
            unreadable,
            news,
            hold,
        }))
    }

    /// The store, for readers.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The host, for readers.
    pub fn host(&self) -> &Arc<H> {
        &self.host
    }

    /// Apps whose state cannot be read, and why: nothing is done to them.
    pub fn unreadable(&self) -> &BTreeMap<AppName, String> {
        &self.unreadable
    }

    /// Changes whenever any deployment wrote a record.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The apps that the host knows, with their states.
    pub async fn apps(&self) -> Vec<(AppName, SharedState)> {
        let slots = self.slots.lock().await;
        let mut apps = Vec::new();
        for (app, slot) in slots.iter() {
            if slot.is_known().await {
                apps.push((app.clone(), slot.state.clone()));
            }
        }
        apps
    }

    /// The state of an app, if the host knows it.
    pub async fn app(&self, app: &AppName) -> Result<SharedState, ErrorBody> {
        let slot = self.slots.lock().await.get(app).cloned();
        match (slot, self.unreadable.get(app)) {
            (_, Some(why)) => Err(unreadable(app, why)),
            (Some(slot), None) if slot.is_known().await => Ok(slot.state.clone()),
            _ => Err(unknown_app(app)),
        }
    }

    /// The deployment that runs for an app.
    pub async fn running(&self, app: &AppName) -> Option<DeploymentId> {
        let slot = self.slots.lock().await.get(app).cloned()?;
        slot.running().map(|r| r.id)
    }

    /// Whether anybody asked for this app since the agent began; perhaps nothing of it is written down yet.
    pub async fn has(&self, app: &AppName) -> bool {
        self.slots.lock().await.contains_key(app)
    }

    /// Keeps an app as it is: nothing is deployed while the guard lives. `None` while something is.
    pub async fn keep_idle(&self, app: &AppName) -> Option<OwnedMutexGuard<()>> {
        let slot = self.slots.lock().await.get(app).cloned()?;
        let guard = slot.gate.clone().try_lock_owned().ok()?;
        slot.running().is_none().then_some(guard)
    }

    /// Carries a request out: returns once its plan is durable, or it is refused. A caller who goes away
    /// meanwhile changes nothing: a durable plan without a driver would hold the app.
    pub async fn submit(
        self: &Arc<Self>,
        app: &AppName,
        call: Call,
        request: Request,
    ) -> Result<Deployment, ErrorBody> {
        let (this, app) = (self.clone(), app.clone());
        let work = async move { this.accept(&app, call, request).await };
        tokio::spawn(work).await.unwrap_or_else(|e| Err(refusal::broken(&e)))
    }

    async fn accept(
        self: &Arc<Self>,
        app: &AppName,
        call: Call,
        request: Request,
    ) -> Result<Deployment, ErrorBody> {
        if let Some(known) = self.known(&call.id).await? {
            return Ok(known);
        }
        let slot = self.slot(app, &request).await?;
        let _gate = slot.gate.lock().await;
        self.admit(app, &call, &slot).await?;
        let Call { id, origin, .. } = call;
        if let Some(current) = slot.running()
            && let Some(instead) = self.make_way(app, &current, &request, &id, &origin).await?
        {
            return Ok(instead);
        }
        // Not while others wait for their plans.
        self.host.prepare(app, &request).await?;
        let _planning = self.planning.lock().await;
        let mut state = slot.state.lock().await.clone();
        let is_new = !slot.is_known().await;
        if is_new {
            // Nothing is written before the request is known not to be refused.
            state.uid = self.host.next_uid().await?;
        }
        let mut planned = self.plan(app, &request, state.clone()).await?;
        if is_new && matches!(planned, Planned::Plan(_)) {
            let uid = self.host.allocate_uid(app).await?;
            if uid != state.uid {
                state.uid = uid;
                planned = self.plan(app, &request, state.clone()).await?;
            }
        }
        let plan = match planned {
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
        if is_new {
            self.store.put_app(app, json(&state)?, clock::now()).await.map_err(|e| store_failed(&e))?;
            *slot.state.lock().await = state;
        }
        match self.begin(&slot, id.clone(), plan, &origin).await? {
            Some(new) => slot.set_running(new),
            None => return self.known(&id).await?.ok_or_else(|| unknown_deployment(&id)),
        }
        self.known(&id).await?.ok_or_else(|| unknown_deployment(&id))
    }

    /// Whether the call may be carried out at all: looked at before anything makes way for it.
    async fn admit(&self, app: &AppName, call: &Call, slot: &Slot) -> Result<(), ErrorBody> {
        self.leases.check(app, call.lease.as_ref()).await?;
        if call.expect.is_some() {
            let secrets = self.store.secret_versions(app).await.map_err(|e| store_failed(&e))?;
            plan::refuse_stale(call.expect, &*slot.state.lock().await, &secrets).map_err(|e| *e)?;
        }
        Ok(())
    }

    /// What is to be done, now that all files are there.
    async fn plan(&self, app: &AppName, request: &Request, state: AppState) -> Result<Planned, ErrorBody> {
        let claims = self.claims_beside(&state).await;
        let facts = self.host.facts(request, state, &claims).await?;
        let planned = plan::plan(request, &facts).map_err(|e| *e)?;
        let seals = |plan: &Plan| plan.steps.iter().any(|s| matches!(s.action, Action::Seal { .. }));
        let takes_files = matches!(&planned, Planned::Plan(plan) if seals(plan));
        if takes_files && facts.artifact.as_ref().is_some_and(|a| !a.complete) {
            let message = format!("files of this artifact of {app} have not arrived");
            let hint = "push again: it goes on where it stopped";
            return Err(ErrorBody::new(ErrorCode::UploadIncomplete, message, hint));
        }
        Ok(planned)
    }

    /// The ports of all other apps, and what programs of this one have.
    pub async fn claims_beside(&self, own: &AppState) -> Claims {
        let slots = self.slots.lock().await.clone();
        let mut claims = Claims::default();
        claims.add_state(own);
        for (_, slot) in slots.iter().filter(|(other, _)| **other != own.app) {
            claims.add_state(&*slot.state.lock().await);
            if let Some(running) = slot.running() {
                claims.add(&running.claims);
            }
        }
        claims
    }

    /// Undoes a running deployment.
    pub async fn abort(&self, id: &DeploymentId, failure: ErrorBody) -> Result<Deployment, ErrorBody> {
        let slots: Vec<Arc<Slot>> = self.slots.lock().await.values().cloned().collect();
        for slot in slots {
            let Some(running) = slot.running().filter(|r| r.id == *id) else { continue };
            // A step that cannot be left goes on first, perhaps in another life of the agent.
            let noted = self.store.put_meta(abort(id), json(&failure)?).await;
            noted.map_err(|e| store_failed(&e))?;
            // A driver that ends at this moment, or undoes already, takes no message; what it became is
            // the answer.
            drop(running.control.try_send(Control::Abort(Box::new(failure))));
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
        let change = Change::Clear { label };
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
                Ok(Some(self.spawn(slot, id, plan, progress, 0, None)))
            }
        }
    }

    /// Goes on with a deployment that the agent's end interrupted.
    pub async fn resume(
        self: &Arc<Self>,
        id: DeploymentId,
        plan: Plan,
        progress: Progress,
        seq: u64,
    ) -> Result<(), ErrorBody> {
        if let Some(why) = self.unreadable.get(&plan.app) {
            return Err(unreadable(&plan.app, why));
        }
        // Of an app that is forgotten already only the verdict is missing.
        let new = || Arc::new(Slot::new(AppState::new(plan.app.clone(), AppState::NOT_TAKEN_IN)));
        let slot = self.slots.lock().await.entry(plan.app.clone()).or_insert_with(new).clone();
        let asked = self.store.get_meta(abort(&id)).await.map_err(|e| store_failed(&e))?;
        let failure = asked.and_then(|text| serde_json::from_str(&text).ok());
        let asked = failure.map(|failure| Control::Abort(Box::new(failure)));
        let running = self.spawn(&slot, id, plan, progress, seq, asked);
        slot.set_running(running);
        Ok(())
    }

    /// The app's slot. A push makes one: requests queue in it, and nobody sees it before a plan was made.
    async fn slot(&self, app: &AppName, request: &Request) -> Result<Arc<Slot>, ErrorBody> {
        if let Some(why) = self.unreadable.get(app) {
            return Err(unreadable(app, why));
        }
        let mut slots = self.slots.lock().await;
        match slots.get(app) {
            Some(slot) if slot.is_known().await => return Ok(slot.clone()),
            _ if !matches!(request, Request::Push(_)) => return Err(unknown_app(app)),
            _ => {}
        }
        let new = || Arc::new(Slot::new(AppState::new(app.clone(), AppState::NOT_TAKEN_IN)));
        Ok(slots.entry(app.clone()).or_insert_with(new).clone())
    }
}

impl Slot {
    fn new(state: AppState) -> Self {
        let gate = Arc::new(Mutex::new(()));
        Self { state: Arc::new(Mutex::new(state)), gate, running: StdMutex::new(None) }
    }

    /// The deployment that has no verdict yet.
    fn running(&self) -> Option<Running> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().filter(|r| !*r.ended.borrow()).cloned()
    }

    fn set_running(&self, new: Running) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(new);
    }

    /// Whether the host has taken the app in.
    async fn is_known(&self) -> bool {
        self.state.lock().await.is_taken_in()
    }
}

/// Where the deployment is noted that a rollback's call was answered with.
fn alias(id: &DeploymentId) -> String {
    format!("alias:{id}")
}

/// Where it is noted that a deployment is to be undone.
fn abort(id: &DeploymentId) -> String {
    format!("abort:{id}")
}
