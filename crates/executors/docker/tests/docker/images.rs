//! What the tests do with a registry, and one that is no real one.

use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::models::ContainerConfig;
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, PushImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::image;
use crate::registry::Registry;

/// Who may use a locked registry; an open one takes everybody.
pub(crate) const CREDENTIALS: &str = "gantry:open:sesame";

/// The address of one that answers everybody to come back later, as Docker Hub does.
pub(crate) async fn overrun() -> String {
    const BODY: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = format!(
                "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{BODY}",
                BODY.len()
            );
            // The request fits into one read; whoever goes away meanwhile is not to end this.
            let _ = client.read(&mut [0; 4096]).await;
            let _ = client.write_all(answer.as_bytes()).await;
        }
    });
    address
}

/// Puts the test image there as `name`, and takes it from the engine. Returns the reference.
pub(crate) async fn push(registry: &Registry, docker: &Docker, name: &str) -> String {
    let repository = format!("{}/{name}", registry.address);
    let tag = TagImageOptionsBuilder::new().repo(&repository).tag("1").build();
    docker.tag_image(&image(), Some(tag)).await.expect("tags");
    push_tagged(docker, &repository).await
}

/// The same with what a container has changed.
pub(crate) async fn push_changed(registry: &Registry, docker: &Docker, name: &str, container: &str) -> String {
    let repository = format!("{}/{name}", registry.address);
    let options = CommitContainerOptionsBuilder::new().container(container).repo(&repository).tag("1").build();
    docker.commit_container(options, ContainerConfig::default()).await.expect("commits");
    push_tagged(docker, &repository).await
}

async fn push_tagged(docker: &Docker, repository: &str) -> String {
    let options = PushImageOptionsBuilder::new().tag("1").build();
    let (user, password) = CREDENTIALS.split_once(':').expect("two parts");
    let credentials =
        DockerCredentials { username: Some(user.into()), password: Some(password.into()), ..Default::default() };
    let mut push = docker.push_image(repository, Some(options), Some(credentials));
    while let Some(step) = push.next().await {
        step.expect("pushes");
    }
    let reference = format!("{repository}:1");
    untag(docker, &reference).await;
    reference
}

/// How often the manifest of a pushed image was asked for by content or by head: once or twice a pull.
pub(crate) fn pulls(registry: &Registry, name: &str) -> usize {
    let request = format!("/v2/{name}/manifests/1");
    std::fs::read_to_string(&registry.log)
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains("\"GET ") && line.contains(&request))
        .count()
}

/// Takes a name from the engine; its image stays under its others.
pub(crate) async fn untag(docker: &Docker, reference: &str) {
    let keep_others = RemoveImageOptionsBuilder::new().build();
    docker.remove_image(reference, Some(keep_others), None).await.expect("takes the tag away");
}
