//! The log: chunks by (job, attempt, stream, byte offset), with the backend's cursor stored beside them in the
//! same transaction, so that an adopter continues without gap or duplicate.

use std::sync::Arc;

use bytes::Bytes;
use gantry_core::message::Token;
use gantry_core::{JobId, TenantId, WorkerId};
use strum::{Display, EnumString, IntoStaticStr};
use uuid::Uuid;

use crate::attempts::columns;
use crate::error::{Result, parse};
use crate::tx::{Scope, Store};

/// About what a chunk costs besides its bytes: the row's other columns and its index entries.
const ROW_BYTES: usize = 256;

/// One of a container's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Display, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Up to where a log is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The backend's cursor.
    pub cursor: Option<String>,
    /// Chunks stored.
    pub sequence: i32,
    /// Bytes of stdout stored or left out.
    pub stdout_bytes: i64,
    /// Bytes of stderr stored or left out.
    pub stderr_bytes: i64,
}

/// A piece of log to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChunk {
    /// Which stream.
    pub stream: Stream,
    /// Where in the stream it begins.
    pub byte_offset: i64,
    /// Its place among the chunks of the attempt, from 1.
    pub sequence: i32,
    /// Bytes left out right before it.
    pub omitted_bytes: i64,
    /// The bytes, as the backend gave them: not copied for this.
    pub data: Bytes,
}

/// What to add to one attempt's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The token.
    pub token: Token,
    /// The tenant.
    pub tenant: TenantId,
    /// The pieces, in order.
    pub chunks: Vec<NewChunk>,
    /// Up to where the log is stored then.
    pub position: Position,
}

impl Append {
    /// Its size in bytes, with an allowance for each chunk's row.
    pub fn weight(append: &Arc<Self>) -> usize {
        append.chunks.iter().map(|chunk| chunk.data.len() + ROW_BYTES).sum::<usize>() + ROW_BYTES
    }
}

/// A stored piece of log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The attempt.
    pub attempt: i32,
    /// Its place among the chunks of the attempt.
    pub sequence: i32,
    /// Which stream.
    pub stream: Stream,
    /// Where in the stream it begins.
    pub byte_offset: i64,
    /// Bytes left out right before it.
    pub omitted_bytes: i64,
    /// The bytes.
    pub data: Vec<u8>,
}

/// Adds to many logs at once. What a stale token brings is dropped: the new owner reads it from the backend.
pub async fn append(store: &Store, worker: WorkerId, appends: &[Arc<Append>]) -> Result<()> {
    let (jobs, attempts, epochs) = columns(appends.iter().map(|append| &append.token));
    let tenants: Vec<Uuid> = appends.iter().map(|append| append.tenant.uuid()).collect();
    let cursors: Vec<Option<String>> = appends.iter().map(|append| append.position.cursor.clone()).collect();
    let sequences: Vec<i32> = appends.iter().map(|append| append.position.sequence).collect();
    let stdout: Vec<i64> = appends.iter().map(|append| append.position.stdout_bytes).collect();
    let stderr: Vec<i64> = appends.iter().map(|append| append.position.stderr_bytes).collect();
    let chunks = || appends.iter().flat_map(|append| append.chunks.iter().map(|chunk| (append.token, chunk)));
    let chunk_jobs: Vec<Uuid> = chunks().map(|(token, _)| token.job.uuid()).collect();
    let chunk_attempts: Vec<i32> = chunks().map(|(token, _)| token.attempt).collect();
    let streams: Vec<String> = chunks().map(|(_, chunk)| chunk.stream.to_string()).collect();
    let offsets: Vec<i64> = chunks().map(|(_, chunk)| chunk.byte_offset).collect();
    let chunk_sequences: Vec<i32> = chunks().map(|(_, chunk)| chunk.sequence).collect();
    let omitted: Vec<i64> = chunks().map(|(_, chunk)| chunk.omitted_bytes).collect();
    let data: Vec<&[u8]> = chunks().map(|(_, chunk)| chunk.data.as_ref()).collect();
    store
        .run("logs::append", || async {
            let mut tx = store.begin_kept_as("logs::append", worker).await?;
            sqlx::query!(
                "/* logs::append */
                with p as (
                    select * from unnest($1::uuid[], $2::int[], $3::int[], $4::uuid[], $5::text[], $6::int[], $7::int8[], $8::int8[])
                        as p(job_id, attempt, epoch, tenant_id, cursor, sequence, stdout_bytes, stderr_bytes)
                ), e as (
                    update container_executions e
                    set log_cursor = p.cursor, log_sequence = p.sequence, stdout_bytes = p.stdout_bytes, stderr_bytes = p.stderr_bytes
                    from p where e.job_id = p.job_id and e.attempt = p.attempt and e.epoch = p.epoch and num_nulls(e.ended_at) = 1
                    returning e.job_id, e.attempt, e.tenant_id
                )
                insert into container_log_chunks (job_id, attempt, stream, byte_offset, sequence, tenant_id, omitted_bytes, data)
                select e.job_id, e.attempt, c.stream::log_stream, c.byte_offset, c.sequence, e.tenant_id, c.omitted, c.data
                from unnest($9::uuid[], $10::int[], $11::text[], $12::int8[], $13::int[], $14::int8[], $15::bytea[])
                    as c(job_id, attempt, stream, byte_offset, sequence, omitted, data)
                join e on e.job_id = c.job_id and e.attempt = c.attempt
                on conflict do nothing",
                &jobs,
                &attempts,
                &epochs,
                &tenants,
                &cursors as &[Option<String>],
                &sequences,
                &stdout,
                &stderr,
                &chunk_jobs,
                &chunk_attempts,
                &streams,
                &offsets,
                &chunk_sequences,
                &omitted,
                &data as &[&[u8]]
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(())
        })
        .await
}

/// A page of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The chunks, in order.
    pub chunks: Vec<Chunk>,
    /// Whether chunks come after these already.
    pub more: bool,
}

/// Up to `limit` chunks of a job after (attempt, sequence), in order, of `max_bytes` together; one larger chunk is a
/// page of its own.
pub async fn read(
    store: &Store,
    scope: Scope,
    job: JobId,
    after: (i32, i32),
    limit: i64,
    max_bytes: i64,
) -> Result<Page> {
    store
        .bounded("logs::read", async {
            let mut tx = store.begin_scoped("logs::read", scope).await?;
            // One more than asked for, to know whether there is more. The sizes are known without fetching the bytes.
            let rows = sqlx::query!(
                r#"/* logs::read */
        select attempt as "attempt!", sequence as "sequence!", stream::text as "stream!", byte_offset as "byte_offset!",
            omitted_bytes as "omitted_bytes!", case when fits then data end as data
        from (
            select *, place <= $4::bigint and (place = 1 or size <= $5) as fits from (
                select *, row_number() over w as place, sum(octet_length(data)) over w as size from (
                    select * from container_log_chunks
                    where job_id = $1 and (attempt, sequence) > ($2, $3) order by attempt, sequence limit $4::bigint + 1
                ) c window w as (order by attempt, sequence)
            ) c
        ) c
        order by attempt, sequence"#,
                job.uuid(),
                after.0,
                after.1,
                limit,
                max_bytes
            )
            .fetch_all(&mut *tx)
            .await?;
            tx.commit().await?;
            let read = rows.len();
            let chunks: Vec<Chunk> = rows
                .into_iter()
                .map_while(|row| {
                    row.data
                        .map(|data| (row.stream, data, row.attempt, row.sequence, row.byte_offset, row.omitted_bytes))
                })
                .map(|(stream, data, attempt, sequence, byte_offset, omitted_bytes)| {
                    let stream = parse("stream", &stream)?;
                    Ok(Chunk { attempt, sequence, stream, byte_offset, omitted_bytes, data })
                })
                .collect::<Result<_>>()?;
            Ok(Page { more: chunks.len() < read, chunks })
        })
        .await
}

/// The stored beginning and end of each stream, about `max_bytes` each: for the excerpts of an attempt whose log
/// is no longer in memory.
pub async fn ends(store: &Store, token: Token, max_bytes: i64) -> Result<(Vec<u8>, Vec<u8>)> {
    let rows = store.read("logs::ends", sqlx::query!(
        r#"/* logs::ends */
        select c.stream::text as "stream!", c.data from container_log_chunks c
        join container_executions e on e.job_id = c.job_id and e.attempt = c.attempt
        where c.job_id = $1 and c.attempt = $2 and (c.byte_offset < $3
            or c.byte_offset + octet_length(c.data) > case c.stream when 'stdout' then e.stdout_bytes else e.stderr_bytes end - $3)
        order by c.sequence"#,
        token.job.uuid(),
        token.attempt,
        max_bytes
    ).fetch_all(store.pool())).await?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    for row in rows {
        match parse("stream", &row.stream)? {
            Stream::Stdout => stdout.extend(row.data),
            Stream::Stderr => stderr.extend(row.data),
        }
    }
    Ok((stdout, stderr))
}
