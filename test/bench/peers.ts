// The processes of a benchmark: the engine, and the subjects that stand before it. Everything listens on loopback, and
// only what was started here is ended.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { availableParallelism, tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'

export type Subject = {
  readonly name: string
  readonly port: number
  /** CPU time of all its threads so far, user and system. */
  readonly cpuMs: () => number
  readonly residentMb: () => number
  readonly stop: () => Promise<void>
}

export type Machine = {
  readonly subjects: readonly Subject[]
  /** Who has ended or written to stderr, and the end of that. */
  readonly complaints: () => string
  /** What is missing here, in words. */
  readonly notes: readonly string[]
  readonly stop: () => Promise<void>
}

/** USER_HZ: the unit of /proc's CPU times on every Linux. */
const TICKS_PER_SECOND = 100
const READY_MS = 20_000
const STOP_MS = 5_000
const COMPLAINT_CHARS = 2_000
const CORE_OF_SUBJECT = 1
const CORE_OF_THE_REST = 0

/** Leaves a core to the subjects alone, if there are two; tells whether it did. Once for a process. */
export function leaveCoreToSubjects(): boolean {
  if (availableParallelism() < 2 || findProgram('taskset') === undefined) return false
  return spawnSync('taskset', ['-acp', String(CORE_OF_THE_REST), String(process.pid)]).status === 0
}

export type EngineOptions = { readonly tokens: number; readonly intervalMs: number }

/** Starts the engine and all subjects before it; `stop` ends them. */
export async function startMachine(engine: EngineOptions, pin: boolean): Promise<Machine> {
  if (!existsSync('/proc/self/stat')) throw new Error('the benchmark reads CPU times from /proc: it needs Linux')
  const notes = pin ? [] : ['nothing is pinned to a core: that takes taskset and two cores']
  const directory = mkdtempSync(join(tmpdir(), 'warmpath-bench-'))
  const started: Process[] = []

  async function stop(): Promise<void> {
    await Promise.all(started.map((one) => one.stop()))
    rmSync(directory, { recursive: true, force: true })
  }

  function complaints(): string {
    return started
      .filter((one) => one.endedBy() !== undefined || one.complaints() !== '')
      .map((one) => `${one.name}, ${one.endedBy() ?? 'running'}: ${one.complaints()}`)
      .join('\n')
  }

  async function start(name: string, core: number, command: string, args: string[], port: number, path: string) {
    const subject = spawnProcess(
      name,
      port,
      pin ? ['taskset', '-c', String(core), command, ...args] : [command, ...args],
    )
    started.push(subject)
    await ready(subject, path)
    return subject
  }

  try {
    const enginePort = await freePort()
    const engineArgs = [script('engine.ts'), String(enginePort), String(engine.tokens), String(engine.intervalMs)]
    await start('engine', CORE_OF_THE_REST, process.execPath, engineArgs, enginePort, '/health')

    const subjects: Subject[] = []
    const nginx = findProgram('nginx')
    if (nginx) {
      const port = await freePort()
      const file = join(directory, 'nginx.conf')
      writeFileSync(file, nginxConfig(directory, port, enginePort))
      const args = ['-p', directory, '-c', file, '-e', join(directory, 'error.log')]
      subjects.push(await start('nginx', CORE_OF_SUBJECT, nginx, args, port, '/health'))
    } else {
      notes.push('nginx is not installed: no ratio to it')
    }

    const relayPort = await freePort()
    const relayArgs = [script('relay.ts'), String(relayPort), String(enginePort)]
    subjects.push(await start('relay', CORE_OF_SUBJECT, process.execPath, relayArgs, relayPort, '/health'))

    const port = await freePort()
    const file = join(directory, 'router.yaml')
    writeFileSync(file, routerConfig(port, await freePort(), enginePort))
    const args = [script('../../cluster/main.ts'), 'router', '--config', file]
    subjects.push(await start('router', CORE_OF_SUBJECT, process.execPath, args, port, '/readyz'))
    return { subjects, notes, complaints, stop }
  } catch (error) {
    await stop()
    throw error
  }
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

function routerConfig(port: number, adminPort: number, enginePort: number): string {
  return `port: ${port}
admin: { port: ${adminPort} }
logLevel: warn
endpoints:
  - url: http://127.0.0.1:${enginePort}
`
}

function spawnProcess(name: string, port: number, [command = '', ...args]: readonly string[]): Process {
  // Engine and relay end with their stdin, should this process be killed.
  const child = spawn(command, args, { stdio: ['pipe', 'ignore', 'pipe'] })
  let complaints = ''
  child.stderr.on('data', (data: Buffer) => {
    complaints = (complaints + data.toString()).slice(-COMPLAINT_CHARS)
  })
  child.on('error', (error) => {
    complaints += error.message
  })
  const kill = () => void child.kill('SIGKILL')
  process.on('exit', kill)
  const exited = new Promise<void>((resolve) => {
    child.on('close', () => {
      process.off('exit', kill)
      resolve()
    })
  })
  function endedBy(): string | undefined {
    if (child.pid === undefined) return 'never started'
    return child.signalCode ?? (child.exitCode === null ? undefined : `exit status ${child.exitCode}`)
  }
  return {
    name,
    port,
    cpuMs: () => cpuMsOf(child.pid),
    residentMb: () => Number(/VmRSS:\s*([0-9]+)/.exec(readFileSync(`/proc/${child.pid}/status`, 'utf8'))?.[1]) / 1024,
    complaints: () => complaints,
    endedBy,
    async stop() {
      if (endedBy() !== undefined) return
      child.kill('SIGTERM')
      const timer = setTimeout(kill, STOP_MS)
      await exited
      clearTimeout(timer)
    },
  }
}

type Process = Subject & {
  /** The signal or exit status that ended it; undefined while it runs. */
  readonly endedBy: () => string | undefined
  /** The end of what it wrote to stderr. */
  readonly complaints: () => string
}

function cpuMsOf(pid: number | undefined): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The second field may hold blanks: count from the parenthesis that ends it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS_PER_SECOND
}

async function ready(subject: Process, path: string): Promise<void> {
  const deadline = performance.now() + READY_MS
  while (performance.now() < deadline) {
    if (subject.endedBy() !== undefined) break
    const answer = await fetch(`http://127.0.0.1:${subject.port}${path}`).catch(() => undefined)
    await answer?.text().catch(() => undefined)
    if (answer?.status === 200) return
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  throw new Error(`${subject.name} does not answer GET ${path}\n${subject.complaints()}`)
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const address = server.address()
      server.close(() => resolve(typeof address === 'object' && address ? address.port : 0))
    })
  })
}

function findProgram(name: string): string | undefined {
  const directories = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/usr/bin']
  return directories.map((directory) => join(directory, name)).find((file) => existsSync(file))
}

function script(path: string): string {
  return fileURLToPath(new URL(path, import.meta.url))
}
