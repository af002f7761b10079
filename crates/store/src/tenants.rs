//! Tenants, their projects and their keys.

use gantry_core::{ApiKeyId, FleetId, ProjectId, TenantId};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::tx::Store;

/// The project of a job that names none.
pub const DEFAULT_PROJECT: &str = "default";

/// Who an API key speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The key.
    pub key: ApiKeyId,
    /// The tenant.
    pub tenant: TenantId,
    /// Whether it may manage hosts.
    pub operator: bool,
}

impl Principal {
    /// How `created_by` names it.
    pub fn name(&self) -> String {
        format!("key:{}", self.key)
    }
}

/// The fleet of this database.
pub async fn fleet(store: &Store) -> Result<FleetId> {
    let row = store
        .read("tenants::fleet", sqlx::query!("/* tenants::fleet */ select id from fleet").fetch_one(store.pool()))
        .await?;
    Ok(row.id.into())
}

/// The SHA-256 under which a key is stored.
pub fn hash_key(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// Whose key this is; none if it is unknown or revoked. The lookup is by hash, so its timing tells nothing.
pub async fn authenticate(store: &Store, key: &str) -> Result<Option<Principal>> {
    let row = store.read("tenants::authenticate", sqlx::query!(
        r#"/* tenants::authenticate */ select key_id as "key_id!", tenant_id as "tenant_id!", is_operator as "is_operator!"
           from gantry_authenticate($1)"#,
        &hash_key(key)[..]
    ).fetch_optional(store.pool())).await?;
    Ok(row.map(|row| Principal { key: row.key_id.into(), tenant: row.tenant_id.into(), operator: row.is_operator }))
}

/// Makes the tenant with its default project, or returns the one of this name.
pub async fn put_tenant(store: &Store, name: &str) -> Result<TenantId> {
    store
        .run("tenants::put_tenant", || async {
            let mut tx = store.begin("tenants::put_tenant").await?;
            let row = sqlx::query!(
                "/* tenants::put_tenant */ insert into tenants (id, name) values ($1, $2)
                 on conflict (name) do update set name = excluded.name returning id",
                TenantId::new().uuid(),
                name
            )
            .fetch_one(&mut *tx)
            .await?;
            sqlx::query!(
                "/* tenants::put_tenant */ insert into projects (id, tenant_id, name) values ($1, $2, $3)
                 on conflict (tenant_id, name) do nothing",
                ProjectId::new().uuid(),
                row.id,
                DEFAULT_PROJECT
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(row.id.into())
        })
        .await
}

/// What is set for a tenant; none leaves a setting as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// Its share of starts beside other tenants, 0.001 to 1,000.
    pub weight: Option<f64>,
    /// Jobs that may wait at once; `Some(None)` for any number.
    pub max_pending: Option<Option<i32>>,
}

/// Changes a tenant's settings; none if there is no tenant of this name.
pub async fn set(store: &Store, name: &str, settings: &Settings) -> Result<Option<TenantId>> {
    let statement = sqlx::query_scalar!(
        "/* tenants::set */
        update tenants set weight = coalesce($2, weight), max_pending = case when $3 then $4 else max_pending end
        where name = $1 returning id",
        name,
        settings.weight,
        settings.max_pending.is_some(),
        settings.max_pending.flatten()
    );
    let id = store.single("tenants::set", statement.fetch_optional(store.pool())).await?;
    Ok(id.map(Into::into))
}

/// Stores the hash of a key. The same key again changes nothing.
pub async fn put_key(store: &Store, tenant: TenantId, name: &str, key: &str, operator: bool) -> Result<()> {
    store.single("tenants::put_key", sqlx::query!(
        "/* tenants::put_key */ insert into api_keys (id, tenant_id, name, key_hash, is_operator) values ($1, $2, $3, $4, $5)
         on conflict (key_hash) do nothing",
        ApiKeyId::new().uuid(),
        tenant.uuid(),
        name,
        &hash_key(key)[..],
        operator
    )
    .execute(store.pool())).await?;
    Ok(())
}
