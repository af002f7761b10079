//! What a fleet has on a host that it may share.

use std::time::Duration;

use crate::contract::{Bench, Verdict};
use crate::executor::Owned;

/// Two fleets on one engine see their own containers only, running and ended, with job and attempt.
pub async fn only_this_fleet_is_listed(bench: &Bench<'_>) -> Verdict {
    let host = bench.subject.host();
    let runs = bench.start(bench.subject.sleep(Duration::from_secs(120))?).await;
    let over = bench.start(bench.subject.exit(0)?).await;
    let stranger = bench.launch_in(bench.other_fleet, bench.subject.sleep(Duration::from_secs(120))?);
    let stranger = bench.start_launch(stranger).await;
    bench.until_running(&runs.id).await;
    bench.until_ended(&over.id).await;
    bench.until_running(&stranger.id).await;

    let mut expected = [(&runs, true), (&over, false)].map(|(started, running)| Owned {
        id: started.id.clone(),
        name: started.launch.name.clone(),
        job: started.launch.job,
        attempt: started.launch.attempt,
        running,
    });
    let mut owned = bench.subject.another().list_owned(host, bench.fleet).await.expect("the host answers");
    expected.sort_by(|a, b| a.name.cmp(&b.name));
    owned.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(owned, expected);

    let others = bench.executor().list_owned(host, bench.other_fleet).await.expect("the host answers");
    assert_eq!(others.iter().map(|owned| &owned.id).collect::<Vec<_>>(), [&stranger.id]);
    let unreachable = bench.executor().list_owned(&bench.subject.unreachable_host(), bench.fleet).await;
    assert!(unreachable.is_err(), "nobody answered, and yet there is a list");
    Ok(())
}

/// A container that was never started is listed, as not running: nothing that Gantry made is forgotten.
pub async fn a_created_container_is_listed(bench: &Bench<'_>) -> Verdict {
    let launch = bench.launch_of(bench.subject.exit(0)?);
    let created = bench.subject.leave_created(&launch).await?;
    let owned = bench.owned().await;
    assert_eq!(owned.iter().map(|owned| (&owned.id, owned.running)).collect::<Vec<_>>(), [(&created, false)]);
    Ok(())
}
