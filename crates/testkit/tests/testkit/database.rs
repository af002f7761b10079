use gantry_testkit::TestDb;
use sqlx::{Connection, PgConnection};

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("the role may connect")
}

async fn user(url: &str) -> String {
    sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut connect(url).await).await.expect("answers")
}

#[tokio::test]
async fn every_test_has_the_schema_to_itself_and_all_roles() {
    let (first, second) = tokio::join!(TestDb::create(), TestDb::create());
    sqlx::query("CREATE TABLE only_here ()").execute(&mut connect(&first.owner_url()).await).await.expect("creates");
    for (db, expected) in [(&first, true), (&second, false)] {
        let mut owner = connect(&db.owner_url()).await;
        let here: bool = sqlx::query_scalar("SELECT to_regclass('only_here') IS NOT NULL")
            .fetch_one(&mut owner)
            .await
            .expect("answers");
        assert_eq!(here, expected);
        let schema: bool = sqlx::query_scalar("SELECT to_regclass('container_jobs') IS NOT NULL")
            .fetch_one(&mut owner)
            .await
            .expect("answers");
        assert!(schema, "the migration ran");
        assert_eq!(user(&db.fleet_url()).await, "gantry_fleet");
        assert_eq!(user(&db.api_url()).await, "gantry_api");
    }
}

#[tokio::test]
async fn a_database_goes_with_its_test_even_when_clients_stay() {
    let kept = TestDb::create().await;
    let gone = TestDb::create().await;
    let _client = connect(&gone.fleet_url()).await;
    let name = gone.owner_url().rsplit_once('/').expect("it has a path").1.to_owned();
    drop(gone);
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(&mut connect(&kept.owner_url()).await)
        .await
        .expect("answers");
    assert!(!exists);
}
