//! The document says what there is.

use std::collections::BTreeSet;

use serde_json::Value;

fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
    match value {
        Value::Object(object) => {
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                found.insert(reference);
            }
            object.values().for_each(|inner| references(inner, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = gantry_api::openapi();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/Submission"), "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("inside the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_operation_is_there_with_its_errors() {
    let document = gantry_api::openapi();
    let paths = document["paths"].as_object().expect("paths");
    let operations: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().expect("operations").keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    let expected = [
        "delete /v1/schedules/{name}",
        "get /v1/audit",
        "get /v1/bulk",
        "get /v1/bulk/{id}",
        "get /v1/costs",
        "get /v1/dead-letters",
        "get /v1/dead-letters/{id}",
        "get /v1/hosts",
        "get /v1/jobs",
        "get /v1/jobs/{id}",
        "get /v1/jobs/{id}/logs",
        "get /v1/jobs/{id}/why",
        "get /v1/limits",
        "get /v1/overview",
        "get /v1/schedules",
        "get /v1/schedules/{name}",
        "get /v1/schedules/{name}/runs",
        "get /v1/slots",
        "patch /v1/hosts/{host}",
        "post /v1/dead-letters/drop",
        "post /v1/dead-letters/replay",
        "post /v1/hosts",
        "post /v1/hosts/{host}/activate",
        "post /v1/hosts/{host}/cordon",
        "post /v1/hosts/{host}/drain",
        "post /v1/hosts/{host}/lost",
        "post /v1/bulk/{id}/stop",
        "post /v1/jobs",
        "post /v1/jobs/bulk",
        "post /v1/jobs/{id}/abandon",
        "post /v1/jobs/{id}/cancel",
        "post /v1/route/explain",
        "post /v1/schedules/{name}/pause",
        "post /v1/schedules/{name}/resume",
        "post /v1/schedules/{name}/trigger",
        "get /v1/environments",
        "get /v1/templates",
        "get /v1/templates/{name}",
        "put /v1/environments/{name}",
        "put /v1/limits",
        "put /v1/templates/{name}",
        "put /v1/schedules/{name}",
    ];
    assert_eq!(operations, expected.map(String::from).into());
    for item in paths.values() {
        for operation in item.as_object().expect("operations").values() {
            let responses = operation["responses"].as_object().expect("responses");
            for (status, response) in responses.iter().filter(|(status, _)| status.starts_with(['4', '5'])) {
                assert!(response["content"]["application/problem+json"].is_object(), "{status} of {operation}");
            }
            assert!(operation["summary"].is_string() && responses.contains_key("401"), "{operation}");
        }
    }
}

#[test]
fn every_field_is_explained() {
    let document = gantry_api::openapi();
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        explained(name, schema);
    }
}

fn explained(name: &str, schema: &Value) {
    let part = |key| schema[key].as_array().into_iter().flatten();
    part("allOf").chain(part("oneOf")).chain(part("anyOf")).for_each(|inner| explained(name, inner));
    for (field, property) in schema["properties"].as_object().into_iter().flatten() {
        let is_tag = property.get("enum").or(property.get("const")).is_some();
        // An optional reference carries its words beside the reference.
        let mut places = std::iter::once(property).chain(property["oneOf"].as_array().into_iter().flatten());
        assert!(is_tag || places.any(|place| place["description"].is_string()), "{name}.{field}: {property}");
    }
}
