//! A submission that passed validation, with who sent it.

use chrono::{DateTime, SecondsFormat, Utc};
use gantry_core::problem::{Code, Problem};
use gantry_core::spec::Submission;
use gantry_core::{ScheduleId, TenantId};
use gantry_store::admission::{Idempotency, KeySource};
use gantry_store::tenants::Principal;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A valid submission and its sender.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    pub(crate) tenant: TenantId,
    pub(crate) created_by: String,
    pub(crate) submission: Submission,
    pub(crate) idempotency: Option<Idempotency>,
    pub(crate) traceparent: Option<String>,
    pub(crate) scheduled: Option<Scheduled>,
}

/// The schedule that a submission comes from, and the due time that it is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// The schedule.
    pub schedule: ScheduleId,
    /// Its name.
    pub name: String,
    /// The due time; for a run outside the calendar, when that was asked for.
    pub due: DateTime<Utc>,
}

impl Scheduled {
    /// What its container is told of it.
    pub(crate) fn environment(&self) -> [(String, String); 2] {
        [
            ("GANTRY_SCHEDULE".to_owned(), self.name.clone()),
            ("GANTRY_DUE_AT".to_owned(), self.due.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
        ]
    }

    /// One job for each due time, whoever submits it and however the submission was edited in between.
    fn idempotency(&self) -> Idempotency {
        let key = format!("schedule:{}:{}", self.schedule, self.due.to_rfc3339_opts(SecondsFormat::AutoSi, true));
        Idempotency { source: KeySource::Key, body_hash: Sha256::digest(&key).into(), key }
    }
}

impl Incoming {
    /// A submission over HTTP: the key is optional.
    pub fn over_http(principal: Principal, body: Value) -> Result<Self, Problem> {
        Self::new(principal, body, None)
    }

    /// A submission over RabbitMQ, where redelivery is ordinary: it needs a key of its own, or the message's
    /// `message_id`.
    pub fn over_amqp(principal: Principal, body: &[u8], message_id: Option<&str>) -> Result<Self, Problem> {
        // The size is checked before the body is parsed, and again with the limits of the submission.
        if body.len() > gantry_core::spec::limits::SUBMISSION_BYTES {
            Submission::decode(body)?;
        }
        let value = serde_json::from_slice(body)
            .map_err(|error| Problem::new(Code::InvalidJson, format!("the body is not JSON: {error}")))?;
        let incoming = Self::new(principal, value, message_id.filter(|id| !id.is_empty() && id.len() <= 255))?;
        if incoming.idempotency.is_none() {
            let message = "give `idempotency_key` in the body or `message_id` in the message's properties: a message can \
                           be delivered twice, and only a key tells that from two jobs";
            return Err(Problem::field(Code::MissingIdempotencyKey, "idempotency_key", message));
        }
        Ok(incoming)
    }

    /// The submission of a schedule, for one of its due times.
    pub fn scheduled(tenant: TenantId, submission: Submission, scheduled: Scheduled) -> Self {
        Self {
            tenant,
            created_by: format!("schedule:{}", scheduled.schedule),
            submission,
            idempotency: Some(scheduled.idempotency()),
            traceparent: None,
            scheduled: Some(scheduled),
        }
    }

    /// The same, as part of the trace that the sender began.
    pub fn traced(self, traceparent: Option<&str>) -> Self {
        // Only what the one version there is looks like goes into rows and environments: hexadecimal digits and dashes, so many.
        let looks_like_one = |context: &&str| {
            context.len() == 55 && context.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        };
        Self { traceparent: traceparent.filter(looks_like_one).map(str::to_owned), ..self }
    }

    fn new(principal: Principal, body: Value, message_id: Option<&str>) -> Result<Self, Problem> {
        // Of the JSON value, whose keys are sorted: the same submission formatted otherwise is the same.
        let body_hash = Sha256::digest(body.to_string()).into();
        let submission = Submission::from_value(body)?;
        let key = match (&submission.idempotency_key, message_id) {
            (Some(key), _) => Some((KeySource::Key, key.clone())),
            (None, Some(id)) => Some((KeySource::Message, id.to_owned())),
            (None, None) => None,
        };
        let idempotency = key.map(|(source, key)| Idempotency { source, key, body_hash });
        let (tenant, created_by) = (principal.tenant, principal.name());
        Ok(Self { tenant, created_by, submission, idempotency, traceparent: None, scheduled: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::ApiKeyId;

    fn principal() -> Principal {
        Principal { key: ApiKeyId::new(), tenant: TenantId::new(), operator: false }
    }

    #[test]
    fn over_amqp_a_key_is_required_and_the_submissions_own_wins() {
        let bare = br#"{"spec": {"image": "i"}}"#;
        let refusal = Incoming::over_amqp(principal(), bare, None).expect_err("no key");
        assert_eq!((refusal.code, refusal.field.as_deref()), (Code::MissingIdempotencyKey, Some("idempotency_key")));
        let by_message = Incoming::over_amqp(principal(), bare, Some("m")).expect("keyed").idempotency.expect("key");
        assert_eq!((by_message.source, by_message.key.as_str()), (KeySource::Message, "m"));
        let keyed = br#"{"spec": {"image": "i"}, "idempotency_key": "k"}"#;
        let by_key = Incoming::over_amqp(principal(), keyed, Some("m")).expect("keyed").idempotency.expect("key");
        assert_eq!((by_key.source, by_key.key.as_str()), (KeySource::Key, "k"));
    }

    #[test]
    fn what_is_no_trace_context_is_left_out() {
        let context = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let traced = |context: &str| {
            let bare = Incoming::over_amqp(principal(), br#"{"spec": {"image": "i"}}"#, Some("m")).expect("keyed");
            bare.traced(Some(context)).traceparent
        };
        assert_eq!(traced(context).as_deref(), Some(context));
        for other in [&context[1..], &context.replace("-01", "-0\0"), &context.replace("b7", "é")] {
            assert_eq!(traced(other), None, "{other:?}");
        }
    }

    #[test]
    fn the_hash_is_of_the_content_not_of_its_format() {
        let hash = |body: &[u8]| {
            Incoming::over_amqp(principal(), body, Some("m")).expect("valid").idempotency.expect("key").body_hash
        };
        assert_eq!(hash(br#"{"spec":{"image":"i"},"name":"n"}"#), hash(br#" {"name": "n", "spec": {"image": "i"}} "#));
        assert_ne!(hash(br#"{"spec":{"image":"i"}}"#), hash(br#"{"spec":{"image":"j"}}"#));
    }
}
