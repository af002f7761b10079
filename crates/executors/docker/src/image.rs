//! Getting an image onto the host: one pull per image, however many jobs wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::future::{BoxFuture, Shared, WeakShared};
use futures::{FutureExt, StreamExt};
use gantry_core::{Failure, FailureClass};

use crate::config::PullPolicy;
use crate::engine::Engine;
use crate::error;

/// How long an image that was seen is taken to be there still: a launch that finds it gone says so.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long a registry may take to begin: the engine answers only when it does.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);

type Ensured = BoxFuture<'static, Result<String, Failure>>;

/// The images of one engine.
#[derive(Default)]
pub(crate) struct Images {
    seen: Mutex<HashMap<String, Instant>>,
    under_way: Mutex<HashMap<String, WeakShared<Ensured>>>,
}

/// Makes sure that the host has the image. Returns what the engine said about a pull.
pub(crate) async fn ensure(engine: &Arc<Engine>, policy: PullPolicy, image: &str) -> Result<String, Failure> {
    if policy != PullPolicy::Always && engine.images.has_seen(image) {
        return Ok(String::new());
    }
    engine.images.join(engine, policy, image).await
}

impl Images {
    /// The image is not there after all.
    pub(crate) fn forget(&self, image: &str) {
        lock(&self.seen).remove(image);
    }

    fn has_seen(&self, image: &str) -> bool {
        lock(&self.seen).get(image).is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    fn remember(&self, image: String) {
        let mut seen = lock(&self.seen);
        seen.retain(|_, at| at.elapsed() < REMEMBERED);
        seen.insert(image, Instant::now());
    }

    /// The work that is under way for the image, or new work. It lives for as long as somebody waits for it:
    /// when the last one gives up, the pull is aborted.
    fn join(&self, engine: &Arc<Engine>, policy: PullPolicy, image: &str) -> Shared<Ensured> {
        let mut under_way = lock(&self.under_way);
        if let Some(shared) = under_way.get(image).and_then(WeakShared::upgrade)
            && shared.peek().is_none()
        {
            return shared;
        }
        under_way.retain(|_, shared| shared.upgrade().is_some());
        let shared = ensure_once(Arc::clone(engine), policy, image.to_owned()).boxed().shared();
        if let Some(weak) = shared.downgrade() {
            under_way.insert(image.to_owned(), weak);
        }
        shared
    }
}

async fn ensure_once(engine: Arc<Engine>, policy: PullPolicy, image: String) -> Result<String, Failure> {
    let docker = engine.docker().await?;
    let mut said = String::new();
    if policy == PullPolicy::Always || !is_present(docker, &image).await? {
        if policy == PullPolicy::Never {
            let message = format!("the host does not have the image {image}, and is configured never to pull");
            return Err(Failure::new(FailureClass::ImageNotFound, message));
        }
        said = pull(docker, &image).await?;
    }
    engine.images.remember(image);
    Ok(said)
}

async fn is_present(docker: &Docker, image: &str) -> Result<bool, Failure> {
    match docker.inspect_image(image).await {
        Ok(_) => Ok(true),
        Err(error) => match error::answer(&error) {
            Some((404, _)) => Ok(false),
            Some((400, message)) => Err(Failure::new(FailureClass::InvalidSpec, format!("image: {message}"))),
            _ => Err(error::failure("inspect the image", &error)),
        },
    }
}

async fn pull(docker: &Docker, image: &str) -> Result<String, Failure> {
    let options = CreateImageOptionsBuilder::new().from_image(&with_tag(image)).build();
    let docker = docker.clone().with_timeout(PULL_TIMEOUT);
    let mut progress = docker.create_image(Some(options), None, None);
    let mut said = Vec::new();
    while let Some(step) = progress.next().await {
        let step = step.map_err(|error| pull_failure(image, &error))?;
        // Steps of a single layer carry its id; the rest is about the image.
        if let (Some(status), None) = (step.status, step.id) {
            said.push(status);
        }
    }
    Ok(said.join("\n"))
}

/// Without a tag the engine would pull every tag of the repository.
fn with_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

fn pull_failure(image: &str, error: &Error) -> Failure {
    let text = match error {
        Error::DockerStreamError { error } => error.clone(),
        _ if error::answer(error).is_some() => error::text(error),
        // No answer at all: the engine itself is away.
        _ => return error::failure(&format!("pull {image}"), error),
    };
    Failure::new(
        pull_failure_class(error::answer(error).map(|(status, _)| status), &text),
        format!("pull {image}: {text}"),
    )
}

/// Registries are told apart by their text: the engine passes most of it on as it came, with its own status.
fn pull_failure_class(status: Option<u16>, text: &str) -> FailureClass {
    let text = text.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["toomanyrequests", "too many requests", "rate limit"]) {
        FailureClass::Throttled
    } else if says(&["denied", "unauthorized", "authentication required", "no basic auth", "forbidden"]) {
        FailureClass::ImagePullDenied
    } else if status == Some(400) || says(&["invalid reference"]) {
        FailureClass::InvalidSpec
    } else if says(&["no such host", "connection refused", "timeout", "deadline exceeded", "tls", "x509"]) {
        FailureClass::BackendError
    } else if status == Some(404) || says(&["not found", "unknown", "does not exist", "no matching manifest"]) {
        FailureClass::ImageNotFound
    } else {
        FailureClass::BackendError
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_tag_means_latest() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("localhost:5000/a/b"), "localhost:5000/a/b:latest");
        assert_eq!(with_tag("localhost:5000/a/b:1"), "localhost:5000/a/b:1");
        assert_eq!(with_tag("a@sha256:0"), "a@sha256:0");
    }

    #[test]
    fn registries_are_understood() {
        let class = |text| pull_failure_class(Some(500), text);
        assert_eq!(
            class("manifest for a:1 not found: manifest unknown: manifest unknown"),
            FailureClass::ImageNotFound
        );
        assert_eq!(class("manifest unknown"), FailureClass::ImageNotFound);
        assert_eq!(
            class("pull access denied for a, repository does not exist or may require 'docker login'"),
            FailureClass::ImagePullDenied
        );
        assert_eq!(class("Get \"https://r/v2/\": unauthorized"), FailureClass::ImagePullDenied);
        assert_eq!(class("toomanyrequests: You have reached your pull rate limit"), FailureClass::Throttled);
        assert_eq!(class("dial tcp: lookup r: no such host"), FailureClass::BackendError);
        assert_eq!(class("dial tcp 127.0.0.1:1: connect: connection refused"), FailureClass::BackendError);
        assert_eq!(pull_failure_class(Some(400), "whatever"), FailureClass::InvalidSpec);
        assert_eq!(class("x509: certificate signed by unknown authority"), FailureClass::BackendError);
    }
}
