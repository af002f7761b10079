//! The region of a project that a host stands for, and what this process remembers of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_core::host::Host;
use gantry_core::{Failure, HostId};
use gantry_worker::executor::Health;
use gantry_worker::secrets::Secrets;

use crate::client::{Api, Trouble};
use crate::config::Connection;
use crate::credentials::Credentials;
use crate::flight::Flights;
use crate::logs::Seen;
use crate::loki::Loki;
use crate::memory::Memory;
use crate::size::Size;
use crate::wire::{Definition, Definitions, Resources, Run, Runs};

/// How many entries of a list are asked for at once; the service may give fewer.
const PAGE: &str = "100";
/// How long the sizes on offer are taken to be the same.
const SIZES_KEPT: Duration = Duration::from_secs(3_600);
/// The least and greatest time that two looks at all runs are apart, however many ask.
const LOOK_KEPT: Duration = Duration::from_millis(500);

/// One region of one project.
pub(crate) struct Place {
    pub(crate) connection: Connection,
    credentials: Credentials,
    pub(crate) api: Api,
    pub(crate) loki: Option<Loki>,
    /// The ids of definitions by the hash of their content.
    pub(crate) definitions: Flights<String, String>,
    sizes: Flights<(), Arc<Vec<Size>>>,
    active: Flights<(), Arc<Vec<Run>>>,
    recent: Flights<i64, Arc<Vec<Run>>>,
    /// The ids of runs that this process launched, by name.
    pub(crate) launched: Memory<String>,
    /// The ids of runs that this process was told to remove.
    pub(crate) removed: Memory<()>,
    /// Since when this process has been asking for what it does not see: names, ids, exit codes.
    pub(crate) asked: Memory<Instant>,
    /// What the logs need to know of runs.
    pub(crate) seen: Memory<Seen>,
    /// The names of definitions, by their ids.
    pub(crate) names: Memory<String>,
}

impl Place {
    fn new(connection: Connection, credentials: Credentials) -> Result<Self, Failure> {
        let api = Api::new(&connection.api_url, &connection.region, credentials.secret_key.clone())?;
        let loki = connection.logs.as_ref().map(|logs| Loki::new(logs, &credentials)).transpose()?;
        Ok(Self {
            connection,
            credentials,
            api,
            loki,
            definitions: Flights::default(),
            sizes: Flights::default(),
            active: Flights::default(),
            recent: Flights::default(),
            launched: Memory::default(),
            removed: Memory::default(),
            asked: Memory::default(),
            seen: Memory::default(),
            names: Memory::default(),
        })
    }

    /// Whether the service answers, and this project's key is good.
    pub(crate) async fn check(&self) -> Result<Health, Failure> {
        let query = [("project_id", self.connection.project.as_str()), ("page_size", "1")];
        let found: Definitions = self.api.get("/job-definitions", &query).await.map_err(|trouble| {
            let mut failure = trouble.failure("list definitions");
            if matches!(trouble, Trouble::Refused { status: 401 | 403, .. }) {
                let name = &self.connection.credentials;
                failure.message = format!("{}; look at the API key of the credentials {name:?}", failure.message);
            }
            failure
        })?;
        let (count, region) = (found.total_count.unwrap_or_default(), &self.connection.region);
        Ok(Health {
            identity: self.identity(),
            detail: format!("Serverless Jobs in {region}: {count} definitions in the project"),
        })
    }

    /// Which place this is, to everybody and for ever.
    fn identity(&self) -> String {
        format!("{} {} {}", self.connection.api_url, self.connection.region, self.connection.project)
    }

    /// Whether the service had time enough to show what is asked for under `key`, counted from the first time that
    /// this process asked in vain.
    pub(crate) fn is_settled(&self, key: &str, within: Duration) -> bool {
        self.asked.first(key, Instant::now()).elapsed() >= within
    }

    /// All definitions of the project.
    pub(crate) async fn all_definitions(&self) -> Result<Vec<Definition>, Trouble> {
        let mut all: Vec<Definition> = Vec::new();
        for page in 1.. {
            let page = page.to_string();
            let query = [("project_id", self.connection.project.as_str()), ("page", &page), ("page_size", PAGE)];
            let found: Definitions = self.api.get("/job-definitions", &query).await?;
            let over = found.job_definitions.is_empty();
            all.extend(found.job_definitions);
            if over || is_all(all.len(), found.total_count) {
                break;
            }
        }
        Ok(all)
    }

    /// The sizes on offer; none if the service takes any.
    pub(crate) async fn sizes(self: &Arc<Self>) -> Result<Arc<Vec<Size>>, Failure> {
        let place = Arc::clone(self);
        let ask = async move || match place.api.get::<Resources>("/job-resources", &[]).await {
            Ok(offered) => Ok(Arc::new(offered.resources.into_iter().map(Size::from).collect())),
            Err(Trouble::Refused { status: 403 | 404, .. }) => Ok(Arc::default()),
            Err(trouble) => Err(trouble.failure("list the sizes on offer")),
        };
        self.sizes.join((), SIZES_KEPT, ask).await
    }

    /// The runs that are not over. One that changes its state while the list is read may be missing.
    pub(crate) async fn active(self: &Arc<Self>) -> Result<Arc<Vec<Run>>, Failure> {
        let place = Arc::clone(self);
        let ask = async move || {
            let states = crate::wire::ACTIVE.map(|state| ("states", state));
            let mut query = vec![("project_id", place.connection.project.as_str()), ("order_by", "created_at_asc")];
            query.extend(states);
            place.runs(&query, |_| false).await.map(Arc::new).map_err(|trouble| trouble.failure("list the active runs"))
        };
        self.active.join((), LOOK_KEPT, ask).await
    }

    /// Every run, over or not, that was made since `since`, a Unix time in seconds, and some that are older. The
    /// newest come first, so that one made meanwhile moves the others back and hides none.
    pub(crate) async fn recent(self: &Arc<Self>, since: i64) -> Result<Arc<Vec<Run>>, Failure> {
        // By the hour, so that those who look for jobs of about one age share the list.
        let hour = since.div_euclid(3_600);
        let place = Arc::clone(self);
        let ask = async move || {
            let query = [("project_id", place.connection.project.as_str()), ("order_by", "created_at_desc")];
            let older = |run: &Run| run.created_at.is_some_and(|at| at.timestamp() < hour * 3_600);
            place.runs(&query, older).await.map(Arc::new).map_err(|trouble| trouble.failure("list the runs"))
        };
        self.recent.join(hour, LOOK_KEPT, ask).await
    }

    /// The newest runs, over or not: one page.
    pub(crate) async fn newest(&self) -> Result<Vec<Run>, Trouble> {
        let project = self.connection.project.as_str();
        let query = [("project_id", project), ("order_by", "created_at_desc")];
        self.runs(&query, |_| true).await
    }

    /// What was listed before is older than what just happened.
    pub(crate) fn forget_lists(&self) {
        self.active.forget(&());
    }

    /// One run; none if the service says that there is no such run.
    pub(crate) async fn run(&self, id: &str) -> Result<Option<Run>, Trouble> {
        match self.api.get(&format!("/job-runs/{id}"), &[]).await {
            Ok(run) => Ok(Some(run)),
            Err(trouble) if trouble.is_not_found() => Ok(None),
            Err(trouble) => Err(trouble),
        }
    }

    /// The pages of a list, up to and including the one that ends with a run for which `enough` holds.
    async fn runs(&self, query: &[(&str, &str)], enough: impl Fn(&Run) -> bool) -> Result<Vec<Run>, Trouble> {
        let mut all: Vec<Run> = Vec::new();
        for page in 1.. {
            let page = page.to_string();
            let mut query = query.to_vec();
            query.extend([("page", page.as_str()), ("page_size", PAGE)]);
            let found: Runs = self.api.get("/job-runs", &query).await?;
            let over = found.job_runs.last().is_none_or(&enough);
            all.extend(found.job_runs);
            if over || is_all(all.len(), found.total_count) {
                break;
            }
        }
        Ok(all)
    }
}

fn is_all(listed: usize, total: Option<u64>) -> bool {
    total.is_some_and(|total| listed as u64 >= total)
}

/// The places of all hosts asked about so far.
pub(crate) struct Places {
    secrets: Secrets,
    by_host: Mutex<HashMap<HostId, Arc<Place>>>,
}

impl Places {
    pub(crate) fn new(secrets: Secrets) -> Self {
        Self { secrets, by_host: Mutex::default() }
    }

    /// The host's place; a new one when the host's connection config has changed.
    pub(crate) fn of(&self, host: &Host) -> Result<Arc<Place>, Failure> {
        let connection = Connection::of(host)?;
        if let Some(place) = self.known(host)
            && place.connection == connection
        {
            return Ok(place);
        }
        self.renewed(host)
    }

    /// The host's place; a new one when its credentials have changed, too.
    pub(crate) fn renewed(&self, host: &Host) -> Result<Arc<Place>, Failure> {
        let connection = Connection::of(host)?;
        let credentials = Credentials::of(&connection, &self.secrets)?;
        if let Some(place) = self.known(host)
            && place.connection == connection
            && place.credentials == credentials
        {
            return Ok(place);
        }
        let place = Arc::new(Place::new(connection, credentials)?);
        self.by_host.lock().unwrap_or_else(PoisonError::into_inner).insert(host.id, Arc::clone(&place));
        Ok(place)
    }

    fn known(&self, host: &Host) -> Option<Arc<Place>> {
        self.by_host.lock().unwrap_or_else(PoisonError::into_inner).get(&host.id).cloned()
    }
}
