//! What one tenant sees of another: nothing.

use serde_json::json;

use crate::support::{Api, job};

#[tokio::test]
async fn without_a_valid_key_nothing_is_shown() {
    let api = Api::start().await;
    let client = api.tenant("acme").await;
    let id = client.submit(&job()).await;
    let stranger = api.stranger();
    for client in [stranger.clone(), stranger.with_key("wrong"), stranger.with_key("")] {
        for path in ["/v1/jobs".to_owned(), format!("/v1/jobs/{id}"), format!("/v1/jobs/{id}/logs"), "/v1/hosts".into()]
        {
            let refused = client.get(&path).await;
            assert_eq!(refused.problem(), (401, "unauthorized", Some("Authorization")), "{path}");
            assert_eq!(refused.headers["www-authenticate"], "Bearer");
        }
        assert_eq!(client.post("/v1/jobs", &job()).await.status, 401);
        assert_eq!(client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await.status, 401);
    }
}

#[tokio::test]
async fn another_tenants_job_does_not_exist() {
    let api = Api::start().await;
    let (acme, globex) = (api.tenant("acme").await, api.operator("globex").await);
    let id = acme.submit(&job()).await;
    let own = globex.submit(&job()).await;
    for path in ["", "?wait=10s", "/why", "/logs", "/logs?follow=true"] {
        let refused = globex.get(&format!("/v1/jobs/{id}{path}")).await;
        assert_eq!(refused.problem(), (404, "not_found", None), "{path}");
    }
    let refused = globex.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
    assert_eq!(refused.problem(), (404, "not_found", None));
    assert_eq!(acme.get(&format!("/v1/jobs/{id}")).await.body["status"], json!("pending"));

    let listed = globex.get("/v1/jobs").await;
    let ids: Vec<_> = listed.body["jobs"].as_array().expect("jobs").iter().map(|job| job["id"].clone()).collect();
    assert_eq!(ids, [json!(own)]);
}
