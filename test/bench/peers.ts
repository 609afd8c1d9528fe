// The engine of a benchmark, and the subjects that stand before it.
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  CORE_OF_SUBJECT,
  CORE_OF_THE_REST,
  createProcesses,
  findProgram,
  freePort,
  notesOf,
  type Process,
  type Processes,
  type Subject,
  script,
} from './processes.ts'

export type Machine = {
  readonly subjects: readonly Subject[]
  /** Who has ended or written to stderr, and the end of that. */
  readonly complaints: () => string
  /** What is missing here, in words. */
  readonly notes: readonly string[]
  readonly stop: () => Promise<void>
}

export type EngineOptions = { readonly tokens: number; readonly intervalMs: number }

export const NO_NGINX = 'nginx is not installed: no ratio to it'

/** Starts the engine and all subjects before it; `stop` ends them. */
export async function startMachine(engine: EngineOptions, pin: boolean): Promise<Machine> {
  const processes = createProcesses(pin)
  const notes = notesOf(pin)
  const { complaints, stop } = processes
  try {
    const enginePort = await startEngine(processes, engine)
    const subjects: Subject[] = []
    const nginx = await startNginx(processes, enginePort)
    if (nginx) subjects.push(nginx)
    else notes.push(NO_NGINX)
    subjects.push(await startRelay(processes, enginePort))
    subjects.push(await startBenchRouter(processes, `http://127.0.0.1:${enginePort}`))
    return { subjects, notes, complaints, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Gives its port. */
export async function startEngine(processes: Processes, { tokens, intervalMs }: EngineOptions): Promise<number> {
  const port = await freePort()
  const args = [script('engine.ts'), String(port), String(tokens), String(intervalMs)]
  const { execPath: command } = process
  await processes.start({ name: 'engine', core: CORE_OF_THE_REST, command, args, port, path: '/health' })
  return port
}

/** Undefined when it is not installed. */
export async function startNginx(processes: Processes, enginePort: number): Promise<Process | undefined> {
  const command = findProgram('nginx')
  if (command === undefined) return undefined
  const { directory } = processes
  const port = await freePort()
  const file = join(directory, 'nginx.conf')
  writeFileSync(file, nginxConfig(directory, port, enginePort))
  const args = ['-p', directory, '-c', file, '-e', join(directory, 'error.log')]
  return processes.start({ name: 'nginx', core: CORE_OF_SUBJECT, command, args, port, path: '/health' })
}

async function startRelay(processes: Processes, enginePort: number): Promise<Process> {
  const port = await freePort()
  const args = [script('relay.ts'), String(port), String(enginePort)]
  const { execPath: command } = process
  return processes.start({ name: 'relay', core: CORE_OF_SUBJECT, command, args, port, path: '/health' })
}

export type RouterOptions = {
  readonly name?: string
  readonly core?: number
  /** Further lines of its configuration. */
  readonly settings?: readonly string[]
}

export async function startBenchRouter(
  processes: Processes,
  engineUrl: string,
  { name = 'router', core = CORE_OF_SUBJECT, settings = [] }: RouterOptions = {},
): Promise<Process> {
  const port = await freePort()
  const lines = [
    `port: ${port}`,
    `admin: { port: ${await freePort()} }`,
    'logLevel: warn',
    'endpoints:',
    `  - url: ${engineUrl}`,
    ...settings,
  ]
  const file = join(processes.directory, `router-${port}.yaml`)
  writeFileSync(file, `${lines.join('\n')}\n`)
  const args = [script('../../cluster/main.ts'), 'router', '--config', file]
  return processes.start({ name, core, command: process.execPath, args, port, path: '/readyz' })
}

function nginxConfig(directory: string, port: number, enginePort: number): string {
  // Without a master the worker is the process that was started: its CPU time is all there is.
  return `daemon off;
master_process off;
worker_processes 1;
pid ${directory}/nginx.pid;
error_log ${directory}/error.log warn;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 16m;
  client_body_buffer_size 1m;
  client_body_temp_path ${directory}/body;
  proxy_temp_path ${directory}/proxy;
  fastcgi_temp_path ${directory}/fastcgi;
  uwsgi_temp_path ${directory}/uwsgi;
  scgi_temp_path ${directory}/scgi;
  upstream engine {
    server 127.0.0.1:${enginePort};
    keepalive 256;
    keepalive_requests 1000000000;
  }
  server {
    listen 127.0.0.1:${port} backlog=4096;
    location / {
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }
  }
}
`
}
