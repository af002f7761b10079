//! Job definitions: what a start cannot override (the image, the size, the time limit), registered once for all jobs
//! that share it.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::Failure;
use gantry_core::spec::ResolvedSpec;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::client::Trouble;
use crate::config::Options;
use crate::place::Place;
use crate::size::{self, Size};
use crate::wire::{CreateDefinition, Definition, RetryPolicy};

/// The beginning of the name of every definition of Gantry's, whatever the fleet: fleets share them.
const PREFIX: &str = "gantry-";
/// What people read who find one.
const DESCRIPTION: &str =
    "Registered by Gantry for all jobs of this image and size; it is registered again when needed";
/// How much longer than the job's own timeout the service lets it run, for the time of a worker's stop.
const MARGIN: u32 = 300;
/// Time limits are rounded up to a multiple of this, so that there are few definitions.
const STEP: u32 = 900;
/// The longest time limit of the service.
pub(crate) const LONGEST: u32 = 24 * 3_600;
/// How long a registered definition is taken to be there still: a start that finds it gone says so.
const REMEMBERED: Duration = Duration::from_secs(24 * 3_600);
/// Looks for what a registration without an answer has made, and the pause between two.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// What is in a definition. Whatever changes here is another definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Content {
    image: String,
    cpu: u32,
    memory: u32,
    storage: u32,
    timeout: u32,
}

impl Content {
    pub(crate) fn new(options: &Options, spec: &ResolvedSpec, size: Size) -> Self {
        Self {
            image: spec.container.image.clone(),
            cpu: size.cpu,
            memory: size.memory,
            storage: options.local_storage_capacity,
            timeout: time_limit(spec.timeout_seconds()),
        }
    }

    /// The name: the prefix and the hash of the content.
    fn name(&self) -> String {
        let json = serde_json::to_vec(self).expect("strings and numbers are JSON");
        let hash = Sha256::digest(json);
        let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{PREFIX}{hex}")
    }

    /// Whether a definition of this name still is what it was registered as: anybody can change it.
    fn is_in(&self, definition: &Definition) -> bool {
        definition.image_uri == self.image
            && definition.cpu_limit == self.cpu
            && definition.memory_limit == self.memory
            && definition.retry_policy.unwrap_or_default().max_retries == 0
    }
}

/// The service's time limit for a job with this timeout.
pub(crate) fn time_limit(timeout: u32) -> u32 {
    let least = timeout.saturating_add(MARGIN);
    // What is refused is measured by what it needs, not by what it is rounded to.
    if least > LONGEST { least } else { least.next_multiple_of(STEP).min(LONGEST) }
}

/// The id of the definition for a job, registered if there is none, and the key to forget it by.
pub(crate) async fn ensure(
    place: &Arc<Place>,
    options: &Options,
    spec: &ResolvedSpec,
) -> Result<(String, String), Failure> {
    let size = size::fitting(place.sizes().await?.as_slice(), size::wanted(options, &spec.container)?)?;
    let content = Content::new(options, spec, size);
    let name = content.name();
    let (here, key) = (Arc::clone(place), name.clone());
    let id = place.definitions.join(name, REMEMBERED, move || async move { register(&here, &content).await }).await?;
    place.names.put(&id, key.clone());
    Ok((id, key))
}

async fn register(place: &Place, content: &Content) -> Result<String, Failure> {
    let name = content.name();
    if let Some(id) = lookup(place, content, &name).await.map_err(|trouble| trouble.failure("list definitions"))? {
        return Ok(id);
    }
    let body = CreateDefinition {
        name: &name,
        project_id: &place.connection.project,
        description: DESCRIPTION,
        cpu_limit: content.cpu,
        memory_limit: content.memory,
        local_storage_capacity: content.storage,
        image_uri: &content.image,
        job_timeout: format!("{}s", content.timeout),
        retry_policy: RetryPolicy { max_retries: 0 },
    };
    match place.api.post_once::<Definition>("/job-definitions", &body).await {
        // Somebody else may have registered the same at the same time: everybody takes the oldest.
        Ok(made) => Ok(lookup(place, content, &name).await.ok().flatten().unwrap_or(made.id)),
        Err(trouble) => unanswered(place, content, &name, trouble).await,
    }
}

/// A registration that failed, or was done and not answered: it is looked up, not repeated.
async fn unanswered(place: &Place, content: &Content, name: &str, trouble: Trouble) -> Result<String, Failure> {
    let failure = trouble.failure(&format!("register the definition {name}"));
    let certain = matches!(trouble, Trouble::NotSent(_) | Trouble::Refused { status: 400..500, .. });
    for _ in 0..if certain { 0 } else { LOOKS } {
        if let Ok(Some(id)) = lookup(place, content, name).await {
            return Ok(id);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    Err(failure)
}

/// Two definitions may bear one name: the oldest is everybody's.
async fn lookup(place: &Place, content: &Content, name: &str) -> Result<Option<String>, Trouble> {
    let all = place.all_definitions().await?;
    let ours = all.into_iter().filter(|definition| definition.name == name && content.is_in(definition));
    Ok(oldest(ours).map(|definition| definition.id))
}

fn oldest(definitions: impl Iterator<Item = Definition>) -> Option<Definition> {
    definitions.min_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content { image: "busybox:1".into(), cpu: 140, memory: 256, storage: 1_000, timeout: 900 }
    }

    fn definition(id: &str, created_at: &str) -> Definition {
        serde_json::from_value(serde_json::json!({
            "id": id, "name": content().name(), "created_at": created_at,
            "cpu_limit": 140, "memory_limit": 256, "image_uri": "busybox:1",
        }))
        .expect("valid")
    }

    #[test]
    fn the_name_is_the_contents_hash() {
        let name = content().name();
        assert_eq!(name.len(), 39);
        assert!(
            name.starts_with(PREFIX) && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        );
        assert_eq!(name, content().name());
        for other in [
            Content { image: "busybox:2".into(), ..content() },
            Content { cpu: 141, ..content() },
            Content { memory: 257, ..content() },
            Content { storage: 1, ..content() },
            Content { timeout: 1_800, ..content() },
        ] {
            assert_ne!(name, other.name());
        }
    }

    #[test]
    fn everybody_takes_the_oldest() {
        let [old, same, young] = [
            definition("b", "2026-01-01T00:00:00Z"),
            definition("c", "2026-01-01T00:00:00Z"),
            definition("a", "2026-01-02T00:00:00Z"),
        ];
        for order in [[&old, &same, &young], [&young, &same, &old], [&same, &young, &old]] {
            assert_eq!(oldest(order.into_iter().cloned()).expect("one").id, "b");
        }
    }

    #[test]
    fn one_that_somebody_changed_is_not_used() {
        assert!(content().is_in(&definition("a", "2026-01-01T00:00:00Z")));
        let mut changed = definition("a", "2026-01-01T00:00:00Z");
        changed.retry_policy = Some(RetryPolicy { max_retries: 3 });
        assert!(!content().is_in(&changed));
        changed = definition("a", "2026-01-01T00:00:00Z");
        changed.image_uri = "other".into();
        assert!(!content().is_in(&changed));
    }

    #[test]
    fn the_service_waits_longer_than_gantry() {
        assert_eq!(time_limit(1), 900);
        assert_eq!(time_limit(600), 900);
        assert_eq!(time_limit(601), 1_800);
        assert_eq!(time_limit(LONGEST - MARGIN), LONGEST);
        assert!(time_limit(LONGEST - MARGIN + 1) > LONGEST);
    }
}
