//! Where a job goes on when a place refuses it: a pure step over what is stored with the job.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Candidate, Route, Verdict, others};
use crate::{ExecutorType, Failure, FailureClass, text};

/// The longest message of a refusal that is kept, in bytes: each is in the trace again and again.
const MESSAGE_BYTES: usize = 200;

/// What is stored of a job's way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Routing {
    /// Where it may ever run, in order.
    pub executors: Vec<ExecutorType>,
    /// Who refused it in this round.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// Every decision, first to last.
    pub trace: Vec<Decision>,
}

/// That an executor refused a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The executor.
    pub executor: ExecutorType,
    /// The attempt that ended with it.
    pub attempt: i32,
    /// Why.
    pub class: FailureClass,
    /// The same in words.
    pub message: String,
}

/// One decision about the way of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RoutingDecision")]
pub struct Decision {
    /// The attempt whose refusal it answers; 0 for the decision when the job came.
    pub after_attempt: i32,
    /// Where the job goes.
    pub executor: ExecutorType,
    /// Why, in words.
    pub reason: String,
    /// The executors that were considered, in order, and what became of each.
    pub candidates: Vec<Candidate>,
}

impl Decision {
    /// What became of every executor, those included that were not considered.
    #[must_use]
    pub fn with_others(mut self) -> Self {
        self.candidates.extend(others(&self.candidates));
        self
    }
}

/// The executor types that have hosts for a job's tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Those with an active host.
    pub active: Vec<ExecutorType>,
    /// Those with an active host that a live worker reaches.
    pub served: Vec<ExecutorType>,
}

/// A job's next place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rerouted {
    /// Where it goes.
    pub executor: ExecutorType,
    /// Why, in words.
    pub reason: String,
    /// Whether the place has not refused it in this round: then there is nothing to wait for.
    pub at_once: bool,
    /// What is stored from now on.
    pub routing: Routing,
}

impl Refusal {
    /// The refusal that a failure is, of an attempt that was certainly never launched; none if it is for no reason of the
    /// place's.
    pub fn of(executor: ExecutorType, attempt: i32, failure: &Failure) -> Option<Self> {
        let message = text::excerpt(&failure.message, MESSAGE_BYTES).into_owned();
        hands_on(failure.class).then_some(Self { executor, attempt, class: failure.class, message })
    }

    /// Whether waiting would not help. The host that said so spoke for itself: another one of its type may allow more.
    fn is_unfit(&self) -> bool {
        self.class == FailureClass::InvalidSpec
    }

    fn verdict(&self) -> Verdict {
        if self.is_unfit() { Verdict::Unfit } else { Verdict::Refused }
    }

    fn detail(&self) -> String {
        format!("attempt {}: {}: {}", self.attempt, self.class, self.message)
    }
}

/// Whether a launch that is refused for this reason may be welcome elsewhere.
pub fn hands_on(class: FailureClass) -> bool {
    use FailureClass::{HostUnreachable, InvalidSpec, NoCapacity, Throttled};
    matches!(class, NoCapacity | Throttled | HostUnreachable | InvalidSpec)
}

impl Routing {
    /// The way of a job that has just come.
    pub fn begin(route: &Route) -> Self {
        let decision = Decision {
            after_attempt: 0,
            executor: route.executor,
            reason: route.reason.clone(),
            candidates: route.candidates.clone(),
        };
        Self { executors: route.executors.clone(), refusals: Vec::new(), trace: vec![decision] }
    }

    /// The way of a job that is submitted as an earlier one was, to `executor`.
    pub fn again(&self, executor: ExecutorType, reason: &str) -> Self {
        let verdict = |candidate| if candidate == executor { Verdict::Chosen } else { Verdict::Later };
        let mut executors = self.executors.clone();
        if !executors.contains(&executor) {
            executors.insert(0, executor);
        }
        let candidates = executors.iter().map(|candidate| Candidate::new(*candidate, verdict(*candidate))).collect();
        let decision = Decision { after_attempt: 0, executor, reason: reason.to_owned(), candidates };
        Self { executors: self.executors.clone(), refusals: Vec::new(), trace: vec![decision] }
    }

    /// Whether there is anywhere else to go.
    pub fn has_others(&self, than: ExecutorType) -> bool {
        self.executors.iter().any(|executor| *executor != than)
    }

    /// Where the job goes on after a refusal; none if there is no other place that may run it, or if each has said in this
    /// round that it cannot: then it is an ordinary failure.
    pub fn refused(&self, refusal: Refusal, reach: &Reach) -> Option<Rerouted> {
        let present = refusal.executor;
        let mut refusals = self.refusals.clone();
        refusals.retain(|before| before.executor != present);
        refusals.push(refusal.clone());
        let by = |refusals: &[Refusal], executor| refusals.iter().find(|r| r.executor == executor).cloned();
        let fits = |executor: &ExecutorType| !by(&refusals, *executor).is_some_and(|refusal| refusal.is_unfit());
        if !self.has_others(present) || !self.executors.iter().any(fits) {
            return None;
        }
        let fresh = |executor: &ExecutorType| by(&refusals, *executor).is_none() && reach.served.contains(executor);
        let next = after(&self.executors, present).into_iter().find(fresh);
        // A new round: first those that only have to be waited for, then those of which another host may allow more.
        let all = || self.executors.iter().copied();
        let executor = next
            .or_else(|| all().find(|executor| fits(executor) && reach.served.contains(executor)))
            .or_else(|| all().find(|executor| reach.served.contains(executor)))
            .or_else(|| all().find(|executor| reach.active.contains(executor)))
            .or_else(|| all().find(fits))?;
        let said = format!("{present} refused attempt {} ({}: {})", refusal.attempt, refusal.class, refusal.message);
        let reason = match next {
            Some(next) => format!("{said}; {next} is the next that may run it"),
            None => format!("{said}, and no other is left to ask; it begins again with {executor}"),
        };
        let candidates = self.executors.iter().map(|candidate| {
            let refused = by(&refusals, *candidate);
            let verdict = match &refused {
                _ if *candidate == executor => Verdict::Chosen,
                Some(refusal) => refusal.verdict(),
                None if reach.served.contains(candidate) => Verdict::Later,
                None if reach.active.contains(candidate) => Verdict::NoWorker,
                None => Verdict::NoHost,
            };
            Candidate { executor: *candidate, verdict, detail: refused.as_ref().map(Refusal::detail) }
        });
        let decision = Decision {
            after_attempt: refusal.attempt,
            executor,
            reason: reason.clone(),
            candidates: candidates.collect(),
        };
        if next.is_none() {
            refusals.clear();
        }
        let trace = self.trace.iter().cloned().chain([decision]).collect();
        let routing = Self { executors: self.executors.clone(), refusals, trace };
        Some(Rerouted { executor, reason, at_once: next.is_some(), routing })
    }
}

/// The executors behind this one in order, and then those before it; all of them if it is none of theirs.
pub fn after(executors: &[ExecutorType], present: ExecutorType) -> Vec<ExecutorType> {
    let at = executors.iter().position(|executor| *executor == present);
    let (before, behind) = executors.split_at(at.unwrap_or(0));
    behind.iter().chain(before).copied().filter(|executor| *executor != present).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Question, route};
    use super::*;
    use ExecutorType::{Cloudrun, Docker, Fargate, Mock, Scaleway};
    use FailureClass::{InvalidSpec, NoCapacity, Throttled};
    use proptest::prelude::*;

    const LIST: [ExecutorType; 3] = [Docker, Cloudrun, Fargate];

    fn begin(supported: &[ExecutorType], with_active_host: &[ExecutorType]) -> Routing {
        let question = Question { preferred: None, supported, with_active_host };
        Routing::begin(&route(&question).expect("routed"))
    }

    fn served(executors: &[ExecutorType]) -> Reach {
        Reach { active: executors.to_vec(), served: executors.to_vec() }
    }

    fn refusal(executor: ExecutorType, attempt: i32, class: FailureClass) -> Refusal {
        Refusal::of(executor, attempt, &Failure::new(class, "no")).expect("a refusal")
    }

    #[test]
    fn each_is_asked_once_and_then_all_again() {
        let (way, reach) = (begin(&LIST, &LIST), served(&LIST));
        let first = way.refused(refusal(Docker, 1, NoCapacity), &reach).expect("goes on");
        assert_eq!((first.executor, first.at_once), (Cloudrun, true));
        assert_eq!(first.reason, "docker refused attempt 1 (no_capacity: no); cloudrun is the next that may run it");
        let second = first.routing.refused(refusal(Cloudrun, 2, Throttled), &reach).expect("goes on");
        assert_eq!((second.executor, second.at_once), (Fargate, true));
        let third = second.routing.refused(refusal(Fargate, 3, NoCapacity), &reach).expect("goes on");
        assert_eq!((third.executor, third.at_once), (Docker, false));
        assert!(third.reason.ends_with("it begins again with docker"), "{}", third.reason);
        let again = third.routing.refused(refusal(Docker, 4, NoCapacity), &reach).expect("goes on");
        assert_eq!((again.executor, again.at_once), (Cloudrun, true), "a round of its own");
        let trace: Vec<_> = again.routing.trace.iter().map(|step| (step.after_attempt, step.executor)).collect();
        assert_eq!(trace, [(0, Docker), (1, Cloudrun), (2, Fargate), (3, Docker), (4, Cloudrun)]);
        let last = again.routing.trace[2].candidates[0].clone();
        assert_eq!((last.verdict, last.detail.as_deref()), (Verdict::Refused, Some("attempt 1: no_capacity: no")));
    }

    #[test]
    fn who_is_not_reached_is_passed_over_and_who_comes_before_is_asked_too() {
        // Docker had no host when the job came.
        let way = begin(&LIST, &[Cloudrun]);
        let reach = Reach { active: LIST.to_vec(), served: vec![Docker, Cloudrun] };
        let back = way.refused(refusal(Cloudrun, 1, NoCapacity), &reach).expect("goes on");
        assert_eq!((back.executor, back.at_once), (Docker, true));
        let verdicts: Vec<_> = back.routing.trace[1].candidates.iter().map(|candidate| candidate.verdict).collect();
        assert_eq!(verdicts, [Verdict::Chosen, Verdict::Refused, Verdict::NoWorker]);
    }

    #[test]
    fn alone_it_stays_and_so_does_who_nobody_sent_on() {
        let reach = served(ExecutorType::ALL);
        assert_eq!(begin(&[Docker], &[Docker]).refused(refusal(Docker, 1, NoCapacity), &reach), None);
        assert_eq!(begin(&[], &[Docker, Cloudrun]).refused(refusal(Docker, 1, NoCapacity), &reach), None);
        assert_eq!(Routing::default().refused(refusal(Docker, 1, NoCapacity), &reach), None, "of an older version");
    }

    #[test]
    fn who_cannot_run_it_is_asked_last_and_fails_nobody() {
        let (way, reach) = (begin(&[Cloudrun, Docker], &LIST), served(&LIST));
        let first = way.refused(refusal(Cloudrun, 1, NoCapacity), &reach).expect("goes on");
        let second = first.routing.refused(refusal(Docker, 2, InvalidSpec), &reach).expect("cloudrun may run it");
        assert_eq!((second.executor, second.at_once), (Cloudrun, false));
        assert_eq!(second.routing.trace[2].candidates[1].verdict, Verdict::Unfit);
        let third = second.routing.refused(refusal(Cloudrun, 3, NoCapacity), &reach).expect("a round of its own");
        assert_eq!((third.executor, third.at_once), (Docker, true), "another host there may allow it");
        let both = second.routing.refused(refusal(Cloudrun, 3, InvalidSpec), &reach).expect("docker is asked again");
        let none = both.routing.refused(refusal(Docker, 4, InvalidSpec), &reach);
        assert_eq!(none, None, "nobody can run it: an ordinary failure");
    }

    #[test]
    fn one_host_does_not_speak_for_the_only_type_that_is_reached() {
        let way = begin(&[Docker, Fargate], &[Docker]);
        let again =
            way.refused(refusal(Docker, 1, InvalidSpec), &served(&[Docker])).expect("another host may allow it");
        assert_eq!((again.executor, again.at_once), (Docker, false));
    }

    #[test]
    fn a_job_that_was_moved_away_from_its_list_comes_back_to_it() {
        let rerouted = begin(&LIST, &LIST).refused(refusal(Scaleway, 1, Throttled), &served(&LIST)).expect("goes on");
        assert_eq!((rerouted.executor, rerouted.at_once), (Docker, true));
    }

    #[test]
    fn only_reasons_of_the_place_hand_a_job_on() {
        use strum::VariantArray as _;
        let handing = |class: &&FailureClass| Refusal::of(Docker, 1, &Failure::new(**class, "no")).is_some();
        let classes: Vec<_> = FailureClass::VARIANTS.iter().filter(handing).copied().collect();
        assert_eq!(classes, [InvalidSpec, NoCapacity, Throttled, FailureClass::HostUnreachable]);
    }

    #[test]
    fn what_is_stored_is_read_again_and_what_is_not_there_is_empty() {
        let way = begin(&LIST, &LIST).refused(refusal(Docker, 1, InvalidSpec), &served(&LIST)).expect("on").routing;
        let stored = serde_json::to_value(&way).expect("JSON");
        assert_eq!(Routing::deserialize(stored).expect("read"), way);
        assert_eq!(Routing::deserialize(serde_json::json!({})).expect("read"), Routing::default());
    }

    fn some() -> impl Strategy<Value = Vec<ExecutorType>> {
        proptest::sample::subsequence(ExecutorType::ALL.to_vec(), 0..=ExecutorType::ALL.len()).prop_shuffle()
    }

    proptest! {
        #[test]
        fn it_stays_on_its_list_and_asks_nobody_twice_in_a_round(
            supported in some(),
            at_first in some(),
            steps in proptest::collection::vec((some(), any::<bool>()), 1..12),
        ) {
            let mut way = begin(&supported, &at_first);
            let mut present = way.trace[0].executor;
            // Of this round: who was asked, and who said that it cannot run the job.
            let (mut asked, mut unfit) = (vec![present], Vec::new());
            for (attempt, (reached, never)) in (1..).zip(steps) {
                let class = if never { InvalidSpec } else { NoCapacity };
                if never {
                    unfit.push(present);
                }
                let Some(next) = way.refused(refusal(present, attempt, class), &served(&reached)) else {
                    let alone = way.executors.iter().all(|e| *e == present);
                    prop_assert!(alone || way.executors.iter().all(|e| unfit.contains(e)), "somebody was left");
                    break;
                };
                prop_assert!(supported.contains(&next.executor), "the template is the law");
                if next.at_once {
                    prop_assert!(reached.contains(&next.executor) && !asked.contains(&next.executor));
                } else {
                    let left = supported.iter().filter(|e| reached.contains(e) && !asked.contains(e));
                    prop_assert_eq!(left.count(), 0, "a round ends when nobody is left");
                    (asked, unfit) = (Vec::new(), Vec::new());
                }
                asked.push(next.executor);
                let last = next.routing.trace.last().expect("a decision");
                let chosen: Vec<_> = last.candidates.iter().filter(|c| c.verdict == Verdict::Chosen).collect();
                prop_assert_eq!((chosen.len(), chosen[0].executor), (1, next.executor));
                prop_assert_eq!(last.candidates.len(), way.executors.len());
                prop_assert_eq!(next.routing.trace.len(), way.trace.len() + 1);
                prop_assert_eq!(&last.reason, &next.reason);
                (way, present) = (next.routing, next.executor);
            }
        }

        #[test]
        fn a_simulated_container_is_never_a_surprise(supported in some(), reached in some()) {
            prop_assume!(!supported.contains(&Mock));
            let way = begin(&supported, ExecutorType::ALL);
            if let Some(next) = way.refused(refusal(way.trace[0].executor, 1, NoCapacity), &served(&reached)) {
                prop_assert_ne!(next.executor, Mock);
            }
        }
    }
}
