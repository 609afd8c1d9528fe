// The edge as a subject: the built Worker in workerd, and beside it one that passes everything on and knows nothing.
import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { mintApiKey } from '../../shared/api-key.ts'
import { runCommand } from '../real/command.ts'
import {
  CORE_OF_SUBJECT,
  CORE_OF_THE_REST,
  cpuMsOf,
  freePort,
  type Process,
  type Processes,
  pinAll,
  residentMbOf,
  script,
} from './processes.ts'

/** Of one run, and of nothing else. */
export type EdgeSecrets = { readonly pepper: string; readonly signingSecret: string; readonly apiKey: string }

export const SIGNING_KEY_ID = 'bench'

/** Forwards what it gets, read whole as the edge must read it, and does nothing else with it. */
const PASS_THROUGH = `export default {
  async fetch(request, env) {
    const { method, headers } = request
    const body = method === 'POST' ? await request.arrayBuffer() : null
    return fetch(env.ROUTER_URL + new URL(request.url).pathname, { method, headers, body })
  },
}
`

export function makeEdgeSecrets(): EdgeSecrets {
  const secret = () => randomBytes(32).toString('base64url')
  return { pepper: secret(), signingSecret: secret(), apiKey: mintApiKey(randomBytes) }
}

export function edgeKeysOf({ signingSecret }: EdgeSecrets): string {
  return `${SIGNING_KEY_ID}:${signingSecret}`
}

/** Builds it as it is deployed. Gives the file. */
export async function buildWorker(directory: string): Promise<string> {
  const wrangler = join(dirname(createRequire(import.meta.url).resolve('wrangler/package.json')), 'bin/wrangler.js')
  const outdir = join(directory, 'worker')
  const config = script('../../wrangler.toml')
  const args = [wrangler, 'deploy', '--dry-run', '--config', config, '--outdir', outdir]
  // It warns of secrets that the host does supply.
  const env = { ...process.env, WRANGLER_SEND_METRICS: 'false', WRANGLER_LOG: 'error', NO_COLOR: '1' }
  await runCommand(process.execPath, args, { env })
  return join(outdir, 'worker.js')
}

export function writePassThrough(directory: string): string {
  const file = join(directory, 'pass-through.js')
  writeFileSync(file, PASS_THROUGH)
  return file
}

/** Its CPU time and memory are workerd's. `path` answers 200 when all is well. */
export async function startWorker(
  processes: Processes,
  name: string,
  file: string,
  routerUrl: string,
  { pepper, apiKey, signingSecret }: EdgeSecrets,
  path: string,
): Promise<Process> {
  const port = await freePort()
  const host = await processes.start({
    name,
    core: CORE_OF_THE_REST,
    command: process.execPath,
    args: [script('edge-host.ts'), String(port), routerUrl, file, apiKey],
    port,
    path,
    env: {
      KEY_PEPPER: pepper,
      EDGE_SIGNING_KEYS: `${SIGNING_KEY_ID}:${signingSecret}`,
      WRANGLER_LOG: 'error',
      WRANGLER_SEND_METRICS: 'false',
    },
  })
  const pid = childNamed(host.pid, 'workerd')
  if (processes.pin) pinAll(pid, CORE_OF_SUBJECT)
  return { ...host, pid, cpuMs: () => cpuMsOf(pid), residentMb: () => residentMbOf(pid) }
}

function childNamed(pid: number | undefined, name: string): number {
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    for (const child of readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').split(' ').filter(Boolean)) {
      if (readFileSync(`/proc/${child}/comm`, 'utf8').trim() === name) return Number(child)
    }
  }
  throw new Error(`process ${pid} has not started ${name}`)
}
