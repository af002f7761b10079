//! Errors that no handler makes, and the endpoints for machines.

use gantry_api::Nudges;
use gantry_testkit::{Proxy, TestDb, eventually};
use reqwest::Method;
use serde_json::json;

use crate::events::Events;
use crate::support::{Api, PATIENCE, answer, job};

#[tokio::test]
async fn unknown_places_and_wrong_methods_are_problems_too() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    for path in ["/", "/v1", "/v1/job", "/v1/jobs/", "/v2/jobs", "/v1/jobs/x", "/v1/jobs/%ff", "/v1/jobs/x/logs"] {
        assert_eq!(client.get(path).await.problem(), (404, "not_found", None), "{path}");
    }
    for (method, path) in [(Method::DELETE, "/v1/jobs"), (Method::GET, "/v1/jobs/x/cancel"), (Method::POST, "/healthz")]
    {
        let refused = answer(client.request(method, path)).await;
        assert_eq!(refused.problem(), (405, "method_not_allowed", None), "{path}");
        assert!(refused.headers.contains_key("allow"), "{path}");
    }
}

#[tokio::test]
async fn machines_find_what_they_need() {
    let api = Api::start().await;
    let stranger = api.stranger();
    assert_eq!(stranger.get("/healthz").await.body, json!("ok\n"));
    let ready = stranger.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), &ready.body["checks"]["database"]["ok"]), (200, &json!(true)));
    assert_eq!(stranger.get("/metrics").await.status, 200);
    assert_eq!(stranger.get("/openapi.json").await.body["openapi"], json!("3.1.0"));
}

#[tokio::test]
async fn an_outage_of_the_database_is_said_and_survived() {
    let db = TestDb::create().await;
    let proxy = Proxy::start(&db.api_url()).await;
    let api = Api::start_at(db, proxy.url(), Nudges::default()).await;
    let client = api.tenant("acme").await;
    let id = client.submit(&job()).await;
    let mut followed = Events::open(&client, &format!("/v1/jobs/{id}/logs"), None).await;

    proxy.stall();
    let refused = client.post("/v1/jobs", &job()).await;
    assert_eq!(refused.problem(), (503, "unavailable", None));
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(api.stranger().get("/readyz").await.status, 503);
    assert_eq!(api.stranger().get("/healthz").await.status, 200);

    proxy.cut();
    proxy.resume();
    eventually(PATIENCE, async || client.get("/v1/jobs").await.status == 200).await;
    // Whoever watched a job before the outage still does.
    client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
    let end = followed.expect().await;
    assert_eq!((end.name.as_str(), &end.data["status"]), ("end", &json!("cancelled")));
}
