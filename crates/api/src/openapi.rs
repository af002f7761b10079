//! The API's description of itself.

use gantry_core::bulk;
use gantry_core::letter;
use gantry_core::lost::{Abandon, Condition};
use gantry_core::problem::Code;
use gantry_core::routing::failover::Decision;
use gantry_core::spec::{ContainerSpec, Submission};
use gantry_core::state::StopReason;
use gantry_core::why::Why;
use gantry_core::{ExecutorType, FailureClass, Status, WaitingReason};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ArrayBuilder, OneOfBuilder, Ref, RefOr, Schema};
use utoipa::{Modify, OpenApi, PartialSchema, ToSchema};

use crate::routes::{self, dead_letters, hosts, jobs, limits, logs, lost, schedules, steering, submit, why};
use crate::wire::LogEnd;

#[derive(OpenApi)]
#[openapi(
    info(title = "Gantry", description = "Submit container jobs, watch them, and look at where they run. Every error is a `ProblemDetails`."),
    paths(submit::submit, jobs::list, jobs::show, why::why, jobs::cancel, logs::logs, hosts::list, hosts::create, lost::abandon, lost::host, lost::audit,
        steering::activate, steering::cordon, steering::drain, steering::change, steering::slots, limits::list, limits::set,
        dead_letters::list, dead_letters::show, dead_letters::replay, dead_letters::discard,
        schedules::put, schedules::list, schedules::show, schedules::delete, schedules::runs, schedules::pause, schedules::resume, schedules::trigger,
        routes::templates::put, routes::templates::list, routes::templates::show, routes::templates::put_environment,
        routes::templates::environments, routes::overview::overview, routes::route::explain_route, routes::costs::costs, routes::bulk::start, routes::bulk::list, routes::bulk::show, routes::bulk::stop),
    components(schemas(LogEnd)),
    tags(
        (name = "jobs", description = "Jobs and their logs, of the tenant of the API key."),
        (name = "templates", description = "What jobs are made of by name."),
        (name = "schedules", description = "Submissions that Gantry makes itself, when a calendar says so."),
        (name = "bulk", description = "What is done to many jobs at once."),
        (name = "hosts", description = "The places that run containers."),
        (name = "costs", description = "What jobs cost."),
        (name = "audit", description = "What operators did."),
        (name = "dead letters", description = "What could not be processed."),
    ),
    security(("api_key" = [])),
    modifiers(&ApiKey),
)]
struct Document;

struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some("An API key of a tenant.".into());
        document.components.get_or_insert_default().add_security_scheme("api_key", SecurityScheme::Http(scheme));
    }
}

/// The body of `POST /v1/jobs`, for the document alone: a [`Submission`], or an array of them.
pub(crate) struct SubmitBody;

impl ToSchema for SubmitBody {}

impl PartialSchema for SubmitBody {
    fn schema() -> RefOr<Schema> {
        let one = || Ref::from_schema_name("Submission");
        let many = ArrayBuilder::new()
            .items(one())
            .min_items(Some(1))
            .max_items(Some(gantry_core::spec::limits::JOBS_PER_REQUEST));
        OneOfBuilder::new().item(one()).item(many).into()
    }
}

/// The document, as OpenAPI 3.1 in JSON: what `/openapi.json` serves.
pub fn openapi() -> Value {
    let mut document = serde_json::to_value(Document::openapi()).unwrap_or_default();
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.extend(contracts());
    }
    document
}

/// The schemas of `gantry-core`, as `docs/contracts/` has them.
fn contracts() -> Map<String, Value> {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    generator.subschema_for::<Submission>();
    generator.subschema_for::<ContainerSpec>();
    generator.subschema_for::<ExecutorType>();
    generator.subschema_for::<Status>();
    generator.subschema_for::<WaitingReason>();
    generator.subschema_for::<FailureClass>();
    generator.subschema_for::<gantry_core::limits::Kind>();
    generator.subschema_for::<StopReason>();
    generator.subschema_for::<Condition>();
    generator.subschema_for::<Abandon>();
    generator.subschema_for::<letter::State>();
    generator.subschema_for::<Code>();
    generator.subschema_for::<Why>();
    generator.subschema_for::<Decision>();
    generator.subschema_for::<gantry_core::cost::By>();
    generator.subschema_for::<bulk::Action>();
    generator.subschema_for::<bulk::Filter>();
    generator.subschema_for::<bulk::State>();
    generator.subschema_for::<bulk::Done>();
    generator.take_definitions(true)
}
