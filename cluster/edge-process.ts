// The edge on this machine: the real workerd, run by `wrangler dev` in a process group of its own.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { PROJECT_DIR } from './keys.ts'
import { UserError } from './user-error.ts'

const READY_TIMEOUT_MS = 60_000
const POLL_MS = 100
/** wrangler ends within 0.1 s of SIGINT; what is still there after this is ended for it. */
const STOP_GRACE_MS = 1_500

export type EdgeProcess = { readonly url: string; readonly close: () => Promise<void> }

export type EdgeOptions = {
  readonly port: number
  readonly routerUrl: string
  /** An env file with KEY_PEPPER and EDGE_SIGNING_KEYS. */
  readonly secretsFile: string
  readonly logFile: string
  readonly env: NodeJS.ProcessEnv
  /** Called when it ends by itself. */
  readonly onExit: (message: string) => void
}

/** Resolves when the edge answers. */
export async function startEdge(options: EdgeOptions): Promise<EdgeProcess> {
  await assertFree(options.port)
  const log = openSync(options.logFile, 'w')
  const wrangler = join(dirname(createRequire(import.meta.url).resolve('wrangler/package.json')), 'bin/wrangler.js')
  const child = spawn(
    process.execPath,
    [
      wrangler,
      'dev',
      ...['--config', join(PROJECT_DIR, 'wrangler.toml'), '--env-file', options.secretsFile],
      ...['--ip', '127.0.0.1', '--port', String(options.port), '--inspector-port', '0'],
      ...['--var', `ROUTER_URL:${options.routerUrl}`, '--show-interactive-dev-session=false', '--log-level', 'log'],
    ],
    {
      cwd: PROJECT_DIR,
      detached: true,
      stdio: ['ignore', log, log],
      env: options.env,
    },
  )
  closeSync(log)
  const url = `http://127.0.0.1:${options.port}`
  // A crash of this process must not leave the edge behind.
  const killGroup = () => signalGroup(child, 'SIGKILL')
  process.once('exit', killGroup)
  let closing = false
  child.once('exit', (code) => {
    if (!closing) options.onExit(`the edge ended with code ${code}; its log is ${options.logFile}`)
  })

  async function close(): Promise<void> {
    closing = true
    if (child.exitCode === null && child.signalCode === null) {
      signalGroup(child, 'SIGINT')
      await Promise.race([once(child, 'exit'), delay(STOP_GRACE_MS, undefined, { ref: false })])
    }
    // workerd and esbuild are in the group too, and may outlive wrangler.
    killGroup()
    process.off('exit', killGroup)
  }

  try {
    await ready(url, child, options.logFile)
  } catch (error) {
    await close()
    throw error
  }
  return { url, close }
}

async function ready(url: string, child: ChildProcess, logFile: string): Promise<void> {
  const deadline = performance.now() + READY_TIMEOUT_MS
  while (performance.now() < deadline) {
    if (child.exitCode !== null) throw new UserError(`the edge did not start: ${lastWords(logFile)}`)
    try {
      const answer = await fetch(`${url}/healthz`, { signal: AbortSignal.timeout(2_000) })
      if (answer.ok) return
    } catch {
      // Not there yet.
    }
    await delay(POLL_MS)
  }
  throw new UserError(`the edge did not answer within ${READY_TIMEOUT_MS / 1000} s: ${lastWords(logFile)}`)
}

function lastWords(logFile: string): string {
  const lines = readFileSync(logFile, 'utf8').split('\n')
  const error = lines.findLast((line) => line.includes('ERROR'))
  return `${error?.trim() ?? 'no error was logged'} (log: ${logFile})`
}

/** wrangler would take the next free port in silence: a taken one is an error. */
async function assertFree(port: number): Promise<void> {
  const probe = createServer()
  probe.listen(port, '127.0.0.1')
  try {
    await once(probe, 'listening')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = code === 'EADDRINUSE' ? 'the port is taken. Stop what listens there, or choose another' : code
    throw new UserError(`the edge cannot listen on 127.0.0.1:${port}: ${why} with --port`)
  }
  probe.close()
  await once(probe, 'close')
}

function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return
  try {
    process.kill(-child.pid, signal)
  } catch {
    // The group is gone: what was wanted.
  }
}
