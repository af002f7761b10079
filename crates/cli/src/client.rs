//! Gantry's HTTP API, as its clients see it.

use std::time::Duration;

use gantry_api::wire::{
    AbandonReply, AbandonRequest, Accepted, AuditList, BulkOperation, BulkReply, BulkRequest, CancelReply, CostList,
    Cursor, DrainRequest, DropRequest, EnvironmentList, EnvironmentTemplate, HostCreated, HostList, HostLostRequest,
    HostPatch, HostReply, JobDetail, JobList, LetterDetail, LetterList, LettersReply, LimitList, LimitRequest, LogPage,
    NewEnvironment, NewHost, NewSchedule, Overview, ProblemDetails, ReplayRequest, RouteExplanation, Schedule,
    ScheduleList, ScheduleRunList, SlotList, Template, TemplateList, Why,
};
use gantry_core::spec::Submission;
use gantry_core::{BulkId, JobId, LetterId};
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, USER_AGENT};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A stream that is silent for so long is dead: the API sends a comment far more often.
const SILENCE: Duration = Duration::from_secs(60);
/// How often a submission is sent again when its answer was lost; its key makes that harmless.
const SUBMISSION_RETRIES: u32 = 3;

/// A connection to the API. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    base: Url,
}

impl Client {
    /// A client of the API at `base`, which speaks for the tenant of `key`.
    pub(crate) fn new(base: &Url, key: Option<&str>) -> Result<Self> {
        let key = key.filter(|key| !key.is_empty()).ok_or(Error::NoKey)?;
        let mut authorization = HeaderValue::try_from(format!("Bearer {key}"))
            .map_err(|_| Error::Usage("the API key has characters that no key has".into()))?;
        authorization.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (reqwest::header::AUTHORIZATION, authorization),
            (USER_AGENT, HeaderValue::from_static(concat!("gantry/", env!("CARGO_PKG_VERSION")))),
        ]);
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(SILENCE)
            .build()
            .map_err(|error| Error::Lost { url: base.clone(), cause: root(&error) })?;
        Ok(Self { http, base: base.clone() })
    }

    /// Submits a job, again if the answer was lost. It must carry an idempotency key.
    pub(crate) async fn submit(&self, submission: &Submission) -> Result<Accepted> {
        let mut retries = 0;
        loop {
            match self.json(self.request(Method::POST, "v1/jobs").json(submission)).await {
                Err(error)
                    if error.is_temporary()
                        && !matches!(error, Error::Unreachable { .. })
                        && retries < SUBMISSION_RETRIES =>
                {
                    tokio::time::sleep(Duration::from_millis(200) * 2u32.pow(retries)).await;
                    retries += 1;
                }
                answer => return answer,
            }
        }
    }

    /// A page of jobs, newest first.
    pub(crate) async fn jobs(&self, query: &impl Serialize) -> Result<JobList> {
        self.json(self.request(Method::GET, "v1/jobs").query(query)).await
    }

    /// A job; with `wait`, when it has ended or that time is up.
    pub(crate) async fn job(&self, id: JobId, wait: Option<Duration>) -> Result<JobDetail> {
        let mut request = self.request(Method::GET, &format!("v1/jobs/{id}"));
        if let Some(wait) = wait {
            request = request.query(&[("wait", format!("{}ms", wait.as_millis()))]).timeout(wait + REQUEST_TIMEOUT);
        }
        self.json(request).await
    }

    /// Asks for something to be done to many jobs, or counts what it would be.
    pub(crate) async fn start_bulk(&self, request: &BulkRequest) -> Result<BulkReply> {
        self.json(self.request(Method::POST, "v1/jobs/bulk").json(request)).await
    }

    /// How far that has come.
    pub(crate) async fn bulk(&self, id: BulkId) -> Result<BulkOperation> {
        self.json(self.request(Method::GET, &format!("v1/bulk/{id}"))).await
    }

    /// Stops it.
    pub(crate) async fn stop_bulk(&self, id: BulkId) -> Result<BulkOperation> {
        self.json(self.request(Method::POST, &format!("v1/bulk/{id}/stop"))).await
    }

    /// Why a job is where it is.
    pub(crate) async fn why(&self, id: JobId) -> Result<Why> {
        self.json(self.request(Method::GET, &format!("v1/jobs/{id}/why"))).await
    }

    /// Where a job would go.
    pub(crate) async fn explain_route(&self, submission: &Value) -> Result<RouteExplanation> {
        self.json(self.request(Method::POST, "v1/route/explain").json(submission)).await
    }

    /// Asks for a job's end.
    pub(crate) async fn cancel(&self, id: JobId) -> Result<CancelReply> {
        self.json(self.request(Method::POST, &format!("v1/jobs/{id}/cancel"))).await
    }

    /// A page of a job's log.
    pub(crate) async fn logs(&self, id: JobId, after: Cursor) -> Result<LogPage> {
        self.json(self.request(Method::GET, &format!("v1/jobs/{id}/logs")).query(&[("after", after.to_string())])).await
    }

    /// A job's log from behind `after` to its end, as a stream of server-sent events.
    pub(crate) async fn follow(&self, id: JobId, after: Cursor) -> Result<Response> {
        let request = self
            .http
            .get(self.url(&format!("v1/jobs/{id}/logs")))
            .query(&[("follow", "true")])
            .header(ACCEPT, "text/event-stream")
            .header("Last-Event-ID", after.to_string());
        self.send(request).await
    }

    /// The hosts that this tenant's jobs may run on.
    pub(crate) async fn hosts(&self) -> Result<HostList> {
        self.json(self.request(Method::GET, "v1/hosts")).await
    }

    /// The tenant's limits.
    pub(crate) async fn limits(&self) -> Result<LimitList> {
        self.json(self.request(Method::GET, "v1/limits")).await
    }

    /// Sets one of them.
    pub(crate) async fn set_limit(&self, request: &LimitRequest) -> Result<()> {
        self.send(self.request(Method::PUT, "v1/limits").json(request)).await.map(drop)
    }

    /// Gives a job's open attempt up.
    pub(crate) async fn abandon(&self, id: JobId, request: &AbandonRequest) -> Result<AbandonReply> {
        self.json(self.request(Method::POST, &format!("v1/jobs/{id}/abandon")).json(request)).await
    }

    /// Declares a host lost, by its name or id.
    pub(crate) async fn host_lost(&self, host: &str, request: &HostLostRequest) -> Result<HostReply> {
        self.json(self.host_request(host, "lost").json(request)).await
    }

    /// Lets a host take jobs again.
    pub(crate) async fn activate_host(&self, host: &str) -> Result<HostReply> {
        self.json(self.host_request(host, "activate")).await
    }

    /// Lets a host take no new jobs.
    pub(crate) async fn cordon_host(&self, host: &str) -> Result<HostReply> {
        self.json(self.host_request(host, "cordon")).await
    }

    /// Empties a host.
    pub(crate) async fn drain_host(&self, host: &str, request: &DrainRequest) -> Result<HostReply> {
        self.json(self.host_request(host, "drain").json(request)).await
    }

    /// Changes a host.
    pub(crate) async fn change_host(&self, host: &str, patch: &HostPatch) -> Result<HostReply> {
        self.json(self.http.patch(self.host_url(host)).timeout(REQUEST_TIMEOUT).json(patch)).await
    }

    /// Who holds slots.
    pub(crate) async fn slots(&self, query: &impl Serialize) -> Result<SlotList> {
        self.json(self.request(Method::GET, "v1/slots").query(query)).await
    }

    /// Everything at a glance.
    pub(crate) async fn overview(&self) -> Result<Overview> {
        self.json(self.request(Method::GET, "v1/overview")).await
    }

    /// A page of costs.
    pub(crate) async fn costs(&self, query: &impl Serialize) -> Result<CostList> {
        self.json(self.request(Method::GET, "v1/costs").query(query)).await
    }

    /// What operators did, newest first.
    pub(crate) async fn audit(&self, query: &impl Serialize) -> Result<AuditList> {
        self.json(self.request(Method::GET, "v1/audit").query(query)).await
    }

    /// Dead letters, newest first.
    pub(crate) async fn letters(&self, query: &impl Serialize) -> Result<LetterList> {
        self.json(self.request(Method::GET, "v1/dead-letters").query(query)).await
    }

    /// A dead letter with what it holds.
    pub(crate) async fn letter(&self, id: LetterId) -> Result<LetterDetail> {
        self.json(self.request(Method::GET, &format!("v1/dead-letters/{id}"))).await
    }

    /// Asks for dead letters to be replayed.
    pub(crate) async fn replay_letters(&self, request: &ReplayRequest) -> Result<LettersReply> {
        self.json(self.request(Method::POST, "v1/dead-letters/replay").json(request)).await
    }

    /// Drops dead letters.
    pub(crate) async fn drop_letters(&self, request: &DropRequest) -> Result<LettersReply> {
        self.json(self.request(Method::POST, "v1/dead-letters/drop").json(request)).await
    }

    /// Adds a host.
    pub(crate) async fn add_host(&self, host: &NewHost) -> Result<HostCreated> {
        self.json(self.request(Method::POST, "v1/hosts").json(host)).await
    }

    /// Makes a container template, or replaces the one of this name.
    pub(crate) async fn put_template(&self, name: &str, template: &Value) -> Result<Template> {
        self.json(self.named_request(Method::PUT, "v1/templates", &[name]).json(template)).await
    }

    /// Container templates, by name.
    pub(crate) async fn templates(&self, query: &impl Serialize) -> Result<TemplateList> {
        self.json(self.request(Method::GET, "v1/templates").query(query)).await
    }

    /// A container template.
    pub(crate) async fn template(&self, name: &str) -> Result<Template> {
        self.json(self.named_request(Method::GET, "v1/templates", &[name])).await
    }

    /// Makes an environment template, or replaces the one of this name.
    pub(crate) async fn put_environment(&self, name: &str, new: &NewEnvironment) -> Result<EnvironmentTemplate> {
        self.json(self.named_request(Method::PUT, "v1/environments", &[name]).json(new)).await
    }

    /// Environment templates, by name.
    pub(crate) async fn environments(&self, query: &impl Serialize) -> Result<EnvironmentList> {
        self.json(self.request(Method::GET, "v1/environments").query(query)).await
    }

    /// Makes a schedule, or replaces the one of this name.
    pub(crate) async fn put_schedule(&self, name: &str, new: &NewSchedule) -> Result<Schedule> {
        self.json(self.schedule_request(Method::PUT, &[name]).json(new)).await
    }

    /// Schedules, by name.
    pub(crate) async fn schedules(&self, query: &impl Serialize) -> Result<ScheduleList> {
        self.json(self.schedule_request(Method::GET, &[]).query(query)).await
    }

    /// A schedule.
    pub(crate) async fn schedule(&self, name: &str) -> Result<Schedule> {
        self.json(self.schedule_request(Method::GET, &[name])).await
    }

    /// What became of a schedule's due times, newest first.
    pub(crate) async fn schedule_runs(&self, name: &str, query: &impl Serialize) -> Result<ScheduleRunList> {
        self.json(self.schedule_request(Method::GET, &[name, "runs"]).query(query)).await
    }

    /// Lets a schedule submit nothing.
    pub(crate) async fn pause_schedule(&self, name: &str) -> Result<Schedule> {
        self.json(self.schedule_request(Method::POST, &[name, "pause"])).await
    }

    /// Lets a schedule go on.
    pub(crate) async fn resume_schedule(&self, name: &str) -> Result<Schedule> {
        self.json(self.schedule_request(Method::POST, &[name, "resume"])).await
    }

    /// Makes a job of a schedule now.
    pub(crate) async fn trigger_schedule(&self, name: &str) -> Result<Accepted> {
        self.json(self.schedule_request(Method::POST, &[name, "trigger"])).await
    }

    /// Deletes a schedule.
    pub(crate) async fn delete_schedule(&self, name: &str) -> Result<()> {
        self.send(self.schedule_request(Method::DELETE, &[name])).await.map(drop)
    }

    /// What became of a stream that broke.
    pub(crate) fn lost(&self, error: &reqwest::Error) -> Error {
        Error::Lost { url: self.base.clone(), cause: root(error) }
    }

    /// What became of a stream that ended too early.
    pub(crate) fn closed(&self) -> Error {
        Error::Lost { url: self.base.clone(), cause: "the stream ended before the log did".to_owned() }
    }

    /// An answer that cannot be understood.
    pub(crate) fn not_gantry(&self, status: StatusCode, cause: impl ToString) -> Error {
        Error::NotGantry { url: self.base.clone(), status, cause: cause.to_string() }
    }

    fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        // An API behind a proxy may have a path of its own.
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url
    }

    /// A deed on one host, whose name may contain anything.
    fn host_request(&self, host: &str, deed: &str) -> RequestBuilder {
        let mut url = self.host_url(host);
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(deed);
        }
        self.http.post(url).timeout(REQUEST_TIMEOUT)
    }

    /// A request about schedules.
    fn schedule_request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.named_request(method, "v1/schedules", path)
    }

    /// A request about one of many that have names; a name may contain anything.
    fn named_request(&self, method: Method, all: &str, path: &[&str]) -> RequestBuilder {
        let mut url = self.url(all);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        self.http.request(method, url).timeout(REQUEST_TIMEOUT)
    }

    fn host_url(&self, host: &str) -> Url {
        let mut url = self.url("v1/hosts");
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(host);
        }
        url
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path)).timeout(REQUEST_TIMEOUT)
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        let response = self.send(request).await?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.lost(&error))?;
        serde_json::from_slice(&body).map_err(|error| self.not_gantry(status, error))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| match error.is_connect() {
            true => Error::Unreachable { url: self.base.clone(), cause: root(&error) },
            false => self.lost(&error),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| self.lost(&error))?;
        Err(match serde_json::from_slice::<ProblemDetails>(&body) {
            Ok(problem) => Error::Refused(Box::new(problem)),
            Err(_) => {
                let text = String::from_utf8_lossy(&body);
                self.not_gantry(status, text.chars().take(200).collect::<String>().trim())
            }
        })
    }
}

/// The innermost cause: the outer ones only say that a request failed.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if error.is_timeout() { "no answer in time".to_owned() } else { cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(base: &str) -> Client {
        // Tests run in one process or in many: either way one of them is the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::new(&base.parse().expect("an address"), Some("key")).expect("a client")
    }

    #[test]
    fn an_api_may_have_a_path_of_its_own() {
        assert_eq!(client("http://h:1").url("v1/jobs").as_str(), "http://h:1/v1/jobs");
        assert_eq!(client("http://h:1/gantry/").url("v1/jobs").as_str(), "http://h:1/gantry/v1/jobs");
    }

    #[test]
    fn a_key_is_needed_and_never_printed() {
        let base = "http://h".parse().expect("an address");
        assert!(matches!(Client::new(&base, None), Err(Error::NoKey)));
        assert!(matches!(Client::new(&base, Some("")), Err(Error::NoKey)));
        assert!(matches!(Client::new(&base, Some("a\nb")), Err(Error::Usage(_))));
        assert!(!format!("{:?}", client("http://h")).contains("Bearer"));
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_address_and_the_remedy() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        drop(listener);
        let error = client(&address).hosts().await.expect_err("nobody listens");
        let text = error.to_string();
        assert!(text.contains(&address) && text.contains("refused") && text.contains("gantry dev"), "{text}");
        assert_eq!(error.code(), "unreachable");
    }
}
