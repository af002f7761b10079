//! What a container gets, what it is refused, and whose name it has.

use bollard::models::{ContainerCreateBody, MountType, NetworkCreateRequest};
use bollard::query_parameters::CreateContainerOptionsBuilder;
use gantry_core::FailureClass;
use gantry_core::gpus::Gpus;
use gantry_core::spec::Mount;
use gantry_core::state::Outcome;
use gantry_worker::executor::{Executor, Found, LaunchError, Observed};
use serde_json::json;

use crate::common::{image, sh, words};
use crate::lab::Lab;

#[tokio::test]
async fn nothing_is_granted_by_default() {
    let lab = Lab::new();
    let mut spec = words(&["sleep", "60"]);
    spec.container.cpu_limit = Some(0.29);
    spec.container.memory_limit_mb = Some(64);
    spec.labels = [("team", "blue"), ("gantry.fleet", "another")].map(|(k, v)| (k.into(), v.into())).into();
    let launch = lab.launch_of(spec);
    let id = lab.executor.launch(&lab.host, &launch).await.expect("launches");

    let container = lab.docker().await.inspect_container(&id.0, None).await.expect("it is there");
    let config = container.host_config.expect("inspect gives the host config");
    assert_eq!(config.privileged, Some(false));
    assert_eq!(config.security_opt, Some(vec!["no-new-privileges".into()]));
    assert_eq!(config.cap_drop, Some(vec!["ALL".into()]));
    assert_eq!(config.cap_add.unwrap_or_default(), Vec::<String>::new());
    assert_eq!(config.pids_limit, Some(512));
    assert_eq!(config.nano_cpus, Some(290_000_000));
    assert_eq!(config.memory, Some(64 << 20));
    assert_eq!(config.memory_swap, Some(64 << 20), "no swap on top of the limit");
    assert!(config.mounts.unwrap_or_default().is_empty() && config.binds.unwrap_or_default().is_empty());
    assert_eq!(config.restart_policy.and_then(|policy| policy.maximum_retry_count), Some(0));
    let labels = container.config.and_then(|config| config.labels).expect("it has labels");
    assert_eq!(labels["team"], "blue");
    assert_eq!(labels["gantry.fleet"], lab.fleet.to_string(), "a job cannot pass for another fleet's");
    assert_eq!(labels["gantry.job"], launch.job.to_string());
    assert_eq!(labels["gantry.attempt"], "1");
}

#[tokio::test]
async fn the_kernel_agrees() {
    let lab = Lab::new();
    let (id, end) = lab.run(sh("grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status")).await;
    assert_eq!(end.outcome, Outcome::Exited(0));
    let (out, ..) = lab.read(&id, None, 4096).await;
    let out = String::from_utf8(out).expect("text");
    assert_eq!(out.matches("0000000000000000").count(), 2, "no capability, effective or to be had: {out}");
    assert!(out.contains("NoNewPrivs:\t1"), "{out}");
}

#[tokio::test]
async fn what_the_host_grants_is_given() {
    let lab = Lab::with(json!({ "capabilities": ["CHOWN"], "pids_limit": 64 }));
    let id = lab.start(sh("touch /tmp/a && chown 65534 /tmp/a")).await;
    let container = lab.docker().await.inspect_container(&id.0, None).await.expect("it is there");
    assert_eq!(container.host_config.expect("inspect gives the host config").pids_limit, Some(64));
    assert_eq!(lab.until_ended(&id).await.outcome, Outcome::Exited(0));
}

#[tokio::test]
async fn what_the_host_says_is_on_every_container() {
    let lab = Lab::with(json!({
        "labels": { "site": "north", "team": "host" },
        "ulimits": { "nofile": 1234, "core": { "soft": 0, "hard": 0 } },
        "user": "1000:1001"
    }));
    let mut spec = sh("ulimit -n; id -u; id -g");
    spec.labels = [("team".into(), "job".into()), ("own".into(), "kept".into())].into();
    let (id, end) = lab.run(spec).await;
    assert_eq!(end.outcome, Outcome::Exited(0));
    assert_eq!(lab.read(&id, None, 4096).await.0, b"1234\n1000\n1001\n");
    let container = lab.docker().await.inspect_container(&id.0, None).await.expect("it is there");
    let labels = container.config.and_then(|config| config.labels).expect("it has labels");
    assert_eq!([&labels["site"], &labels["team"], &labels["own"]], ["north", "host", "kept"]);
}

#[tokio::test]
async fn a_job_names_its_user_where_the_host_does_not_mind() {
    let lab = Lab::with(json!({ "user": "1000" }));
    let mut spec = sh("id -u");
    spec.container.user = Some("nobody".into());
    let (id, _) = lab.run(spec.clone()).await;
    assert_ne!(lab.read(&id, None, 4096).await.0, b"1000\n");
    spec.container.user = Some("nosuchuser".into());
    match lab.executor.launch(&lab.host, &lab.launch_of(spec.clone())).await {
        Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::LaunchRejected, "{failure}"),
        other => panic!("there is no such user: {other:?}"),
    }
    let strict = Lab::with(json!({ "allow_root": false }));
    let failure = strict.executor.validate(&strict.host, &spec).expect_err("it may be root");
    assert_eq!(failure.class, FailureClass::InvalidSpec, "{failure}");
    spec.container.user = Some("1000".into());
    let (id, _) = strict.run(spec).await;
    assert_eq!(strict.read(&id, None, 4096).await.0, b"1000\n");
}

#[tokio::test]
async fn a_read_only_root_leaves_tmp_to_write_to() {
    let lab = Lab::new();
    let mut spec = sh("! touch /etc/x 2>/dev/null && ! touch /x 2>/dev/null && echo here > /tmp/x && cat /tmp/x");
    spec.container.read_only_root = true;
    spec.container.user = Some("1000".into());
    let (id, end) = lab.run(spec).await;
    assert_eq!((end.outcome, lab.read(&id, None, 4096).await.0), (Outcome::Exited(0), b"here\n".to_vec()));
}

/// There are none here, and the engine says so: the place cannot do what its configuration promises.
#[tokio::test]
async fn gpus_are_asked_of_the_engine() {
    let lab = Lab::with(json!({ "gpus": "all" }));
    let mut spec = words(&["true"]);
    for gpus in [Gpus::Count(1), Gpus::ALL] {
        spec.container.gpus = Some(gpus);
        let launch = lab.launch_of(spec.clone());
        match lab.executor.launch(&lab.host, &launch).await {
            Err(LaunchError::NotLaunched(failure)) => {
                assert_eq!(failure.class, FailureClass::BackendError, "{failure}");
                assert!(failure.message.contains("[[gpu]]"), "{failure}");
            }
            other => panic!("there is no driver for them: {other:?}"),
        }
        assert_eq!(lab.executor.find(&lab.host, &launch.name).await, Found::Absent);
    }
    let none = Lab::new();
    let failure = none.executor.validate(&none.host, &spec).expect_err("not allowed by default");
    assert!(failure.message.starts_with("gpus: "), "{failure}");
}

#[tokio::test]
async fn a_host_without_its_network_is_not_well() {
    let lab = Lab::with(json!({ "network": "no-such-network" }));
    let failure = lab.executor.check(&lab.host).await.expect_err("there is no such network");
    assert!(failure.message.contains("docker network create no-such-network"), "{failure}");
    for network in ["none", "default"] {
        let there = Lab::with(json!({ "network": network }));
        there.executor.check(&there.host).await.expect("every engine has it");
    }
}

#[tokio::test]
async fn the_hosts_network_is_of_jobs_that_name_none() {
    let lab = Lab::with(json!({ "network": "none" }));
    let docker = lab.docker().await;
    let mode = async |spec| {
        let id = lab.start(spec).await;
        let container = docker.inspect_container(&id.0, None).await.expect("it is there");
        container.host_config.and_then(|config| config.network_mode).expect("inspect gives the network")
    };
    let mut spec = words(&["true"]);
    assert_eq!(mode(spec.clone()).await, "none");
    spec.container.network = Some("default".into());
    assert_ne!(mode(spec).await, "none", "the job's own comes first");
}

#[tokio::test]
async fn a_container_is_on_the_network_that_the_job_or_the_host_names() {
    let lab = Lab::new();
    let (name, docker) = (format!("gantry-{}", lab.fleet), lab.docker().await);
    let network = NetworkCreateRequest { name: name.clone(), internal: Some(true), ..Default::default() };
    docker.create_network(network).await.expect("makes a network");
    let interfaces = async |lab: &Lab, network: Option<&str>| {
        let mut spec = sh("ls /sys/class/net");
        spec.container.network = network.map(str::to_owned);
        let (id, end) = lab.run(spec).await;
        assert_eq!(end.outcome, Outcome::Exited(0));
        String::from_utf8(lab.read(&id, None, 4096).await.0).expect("names of interfaces")
    };
    let of_jobs = Lab::with(json!({ "network": "none", "allowed_networks": [name] }));
    assert_eq!(interfaces(&of_jobs, None).await, "lo\n");
    assert_eq!(interfaces(&of_jobs, Some(&name)).await, "eth0\nlo\n");
    let of_the_host = Lab::with(json!({ "network": name }));
    of_the_host.executor.check(&of_the_host.host).await.expect("the network is there");
    assert_eq!(interfaces(&of_the_host, None).await, "eth0\nlo\n");
    docker.remove_network(&name).await.expect("nobody is on it any more");
}

#[tokio::test]
async fn words_environment_and_folder_arrive() {
    let lab = Lab::new();
    let mut spec = words(&["-c", r#"echo "$GREETING|$(pwd)""#]);
    spec.container.entrypoint = Some(vec!["sh".into()]);
    spec.container.working_dir = Some("/tmp".into());
    spec.container.environment = [("GREETING".into(), "a = b\nc $d 'e'".into())].into();
    let (id, _) = lab.run(spec).await;
    assert_eq!(lab.read(&id, None, 4096).await.0, b"a = b\nc $d 'e'|/tmp\n");
}

#[tokio::test]
async fn mounts_are_what_the_host_allows() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, scratch) = (folder.path().join("data"), folder.path().join("scratch"));
    for path in [&data.join("in"), &scratch] {
        std::fs::create_dir_all(path).expect("makes a folder");
    }
    std::fs::write(data.join("in/file"), "input").expect("writes a file");
    let lab = Lab::with(json!({ "allowed_mounts": [data], "writable_mounts": [scratch] }));
    let mount = |source: &std::path::Path, writable| Mount {
        source: source.to_str().expect("a path of text").into(),
        target: if writable { "/out".into() } else { "/in".into() },
        writable,
    };

    let mut spec = sh("cp /in/file /out/copy && ! touch /in/new");
    spec.container.mounts = vec![mount(&data.join("in"), false), mount(&scratch, true)];
    lab.executor.validate(&lab.host, &spec).expect("allowed");
    let (id, end) = lab.run(spec).await;
    assert_eq!(end.outcome, Outcome::Exited(0));
    assert_eq!(std::fs::read(scratch.join("copy")).expect("the container wrote it"), b"input");
    let container = lab.docker().await.inspect_container(&id.0, None).await.expect("it is there");
    let mounts = container.host_config.and_then(|config| config.mounts).expect("it has mounts");
    assert_eq!(mounts[0].typ, Some(MountType::BIND));
    assert_eq!((mounts[0].read_only, mounts[1].read_only.unwrap_or(false)), (Some(true), false));

    for refused in [mount(&data, true), mount(folder.path(), false), mount("/etc".as_ref(), false)] {
        let mut spec = words(&["true"]);
        spec.container.mounts = vec![refused];
        let failure = lab.executor.validate(&lab.host, &spec).expect_err("not allowed");
        assert_eq!(failure.class, FailureClass::InvalidSpec);
        assert!(failure.message.starts_with("mounts[0]: "), "{failure}");
        // The launch itself does not trust that somebody has validated.
        match lab.executor.launch(&lab.host, &lab.launch_of(spec)).await {
            Err(LaunchError::NotLaunched(refused)) => assert_eq!(refused, failure),
            other => panic!("launched with a mount that is not allowed: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_missing_mount_is_the_jobs_mistake_and_is_not_made() {
    let folder = tempfile::tempdir().expect("a folder");
    let lab = Lab::with(json!({ "allowed_mounts": [folder.path()] }));
    let missing = folder.path().join("missing");
    let mut spec = words(&["true"]);
    let source = missing.to_str().expect("a path of text").into();
    spec.container.mounts = vec![Mount { source, target: "/in".into(), writable: false }];
    match lab.executor.launch(&lab.host, &lab.launch_of(spec)).await {
        Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::InvalidSpec, "{failure}"),
        other => panic!("launched without its mount: {other:?}"),
    }
    assert!(!missing.exists(), "the engine made it, as root");
}

#[tokio::test]
async fn another_ones_name_is_not_adopted() {
    let lab = Lab::new();
    let launch = lab.launch_of(words(&["true"]));
    let docker = lab.docker().await;
    // Of the same fleet, so that it is swept away; but of another job.
    let labels = [("gantry.fleet".to_owned(), lab.fleet.to_string())];
    let cmd = Some(vec!["true".into()]);
    let body = ContainerCreateBody { image: Some(image()), cmd, labels: Some(labels.into()), ..Default::default() };
    let named = CreateContainerOptionsBuilder::new().name(&launch.name).build();
    let created = docker.create_container(Some(named), body).await.expect("creates");
    match lab.executor.launch(&lab.host, &launch).await {
        Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::LaunchRejected),
        other => panic!("took somebody else's container: {other:?}"),
    }
    assert!(matches!(lab.executor.find(&lab.host, &launch.name).await, Found::Unknown(_)));
    let container = docker.inspect_container(&created.id, None).await.expect("it is left alone");
    assert_eq!(container.state.and_then(|state| state.running), Some(false));
}

#[tokio::test]
async fn a_refused_start_leaves_nothing_behind() {
    let lab = Lab::new();
    let not_a_program = words(&["/etc/passwd"]);
    let mut no_folder = words(&["true"]);
    no_folder.container.working_dir = Some("/etc/passwd".into());
    let mut no_network = words(&["true"]);
    no_network.container.network = Some("no-such-network".into());
    let lab_with_network = Lab::with(json!({ "allowed_networks": ["no-such-network"] }));
    let cases = [
        (&lab, words(&["/no/such/program"])),
        (&lab, not_a_program),
        (&lab, no_folder),
        (&lab_with_network, no_network),
    ];
    for (lab, spec) in cases {
        let launch = lab.launch_of(spec);
        match lab.executor.launch(&lab.host, &launch).await {
            Err(LaunchError::NotLaunched(failure)) => {
                assert_eq!(failure.class, FailureClass::LaunchRejected, "{failure}")
            }
            other => panic!("cannot start, and yet: {other:?}"),
        }
        assert_eq!(lab.executor.find(&lab.host, &launch.name).await, Found::Absent);
    }
}

#[tokio::test]
async fn what_the_engine_calls_invalid_is_invalid() {
    let lab = Lab::new();
    let mut spec = words(&["true"]);
    spec.container.cpu_limit = Some(9999.0);
    match lab.executor.launch(&lab.host, &lab.launch_of(spec)).await {
        Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::InvalidSpec, "{failure}"),
        other => panic!("no machine has so many CPUs: {other:?}"),
    }
}

#[tokio::test]
async fn a_missing_image_shows_at_the_launch_too() {
    let lab = Lab::new();
    let mut spec = words(&["true"]);
    spec.container.image = "gantry/no-such-image:1".into();
    match lab.executor.launch(&lab.host, &lab.launch_of(spec)).await {
        Err(LaunchError::NotLaunched(failure)) => assert_eq!(failure.class, FailureClass::ImageNotFound, "{failure}"),
        other => panic!("there is no such image: {other:?}"),
    }
}

#[tokio::test]
async fn a_dropped_stop_still_stops() {
    let lab = Lab::new();
    let id = lab.start(words(&["sleep", "60"])).await;
    {
        let stop = lab.executor.stop(&lab.host, &id, std::time::Duration::from_secs(1));
        // Polled once, so that it is sent, and then dropped, as at a shutdown.
        assert!(futures::poll!(stop).is_pending());
    }
    let end = lab.until_ended(&id).await;
    assert_eq!(end.outcome, Outcome::Exited(137));
    lab.executor.remove(&lab.host, &id).await.expect("removes");
    assert_eq!(lab.observe(&id).await, Observed::Gone);
}
