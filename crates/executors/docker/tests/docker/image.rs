//! Pulling: once for all who wait, and with the right name for what goes wrong.

use futures::future::join_all;
use gantry_core::FailureClass;
use gantry_core::spec::ResolvedSpec;
use gantry_core::state::Outcome;
use gantry_worker::executor::Executor;
use serde_json::json;

use crate::common::{sh, words};
use crate::images::{pulls, push, push_changed, untag};
use crate::lab::Lab;
use crate::registry::{Registry, free_address};

fn of_image(image: &str) -> ResolvedSpec {
    let mut spec = words(&["true"]);
    spec.container.image = image.into();
    spec
}

#[tokio::test]
async fn fifty_jobs_pull_an_image_once() {
    let (lab, registry) = (Lab::new(), Registry::start().await);
    let docker = lab.docker().await;
    let image = push(&registry, &docker, "shared").await;
    let spec = of_image(&image);
    let before = pulls(&registry, "shared");
    let said = join_all((0..50).map(|_| lab.executor.prepare(&lab.host, &spec))).await;
    for said in said {
        let said = said.expect("pulls");
        assert!(said.contains("Downloaded newer image"), "what the engine said is passed on");
    }
    let pulls = pulls(&registry, "shared") - before;
    assert!(pulls <= 1, "asked for {pulls} times");
    assert_eq!(lab.run(spec.clone()).await.1.outcome, Outcome::Exited(0));
    assert_eq!(lab.executor.prepare(&lab.host, &spec).await, Ok(String::new()), "nothing is pulled that is there");

    // The image goes away while it is remembered: the launch says so, and the next prepare pulls again.
    lab.executor.list_owned(&lab.host, lab.fleet).await.expect("lists");
    untag(&docker, &image).await;
    lab.executor.launch(&lab.host, &lab.launch_of(spec.clone())).await.expect_err("the image is gone");
    lab.executor.prepare(&lab.host, &spec).await.expect("pulls again");
    assert_eq!(lab.run(spec).await.1.outcome, Outcome::Exited(0));
    untag(&docker, &image).await;
}

#[tokio::test]
async fn what_came_is_told_layer_by_layer() {
    let (lab, registry) = (Lab::new(), Registry::start().await);
    let docker = lab.docker().await;
    // A layer that no engine has seen, on top of the test image's.
    let (changed, _) = lab.run(sh("head -c 3000000 /dev/urandom > /new")).await;
    let image = push_changed(&registry, &docker, "layers", &changed.0).await;
    let said = lab.executor.prepare(&lab.host, &of_image(&image)).await.expect("pulls");
    assert!(said.contains("new layers: 1 with 3.0 MB in "), "{said}");
    let layers: Vec<&str> = said.lines().filter(|line| line.starts_with("layer ")).collect();
    assert!(layers.iter().any(|line| line.ends_with(": was there")), "{said}");
    assert!(layers.iter().any(|line| line.contains(": 3.0 MB, there after ")), "{said}");
    untag(&docker, &image).await;
}

#[tokio::test]
async fn always_means_every_time() {
    let (lab, registry) = (Lab::with(json!({ "pull_policy": "always" })), Registry::start().await);
    let docker = lab.docker().await;
    let image = push(&registry, &docker, "moving").await;
    for _ in 0..2 {
        assert_ne!(lab.executor.prepare(&lab.host, &of_image(&image)).await, Ok(String::new()));
    }
    untag(&docker, &image).await;
}

#[tokio::test]
async fn never_means_that_no_registry_is_asked() {
    let (lab, registry) = (Lab::with(json!({ "pull_policy": "never" })), Registry::start().await);
    let image = push(&registry, &lab.docker().await, "there").await;
    let before = pulls(&registry, "there");
    let failure = lab.executor.prepare(&lab.host, &of_image(&image)).await.expect_err("is not pulled");
    assert_eq!(failure.class, FailureClass::ImageNotFound, "{failure}");
    assert!(failure.message.contains("configured never to pull"), "{failure}");
    assert_eq!(pulls(&registry, "there"), before);
    let there = lab.executor.prepare(&lab.host, &words(&["true"])).await;
    assert_eq!(there, Ok(String::new()), "what the host has may run");
}

#[tokio::test]
async fn an_aborted_pull_is_taken_up_again() {
    let (lab, registry) = (Lab::new(), Registry::start().await);
    let docker = lab.docker().await;
    let image = push(&registry, &docker, "again").await;
    let spec = of_image(&image);
    {
        let prepare = lab.executor.prepare(&lab.host, &spec);
        assert!(futures::poll!(prepare).is_pending());
    }
    lab.executor.prepare(&lab.host, &spec).await.expect("pulls");
    untag(&docker, &image).await;
}

#[tokio::test]
async fn what_goes_wrong_has_its_class() {
    let (lab, registry, locked) = (Lab::new(), Registry::start().await, Registry::locked().await);
    let cases = [
        (format!("{}/nothing/here:1", registry.address), FailureClass::ImageNotFound),
        (format!("{}/nothing/here:1", locked.address), FailureClass::ImagePullDenied),
        (format!("{}/nobody/listens:1", free_address().await), FailureClass::BackendError),
        ("Not/A/Reference:::".to_owned(), FailureClass::InvalidSpec),
    ];
    for (image, class) in cases {
        let failure = lab.executor.prepare(&lab.host, &of_image(&image)).await.expect_err("cannot be pulled");
        assert_eq!(failure.class, class, "{failure}");
    }
}
