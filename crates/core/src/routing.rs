//! Which executor type a job goes to.
//!
//! [`route`] decides when the job comes; [`failover`] when the place that it went to refuses it.

pub mod failover;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ExecutorType;
use crate::problem::{Code, Problem};

/// What routing looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// The job's own wish.
    pub preferred: Option<ExecutorType>,
    /// What the template supports, in its order; empty means everything.
    pub supported: &'a [ExecutorType],
    /// The executor types that have an active host for this tenant.
    pub with_active_host: &'a [ExecutorType],
}

/// The way a job goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The executor.
    pub executor: ExecutorType,
    /// Why, in words.
    pub reason: String,
    /// Whether an active host was there when the job came; a job without one is accepted and waits.
    pub has_host: bool,
    /// Where it may ever run, in order: a job that is refused goes on to these and to no others. Only what somebody
    /// named: a bill that nobody expects is worse than waiting.
    pub executors: Vec<ExecutorType>,
    /// The executors that were considered, in order, and what became of each.
    pub candidates: Vec<Candidate>,
}

/// An executor that was considered for a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RoutingCandidate")]
pub struct Candidate {
    /// The executor.
    pub executor: ExecutorType,
    /// Whether it was chosen, and why not.
    pub verdict: Verdict,
    /// The attempt that was refused there, and what was said, of one that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Whether an executor was chosen for a job, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "RoutingVerdict")]
pub enum Verdict {
    /// The job goes there.
    Chosen,
    /// It comes after the one that was chosen.
    Later,
    /// No active host of it takes the tenant's jobs.
    NoHost,
    /// It has an active host, and no live worker reaches one.
    NoWorker,
    /// It has refused the job, and each other one is asked before it is asked again.
    Refused,
    /// A host of it refused the spec in this round.
    Unfit,
    /// Neither the job nor its template names it.
    NotNamed,
}

impl Verdict {
    /// The same in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Later => "comes after the one that was chosen",
            Self::NoHost => "has no active host that takes the tenant's jobs",
            Self::NoWorker => "has active hosts, and no live worker reaches one",
            Self::Refused => "refused the job, and is asked again after the others",
            Self::Unfit => "cannot run the job",
            Self::NotNamed => "neither the job nor its template names it",
        }
    }
}

impl Candidate {
    fn new(executor: ExecutorType, verdict: Verdict) -> Self {
        Self { executor, verdict, detail: None }
    }
}

/// Routes a job: its preferred executor, else the first supported one with an active host, else the first
/// supported one.
pub fn route(question: &Question<'_>) -> Result<Route, Problem> {
    let Question { preferred, supported, with_active_host } = *question;
    let has_host = |executor| with_active_host.contains(&executor);
    let considered = considered(preferred, supported)?;
    let first_with_host = || considered.iter().copied().find(|executor| has_host(*executor));
    let executor = preferred.or_else(first_with_host).unwrap_or(considered[0]);
    let whose = if supported.is_empty() { "default" } else { "template's" };
    let reason = match (preferred.is_some(), has_host(executor)) {
        (true, true) => format!("the job prefers {executor}"),
        (true, false) => format!("the job prefers {executor}, which has no active host yet"),
        (false, true) => format!("{executor} is the first of the {whose} executors with an active host"),
        (false, false) => {
            format!("none of the {whose} executors has an active host; {executor} is the first of them")
        }
    };
    let candidates = considered.iter().map(|candidate| {
        let verdict = match () {
            () if *candidate == executor => Verdict::Chosen,
            () if has_host(*candidate) => Verdict::Later,
            () => Verdict::NoHost,
        };
        Candidate::new(*candidate, verdict)
    });
    Ok(Route {
        executor,
        reason,
        has_host: has_host(executor),
        candidates: candidates.collect(),
        executors: if supported.is_empty() { vec![executor] } else { considered },
    })
}

/// The executors that may be chosen, in order; never none.
fn considered(preferred: Option<ExecutorType>, supported: &[ExecutorType]) -> Result<Vec<ExecutorType>, Problem> {
    let Some(preferred) = preferred else {
        let defaults = || ExecutorType::ALL.iter().copied().filter(|executor| executor.is_default_choice()).collect();
        return Ok(if supported.is_empty() { defaults() } else { without_repeats(supported.iter().copied()) });
    };
    if !supported.is_empty() && !supported.contains(&preferred) {
        let names: Vec<_> = supported.iter().map(|executor| executor.as_str()).collect();
        let message = format!("the template does not support {preferred}; it supports {}", names.join(", "));
        return Err(Problem::field(Code::UnsupportedExecutor, "preferred_executor", message));
    }
    Ok(without_repeats([preferred].into_iter().chain(supported.iter().copied())))
}

fn without_repeats(executors: impl Iterator<Item = ExecutorType>) -> Vec<ExecutorType> {
    let mut once = Vec::new();
    for executor in executors {
        if !once.contains(&executor) {
            once.push(executor);
        }
    }
    once
}

/// The executors that were not considered at all, for whoever wants to know of every one.
pub fn others(candidates: &[Candidate]) -> Vec<Candidate> {
    let considered = |executor: &ExecutorType| candidates.iter().any(|candidate| candidate.executor == *executor);
    let others = ExecutorType::ALL.iter().copied().filter(|executor| !considered(executor));
    others.map(|executor| Candidate::new(executor, Verdict::NotNamed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExecutorType::{Cloudrun, Docker, Fargate, Mock, Scaleway};

    fn ask(
        preferred: Option<ExecutorType>,
        supported: &[ExecutorType],
        with_active_host: &[ExecutorType],
    ) -> Result<Route, Problem> {
        route(&Question { preferred, supported, with_active_host })
    }

    fn verdicts(route: &Route) -> Vec<(ExecutorType, Verdict)> {
        route.candidates.iter().map(|candidate| (candidate.executor, candidate.verdict)).collect()
    }

    #[test]
    fn the_preferred_executor_wins_and_may_wait() {
        let route = ask(Some(Mock), &[], &[Docker]).expect("routed");
        assert_eq!((route.executor, route.has_host), (Mock, false));
        assert_eq!(ask(Some(Mock), &[Docker], &[Mock]).expect_err("unsupported").code, Code::UnsupportedExecutor);
    }

    #[test]
    fn else_the_first_supported_with_a_host() {
        let route = ask(None, &[Fargate, Cloudrun, Docker], &[Docker, Cloudrun]).expect("routed");
        assert_eq!(route.executor, Cloudrun);
        let told = [(Fargate, Verdict::NoHost), (Cloudrun, Verdict::Chosen), (Docker, Verdict::Later)];
        assert_eq!(verdicts(&route), told);
        let waiting = ask(None, &[Fargate, Cloudrun], &[Docker]).expect("routed");
        assert_eq!((waiting.executor, waiting.has_host), (Fargate, false));
        assert_eq!(verdicts(&waiting), [(Fargate, Verdict::Chosen), (Cloudrun, Verdict::NoHost)]);
    }

    #[test]
    fn a_simulated_container_is_never_a_surprise() {
        let route = ask(None, &[], &[Mock]).expect("routed");
        assert_eq!((route.executor, route.has_host), (Docker, false));
        let others: Vec<_> = others(&route.candidates).iter().map(|other| (other.executor, other.verdict)).collect();
        assert!(others.contains(&(Mock, Verdict::NotNamed)), "{others:?}");
    }

    #[test]
    fn a_job_goes_on_only_where_somebody_named_the_place() {
        let all = ExecutorType::ALL;
        assert_eq!(ask(Some(Docker), &[], all).expect("routed").executors, [Docker]);
        assert_eq!(ask(None, &[], all).expect("routed").executors, [Docker]);
        assert_eq!(ask(None, &[Cloudrun, Docker, Cloudrun], all).expect("routed").executors, [Cloudrun, Docker]);
        let preferring = ask(Some(Scaleway), &[Docker, Mock, Scaleway], all).expect("routed");
        assert_eq!(preferring.executors, [Scaleway, Docker, Mock], "the wish first, then the template's order");
        assert_eq!(others(&preferring.candidates).len(), all.len() - 3);
    }
}
