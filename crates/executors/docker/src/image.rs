//! Getting an image onto the host: one pull per image, however many jobs wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::future::{BoxFuture, Shared, WeakShared};
use futures::{FutureExt, StreamExt};
use gantry_core::spec::ResolvedSpec;
use gantry_core::{Failure, FailureClass, TenantId};

use crate::config::{Options, PullPolicy};
use crate::credentials::{self, Login, Registry};
use crate::engine::Engine;
use crate::error;
use crate::progress::Progress;

/// How long an image that was seen is taken to be there still: a launch that finds it gone says so.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long a registry may take to begin: the engine answers only when it does.
const PULL_TIMEOUT: Duration = Duration::from_secs(600);

type Ensured = BoxFuture<'static, Result<String, Failure>>;

/// The images of one engine.
#[derive(Default)]
pub(crate) struct Images {
    seen: Mutex<HashMap<Key, Instant>>,
    under_way: Mutex<HashMap<Key, WeakShared<Ensured>>>,
}

/// An image, and for whom: none where its registry makes no difference between tenants.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    image: String,
    tenant: Option<TenantId>,
}

/// An image that a job needs.
pub(crate) struct Wanted {
    key: Key,
    policy: PullPolicy,
    registry: Option<Registry>,
}

impl Wanted {
    pub(crate) fn of(options: &Options, spec: &ResolvedSpec) -> Self {
        let image = spec.container.image.clone();
        let registry = credentials::registry_of(&options.registries, &image).cloned();
        let apart = registry.as_ref().is_some_and(|registry| registry.tenant_credentials.is_some());
        Self { key: Key { image, tenant: spec.tenant.filter(|_| apart) }, policy: options.pull_policy, registry }
    }

    /// Whether the image is pulled although it is there. Of a registry that tells tenants apart it is: that one tenant
    /// could pull it gives it to no other, and the registry has the say. What it has not changed is not sent again.
    fn is_pulled_anyway(&self) -> bool {
        self.policy == PullPolicy::Always || self.policy == PullPolicy::Missing && self.key.tenant.is_some()
    }
}

/// Makes sure that the host has the image. Returns what is to be told of a pull.
pub(crate) async fn ensure(engine: &Arc<Engine>, wanted: Wanted) -> Result<String, Failure> {
    if wanted.policy != PullPolicy::Always && engine.images.has_seen(&wanted.key) {
        return Ok(String::new());
    }
    engine.images.join(engine, wanted).await
}

impl Images {
    /// The image is not there after all.
    pub(crate) fn forget(&self, image: &str) {
        lock(&self.seen).retain(|key, _| key.image != image);
    }

    fn has_seen(&self, key: &Key) -> bool {
        lock(&self.seen).get(key).is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    fn remember(&self, key: Key) {
        let mut seen = lock(&self.seen);
        seen.retain(|_, at| at.elapsed() < REMEMBERED);
        seen.insert(key, Instant::now());
    }

    /// The work that is under way for the image, or new work. It lives for as long as somebody waits for it:
    /// when the last one gives up, the pull is aborted.
    fn join(&self, engine: &Arc<Engine>, wanted: Wanted) -> Shared<Ensured> {
        let key = wanted.key.clone();
        let mut under_way = lock(&self.under_way);
        if let Some(shared) = under_way.get(&key).and_then(WeakShared::upgrade)
            && shared.peek().is_none()
        {
            return shared;
        }
        under_way.retain(|_, shared| shared.upgrade().is_some());
        let shared = ensure_once(Arc::clone(engine), wanted).boxed().shared();
        if let Some(weak) = shared.downgrade() {
            under_way.insert(key, weak);
        }
        shared
    }
}

async fn ensure_once(engine: Arc<Engine>, wanted: Wanted) -> Result<String, Failure> {
    let docker = engine.docker().await?;
    let image = &wanted.key.image;
    let mut said = String::new();
    if wanted.is_pulled_anyway() || !is_present(&docker, image).await? {
        if wanted.policy == PullPolicy::Never {
            let message = format!("the host does not have the image {image}, and is configured never to pull");
            return Err(Failure::new(FailureClass::ImageNotFound, message));
        }
        let login = match &wanted.registry {
            Some(registry) => registry.login(wanted.key.tenant, &engine.secrets)?,
            None => Login { credentials: None, shown: "without credentials".into() },
        };
        said = pull(&engine, docker, image, login).await?;
    }
    engine.images.remember(wanted.key);
    Ok(said)
}

async fn is_present(docker: &Docker, image: &str) -> Result<bool, Failure> {
    match docker.inspect_image(&with_tag(image)).await {
        Ok(_) => Ok(true),
        Err(error) => match error::answer(&error) {
            Some((404, _)) => Ok(false),
            Some((400, message)) => Err(Failure::new(FailureClass::InvalidSpec, format!("image: {message}"))),
            _ => Err(error::failure("inspect the image", &error)),
        },
    }
}

async fn pull(engine: &Engine, docker: Docker, image: &str, login: Login) -> Result<String, Failure> {
    let options = CreateImageOptionsBuilder::new().from_image(&with_tag(image)).build();
    let docker = docker.with_timeout(PULL_TIMEOUT);
    let mut steps = docker.create_image(Some(options), None, login.credentials);
    let mut progress = Progress::begin();
    while let Some(step) = steps.next().await {
        match step {
            Ok(step) => progress.step(step),
            Err(error) => {
                let mut failure = pull_failure(image, &error);
                if let Some(full) = engine.disk.class_of(&failure.message) {
                    failure.class = full;
                }
                if failure.class == FailureClass::ImagePullDenied {
                    failure.message = format!("{} (pulled {})", failure.message, login.shown);
                }
                if progress.has_layers() {
                    failure.message =
                        format!("{}\n{}", failure.message, progress.finish(image, &login.shown).trim_end());
                }
                return Err(failure);
            }
        }
    }
    Ok(progress.finish(image, &login.shown))
}

/// Without a tag the engine would pull every tag of the repository.
pub(crate) fn with_tag(image: &str) -> String {
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
