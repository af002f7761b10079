// Measures pg-boss: a queue in Postgres alone that keeps, like Gantry, the jobs that are done (for 12 hours in its
// table of jobs, then in an archive).
//
// Guarantee: at least once. A job is a row that is committed when sent, updated when a worker fetches it and updated
// again when it is completed, both for a whole batch at a time. A crashed worker's jobs run again when they expire,
// after 15 minutes. "work" is its own loop, which looks for jobs at most every half second, so it is given large
// batches; "fetch" calls fetch() and complete() in a loop, with no pause.

import { createRequire } from 'node:module'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import PgBoss from 'pg-boss'
import { DATABASE, PUBLISH_BATCH, marker, measure } from './peer.mjs'

const QUEUE = 'no-op'
// So many that the half second is not what is measured: 16 000 jobs per second are the limit.
const LOOPS = { work: 8, fetch: 4 }
const BATCH = { work: 1000, fetch: 500 }
const MODES = {
  work: `${LOOPS.work} times work() with batchSize ${BATCH.work} and pollingIntervalSeconds 0.5`,
  fetch: `${LOOPS.fetch} loops of fetch() with batchSize ${BATCH.fetch} and complete()`
}
const [mode, role] = process.argv.slice(2)

async function start (options) {
  const boss = new PgBoss({ connectionString: DATABASE, ...options })
  boss.on('error', console.error)
  await boss.start()
  return boss
}

async function work () {
  const mark = marker()
  const boss = await start()
  const handle = async jobs => jobs.forEach(job => mark(job.data.number))
  const loop = async () => {
    for (;;) {
      const jobs = await boss.fetch(QUEUE, { batchSize: BATCH.fetch })
      if (jobs.length > 0) {
        await handle(jobs)
        await boss.complete(QUEUE, jobs.map(job => job.id))
      } else {
        await sleep(10)
      }
    }
  }
  await Promise.all(Array.from({ length: LOOPS[mode] }, () => mode === 'fetch'
    ? loop()
    : boss.work(QUEUE, { batchSize: BATCH.work, pollingIntervalSeconds: 0.5 }, handle)))
}

async function publisher () {
  // The worker does the maintenance.
  const boss = await start({ supervise: false, schedule: false })
  await boss.createQueue(QUEUE)
  const books = new pg.Client(DATABASE)
  await books.connect()
  const times = await measure({
    script: fileURLToPath(import.meta.url),
    mode,
    publish: numbers => boss.insert(numbers.map(number => ({ name: QUEUE, data: { number } }))),
    stored: async () => {
      const sql = "select count(*)::int as count from pgboss.job where name = $1 and state = 'completed'"
      return (await books.query(sql, [QUEUE])).rows[0].count
    }
  })
  console.log(JSON.stringify({
    version: createRequire(import.meta.url)('pg-boss/package.json').version,
    configuration: `Postgres; one worker process, ${MODES[mode]}; insert() with ${PUBLISH_BATCH} jobs per call, one ` +
      'call after the other',
    durability: 'at least once: a row is committed for each job when sent (synchronous_commit on), updated when ' +
      'fetched and when completed, a batch at a time; jobs that are done are kept',
    ...times
  }))
  await books.end()
  await boss.stop({ graceful: false })
  process.exit()
}

await (role === 'worker' ? work() : publisher())
