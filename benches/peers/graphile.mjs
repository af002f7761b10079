// Measures graphile-worker: a queue in Postgres alone.
//
// Guarantee: at least once. A job is a row that is committed when added, locked by its worker while it runs, and
// deleted when done: there is no history. A crashed worker's jobs run again after four hours, when their locks are
// taken for lost. A "local queue" locks many jobs at a time for one worker; "batched" also deletes those done together,
// so that a crash repeats more jobs that had ended.

import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import pg from 'pg'
import { DATABASE, PUBLISH_BATCH, marker, measure } from './peer.mjs'

// No line in the log for each job that succeeds; read when the package is loaded.
process.env.NO_LOG_SUCCESS = '1'
const { makeWorkerUtils, run } = await import('graphile-worker')

const CONCURRENCY = 24
const LOCAL_QUEUE = { localQueue: { size: 500 } }
const MODES = {
  plain: [{}, 'defaults'],
  'local-queue': [LOCAL_QUEUE, 'localQueue.size 500'],
  batched: [{ ...LOCAL_QUEUE, completeJobBatchDelay: 0 }, 'localQueue.size 500, completeJobBatchDelay 0']
}
const [mode, role] = process.argv.slice(2)
const [settings, described] = MODES[mode]

async function work () {
  const mark = marker()
  const worker = await run({
    preset: {
      worker: { connectionString: DATABASE, concurrentJobs: CONCURRENCY, maxPoolSize: CONCURRENCY, ...settings }
    },
    taskList: { no_op: ({ number }) => mark(number) }
  })
  await worker.promise
}

async function publisher () {
  const utils = await makeWorkerUtils({ connectionString: DATABASE })
  await utils.migrate()
  const books = new pg.Client(DATABASE)
  await books.connect()
  const times = await measure({
    script: fileURLToPath(import.meta.url),
    mode,
    publish: numbers => utils.addJobs(numbers.map(number => ({ identifier: 'no_op', payload: { number } }))),
    // What is done is gone, and what failed would still be there.
    stored: async total => {
      const { rows } = await books.query('select count(*)::int as count from graphile_worker._private_jobs')
      return total - rows[0].count
    }
  })
  console.log(JSON.stringify({
    version: createRequire(import.meta.url)('graphile-worker/package.json').version,
    configuration: `Postgres; one worker process, concurrency ${CONCURRENCY}, pool ${CONCURRENCY}, ${described}; ` +
      `addJobs() with ${PUBLISH_BATCH} jobs per call, one call after the other`,
    durability: 'at least once: a row is committed for each job when added (synchronous_commit on), locked while it ' +
      'runs, deleted when done; no history',
    ...times
  }))
  await books.end()
  await utils.release()
}

await (role === 'worker' ? work() : publisher())
process.exit()
