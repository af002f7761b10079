//! A database per test.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use reqwest::Url;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::environment;

/// The migrations themselves and not the store's function that runs them: the store's own tests
/// stand on this crate.
static MIGRATOR: Migrator = sqlx::migrate!("../../migrations");

/// Any number that nobody else locks on the test server ("gantry" in hexadecimal).
const TEMPLATE_LOCK: i64 = 0x6761_6e74_7279;

/// A database of this test's own, with the schema in it. Dropped with this value, whoever is
/// still connected.
#[derive(Debug)]
pub struct TestDb {
    server: Url,
    name: String,
}

impl TestDb {
    /// Makes a database by copying a template, which the first test on a server makes by
    /// migrating.
    pub async fn create() -> Self {
        Self::create_on(environment::address("GANTRY_TEST_POSTGRES_URL").as_str()).await
    }

    /// The same on a server of the test's own.
    pub async fn create_on(server: &str) -> Self {
        let server = Url::parse(server).expect("the server's address");
        let mut connection = PgConnection::connect(server.as_str())
            .await
            .unwrap_or_else(|error| panic!("the test server's Postgres does not answer at {server}: {error}"));
        let template = template(&server, &mut connection).await.expect("the schema migrates");
        let name = format!("gantry_test_{}", Uuid::now_v7().simple());
        run(&mut connection, format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await
            .expect("a database can be copied from the template");
        connection.close().await.expect("the connection to the test server is open");
        // The copy would be the same fleet as every other one, and they share the test's engine.
        let mut own = PgConnection::connect(database_url(&server, &name).as_str()).await.expect("the copy can be used");
        run(&mut own, "UPDATE fleet SET id = gen_random_uuid()".to_owned()).await.expect("a fleet of its own");
        own.close().await.expect("the connection to the database is open");
        Self { server, name }
    }

    /// The address for the schema's owner (the server's superuser).
    #[must_use]
    pub fn owner_url(&self) -> String {
        database_url(&self.server, &self.name).into()
    }

    /// The address for the role of dispatchers, workers and recorders.
    #[must_use]
    pub fn fleet_url(&self) -> String {
        self.url_for("gantry_fleet")
    }

    /// The address for the role of the API, which row-level security holds.
    #[must_use]
    pub fn api_url(&self) -> String {
        self.url_for("gantry_api")
    }

    fn url_for(&self, role: &str) -> String {
        let mut url = database_url(&self.server, &self.name);
        url.set_username(role).expect("a database's address has a host");
        url.into()
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let server = self.server.clone();
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        environment::finish(async move {
            if let Ok(mut connection) = PgConnection::connect(server.as_str()).await {
                let _ = run(&mut connection, sql).await;
            }
        });
    }
}

/// The name of the template database of this schema on this server, which exists afterwards.
///
/// Each test is a process, and many begin at once: the lock lets one of them make it.
async fn template(server: &Url, connection: &mut PgConnection) -> Result<String, Box<dyn std::error::Error>> {
    let name = template_name();
    // A lock of the session: a database cannot be made inside a transaction.
    sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut *connection).await?;
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
        .bind(&name)
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        // It gets its name when it is complete, so that none half made is ever copied.
        let unfinished = format!("{name}_unfinished");
        run(connection, format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)")).await?;
        run(connection, format!("CREATE DATABASE {unfinished}")).await?;
        let mut template = PgConnection::connect(database_url(server, &unfinished).as_str()).await?;
        MIGRATOR.run(&mut template).await?;
        // Nobody may be connected to a database that is renamed or copied.
        template.close().await?;
        run(connection, format!("ALTER DATABASE {unfinished} RENAME TO {name}")).await?;
    }
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(TEMPLATE_LOCK).execute(&mut *connection).await?;
    Ok(name)
}

/// Another schema, another template: a server outlives edits of the migration.
fn template_name() -> String {
    // One hash of all of them: a name has at most 63 bytes, however many migrations there are.
    let mut hasher = DefaultHasher::new();
    MIGRATOR.iter().for_each(|migration| migration.checksum.hash(&mut hasher));
    format!("gantry_template_{:016x}", hasher.finish())
}

fn database_url(server: &Url, name: &str) -> Url {
    let mut url = server.clone();
    url.set_path(name);
    url
}

/// Runs a statement that has no parameters in SQL's grammar; the names in it are ours.
async fn run(connection: &mut PgConnection, sql: String) -> sqlx::Result<()> {
    connection.execute(AssertSqlSafe(sql)).await.map(drop)
}
