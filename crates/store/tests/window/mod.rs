//! Jobs that are in the window, as a dispatcher leaves them there.

use gantry_core::message::WorkItem;
use gantry_core::routing::failover::Routing;
use gantry_core::routing::{Question, route};
use gantry_core::{ExecutorType, JobId, TenantId};
use gantry_store::admission::{self, NewJob};
use gantry_store::lines::{self, Ask};
use gantry_store::{Scope, Store};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

const MOCK: ExecutorType = ExecutorType::Mock;

/// So many new jobs of a tenant, of whom nobody else waits, as their work items.
pub(crate) async fn dispatched(store: &Store, sql: &mut PgConnection, tenant: TenantId, jobs: usize) -> Vec<WorkItem> {
    let project: Uuid = sqlx::query_scalar("select id from projects where tenant_id = $1")
        .bind(tenant.uuid())
        .fetch_one(sql)
        .await
        .expect("a project");
    let route = route(&Question { preferred: None, supported: &[MOCK], with_active_host: &[MOCK] }).expect("routed");
    let job = || NewJob {
        id: JobId::new(),
        tenant,
        project: project.into(),
        name: "job".to_owned(),
        template: None,
        spec: serde_json::from_value(json!({ "image": "i", "timeout_seconds": 60 })).expect("a spec"),
        executor_type: MOCK,
        preferred_executor: None,
        routing: Routing::begin(&route),
        routing_reason: route.reason.clone(),
        override_command: None,
        override_environment: Default::default(),
        concurrency_key: None,
        priority: 0,
        not_before: None,
        queue_timeout_seconds: None,
        idempotency: None,
        created_by: "test".to_owned(),
        schedule: None,
        at_once: false,
    };
    let new: Vec<NewJob> = (0..jobs).map(|_| job()).collect();
    admission::insert(store, Scope::Fleet, &new).await.expect("stored");
    let lines = lines::standing(store, MOCK).await.expect("read");
    let asks: Vec<Ask> = lines.iter().map(|line| Ask { at: line.entrance(), jobs, look: jobs }).collect();
    let served = lines::dispatch(store, MOCK, &asks).await.expect("dispatched");
    let items: Vec<WorkItem> = served.into_iter().flat_map(|served| served.items).collect();
    assert_eq!(items.len(), jobs);
    items
}
