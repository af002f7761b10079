//! Which executor type a job goes to.

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
}

/// Routes a job: its preferred executor, else the first supported one with an active host, else the first
/// supported one.
pub fn route(question: &Question<'_>) -> Result<Route, Problem> {
    let has_host = |executor| question.with_active_host.contains(&executor);
    if let Some(executor) = question.preferred {
        if !question.supported.is_empty() && !question.supported.contains(&executor) {
            let names: Vec<_> = question.supported.iter().map(|e| e.as_str()).collect();
            let message = format!("the template does not support {executor}; it supports {}", names.join(", "));
            return Err(Problem::field(Code::UnsupportedExecutor, "preferred_executor", message));
        }
        let reason = if has_host(executor) {
            format!("the job prefers {executor}")
        } else {
            format!("the job prefers {executor}, which has no active host yet")
        };
        return Ok(Route { executor, reason, has_host: has_host(executor) });
    }
    let defaults: Vec<_> = ExecutorType::ALL.iter().copied().filter(|e| e.is_default_choice()).collect();
    let (candidates, whose) =
        if question.supported.is_empty() { (&defaults[..], "default") } else { (question.supported, "template's") };
    let route = match candidates.iter().copied().find(|executor| has_host(*executor)) {
        Some(executor) => Route {
            executor,
            reason: format!("{executor} is the first of the {whose} executors with an active host"),
            has_host: true,
        },
        None => Route {
            executor: candidates[0],
            reason: format!("none of the {whose} executors has an active host; {} is the first of them", candidates[0]),
            has_host: false,
        },
    };
    Ok(route)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExecutorType::{Cloudrun, Docker, Fargate, Mock};

    fn ask(
        preferred: Option<ExecutorType>,
        supported: &[ExecutorType],
        with_active_host: &[ExecutorType],
    ) -> Result<Route, Problem> {
        route(&Question { preferred, supported, with_active_host })
    }

    #[test]
    fn the_preferred_executor_wins_and_may_wait() {
        let route = ask(Some(Mock), &[], &[Docker]).expect("routed");
        assert_eq!((route.executor, route.has_host), (Mock, false));
        assert_eq!(ask(Some(Mock), &[Docker], &[Mock]).expect_err("unsupported").code, Code::UnsupportedExecutor);
    }

    #[test]
    fn else_the_first_supported_with_a_host() {
        assert_eq!(ask(None, &[Fargate, Cloudrun, Docker], &[Docker, Cloudrun]).expect("routed").executor, Cloudrun);
        let waiting = ask(None, &[Fargate, Cloudrun], &[Docker]).expect("routed");
        assert_eq!((waiting.executor, waiting.has_host), (Fargate, false));
    }

    #[test]
    fn a_simulated_container_is_never_a_surprise() {
        let route = ask(None, &[], &[Mock]).expect("routed");
        assert_eq!((route.executor, route.has_host), (Docker, false));
    }
}
