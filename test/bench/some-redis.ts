// The Redis of a benchmark: the real one where there is one, else the small one of the tests.
import { runCommand } from '../real/command.ts'
import { findRedis } from '../real/install-redis.ts'
import { startRedis } from '../real/redis.ts'
import { startRespServer } from '../resp-server.ts'
import type { Processes } from './processes.ts'

/** `about`: which it is, in words. */
export type SomeRedis = { readonly url: string; readonly about: string }

/** Ends with the processes. */
export async function startSomeRedis(processes: Processes): Promise<SomeRedis> {
  const program = findRedis()
  if (!program) {
    const server = await startRespServer()
    processes.alsoStop(server.stop)
    const about = "the tests' own RESP server, for want of a redis-server (npm run test:real -- redis installs one)"
    return { url: urlOf(server.port), about }
  }
  const version = await runCommand(program.command, ['--version'], { env: program.env })
  const redis = await startRedis()
  processes.alsoStop(redis.stop)
  return { url: urlOf(redis.port), about: `redis-server ${/v=(\S+)/.exec(version)?.[1] ?? ''}` }
}

function urlOf(port: number): string {
  return `redis://127.0.0.1:${port}`
}
