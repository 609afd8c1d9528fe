// Starts a real redis-server on loopback. It saves nothing, and never outlives this process.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort } from '../e2e/program.ts'
import { installRedis } from './install-redis.ts'
import { LOG_DIR } from './vllm.ts'

const READY_TIMEOUT_MS = 20_000
const POLL_MS = 10

export type Redis = {
  readonly port: number
  /** SIGKILL, as a node that is lost; what it held is lost too. */
  readonly kill: () => Promise<void>
  /** Again on its port, after it was killed. */
  readonly start: () => Promise<void>
  /** SIGSTOP and SIGCONT. */
  readonly pause: () => void
  readonly resume: () => void
  readonly stop: () => Promise<void>
}

/** Resolves when it answers. `args`: options of redis-server, with their dashes. */
export async function startRedis(args: readonly string[] = []): Promise<Redis> {
  const { command, env } = await installRedis()
  const folder = mkdtempSync(join(tmpdir(), 'warmpath-redis-'))
  const port = await freePort()
  const pidFile = join(folder, 'pid')
  mkdirSync(LOG_DIR, { recursive: true })
  const all = [
    ...['--bind', '127.0.0.1', '--port', String(port), '--dir', folder, '--pidfile', pidFile],
    ...['--save', '', '--appendonly', 'no', '--daemonize', 'no', ...args],
  ]
  let end = async (): Promise<void> => {}

  async function start(): Promise<void> {
    const logFile = join(LOG_DIR, `redis-${port}.log`)
    const supervisor = fork(fileURLToPath(new URL('./supervise.ts', import.meta.url)), [logFile, command, ...all], {
      env,
      detached: true,
      execArgv: [],
    })
    const ended = once(supervisor, 'exit')
    end = async () => {
      if (supervisor.connected) supervisor.send('kill')
      await ended
    }
    const deadlineMs = performance.now() + READY_TIMEOUT_MS
    while (!(await answers(port))) {
      const gone = supervisor.exitCode !== null
      if (gone || performance.now() > deadlineMs) {
        await end()
        throw new Error(
          `redis-server ${gone ? 'ended' : 'did not answer'}; its log says:\n${readFileSync(logFile, 'utf8')}`,
        )
      }
      await delay(POLL_MS)
    }
  }

  const signal = (name: NodeJS.Signals) => process.kill(Number(readFileSync(pidFile, 'utf8')), name)
  await start()
  return {
    port,
    kill: () => end(),
    start,
    pause: () => void signal('SIGSTOP'),
    resume: () => void signal('SIGCONT'),
    async stop() {
      await end()
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** That it wants a password is an answer. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write('PING\r\n'))
    socket.once('data', (said) => {
      socket.destroy()
      resolve(/^(\+PONG|-NOAUTH)/.test(said.toString()))
    })
    socket.on('error', () => {})
    socket.once('close', () => resolve(false))
  })
}
