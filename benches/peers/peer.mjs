// How the Node.js peers are measured: the worker is a process of its own, the publisher is this one.

import { fork } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

export const DATABASE = process.env.PEER_DATABASE_URL
const JOBS = Number(process.env.PEER_JOBS)
// Jobs that nobody measures, before the others: connections, caches, statements. Their numbers begin with JOBS.
const WARM_UP = 500
const TOTAL = JOBS + WARM_UP
// How many jobs one call publishes.
export const PUBLISH_BATCH = 500
// A run that stands still for so many milliseconds has failed.
const STALLED = 60_000
const PAUSE = 5

/** In the worker: what a job calls with its number. Tells the publisher when the warm-up and when all have run. */
export function marker () {
  const marks = new Uint8Array(TOTAL)
  let count = 0
  const tell = () => process.send?.({ count })
  setInterval(tell, 1000)
  process.on('disconnect', () => process.exit())
  return number => {
    if (marks[number]) return
    marks[number] = 1
    count += 1
    if (count === WARM_UP || count === TOTAL) tell()
  }
}

/**
 * Publishes all jobs in batches by `publish(numbers)` while `script` runs as a worker with the argument `mode`, until
 * the peer's own books count as many: `stored(total)` is how many of `total` are done. Returns the times and counts.
 */
export async function measure ({ script, mode, publish, stored }) {
  const worker = fork(script, [mode, 'worker'], { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] })
  const log = createWriteStream(join(process.env.PEER_FOLDER, 'worker.log'))
  worker.stdout.pipe(log, { end: false })
  worker.stderr.pipe(log, { end: false })
  process.on('exit', () => worker.kill('SIGKILL'))
  for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(1))
  let marked = 0
  let notify = () => {}
  let stopping = false
  worker.on('message', ({ count }) => {
    if (count > marked) {
      marked = count
      notify()
    }
  })
  const ended = new Promise(resolve => worker.on('exit', resolve))
  ended.then(code => {
    if (!stopping) fail(`the worker ended with ${code}`)
  })

  async function publishAll (first, end) {
    for (let from = first; from < end; from += PUBLISH_BATCH) {
      const length = Math.min(PUBLISH_BATCH, end - from)
      await publish(Array.from({ length }, (_, index) => from + index))
    }
  }
  async function done (total) {
    while (marked < total) {
      const before = marked
      await new Promise(resolve => {
        const timer = setTimeout(resolve, STALLED)
        notify = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      if (marked === before) fail(`stands still at ${marked} of ${total}`)
    }
    // Asked only now, when it is a matter of moments.
    const since = performance.now()
    while (await stored(total) < total) {
      if (performance.now() - since > STALLED) fail(`stands still at ${await stored(total)} of ${total}`)
      await sleep(PAUSE)
    }
  }

  await publishAll(JOBS, TOTAL)
  await done(WARM_UP)
  const began = performance.now()
  await publishAll(0, JOBS)
  const published = performance.now()
  await done(TOTAL)
  const seconds = (performance.now() - began) / 1000
  const verified = marked === TOTAL && await stored(TOTAL) === TOTAL
  stopping = true
  worker.kill()
  await ended
  return { seconds, publish_seconds: (published - began) / 1000, verified }
}

function fail (why) {
  console.error(`peer: ${why}`)
  process.exit(1)
}
