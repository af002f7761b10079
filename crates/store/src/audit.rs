//! What operators did that gives a promise up or steers the fleet: written in the transaction that did it.

use chrono::{DateTime, Utc};
use gantry_core::{AuditId, TenantId};
use serde_json::Value;
use uuid::Uuid;

use crate::error::Result;
use crate::tx::{Scope, Store};

/// Who acts, for whom.
#[derive(Clone, Debug)]
pub struct Actor {
    /// The tenant of the key.
    pub tenant: TenantId,
    /// `key:` and the id of the API key.
    pub name: String,
}

/// One deed.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The id: a UUIDv7, so that ids sort by time.
    pub id: AuditId,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// The id of the host or job.
    pub subject: String,
    /// What else is worth knowing.
    pub detail: Value,
    /// When.
    pub at: DateTime<Utc>,
}

/// Writes a deed down.
pub(crate) async fn insert(
    tx: &mut sqlx::PgConnection,
    actor: &Actor,
    action: &str,
    subject: Uuid,
    detail: &Value,
) -> Result<()> {
    sqlx::query!(
        "/* audit::insert */
        insert into audit_log (id, tenant_id, actor, action, subject, detail) values ($1, $2, $3, $4, $5, $6)",
        AuditId::new().uuid(),
        actor.tenant.uuid(),
        actor.name,
        action,
        subject.to_string(),
        detail
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// The deeds that `scope` may see, newest first.
pub async fn list(store: &Store, scope: Scope, before: Option<AuditId>, limit: i64) -> Result<Vec<Entry>> {
    store
        .bounded("audit::list", async {
            let mut tx = store.begin_scoped("audit::list", scope).await?;
            let rows = sqlx::query!(
                "/* audit::list */
        select id, actor, action, subject, detail, created_at from audit_log
        where $1::uuid is null or id < $1 order by id desc limit $2",
                before.map(AuditId::uuid),
                limit
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            let entries = rows.into_iter().map(|row| Entry {
                id: row.id.into(),
                actor: row.actor,
                action: row.action,
                subject: row.subject,
                detail: row.detail,
                at: row.created_at,
            });
            Ok(entries.collect())
        })
        .await
}
