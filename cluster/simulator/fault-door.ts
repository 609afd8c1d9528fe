// The door through which faults are set while pods run: beside their own ports, for all pods of the process or for one.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { listen, stopper } from '../listen.ts'
import { UserError } from '../user-error.ts'
import { describeFaults, type Faults, parseFaults } from './faults.ts'
import type { SimulatedPod } from './pods.ts'

const BODY_BYTES_MAX = 64 * 1024
const STOP_GRACE_MS = 500
const METHODS = 'GET, PUT, PATCH, DELETE'

const HELP = `Faults of simulated pods.

GET    /pods                 the pods, their state and faults
GET    /faults               the faults that are set, by pod
PUT    /faults               sets these faults for all pods, and no others
PATCH  /faults               changes some; null or false takes one away
DELETE /faults               heals all pods
       /pods/PORT/faults     the same for the pod on this port

curl -X PUT 127.0.0.1:PORT/faults -d '{"slowFactor": 3}'

${describeFaults()}
`

export type FaultDoor = { readonly url: string; readonly close: () => Promise<void> }

/** Opens the door; 0 takes any free port. */
export async function openFaultDoor(pods: readonly SimulatedPod[], port: number): Promise<FaultDoor> {
  const server = createServer((req, res) => {
    answer(pods, req, res).catch((error: unknown) => {
      if (error instanceof UserError) return send(res, 400, { error: error.message })
      process.emitWarning(error instanceof Error ? error : String(error))
      send(res, 500, { error: 'the fault door failed; its process says why' })
    })
  })
  const stop = stopper(server)
  const taken = await listen(server, '127.0.0.1', port, 'the fault door', '--fault-port')
  return { url: `http://127.0.0.1:${taken}`, close: () => stop(STOP_GRACE_MS) }
}

async function answer(pods: readonly SimulatedPod[], req: IncomingMessage, res: ServerResponse): Promise<void> {
  const path = (req.url ?? '/').split('?', 1)[0]
  if (path === '/') return sendText(res, HELP)
  if (path === '/pods' && req.method === 'GET') return send(res, 200, pods.map(toldOf))
  const [, onePort] = /^\/pods\/(\d+)\/faults$/.exec(path ?? '') ?? []
  if (path !== '/faults' && onePort === undefined) return send(res, 404, { error: `there is no ${path}; see GET /` })
  const chosen = onePort === undefined ? pods : pods.filter((pod) => pod.port === Number(onePort))
  if (chosen.length === 0) {
    const ports = pods.map((pod) => pod.port).join(', ')
    return send(res, 404, { error: `no pod is on port ${onePort}; there are ${ports}` })
  }
  switch (req.method) {
    case 'GET':
      return send(res, 200, chosen.map(toldOf))
    case 'PUT': {
      const faults = parseFaults(await jsonOf(req))
      await setAll(chosen, () => faults)
      break
    }
    case 'PATCH': {
      const given = await jsonOf(req)
      const changed = parseFaults(given)
      const gone = Object.keys(given as object).filter((name) => !Object.hasOwn(changed, name))
      await setAll(chosen, (pod) => {
        const merged: Record<string, unknown> = { ...pod.faults(), ...changed }
        for (const name of gone) delete merged[name]
        return merged
      })
      break
    }
    case 'DELETE':
      await setAll(chosen, () => ({}))
      break
    default:
      res.setHeader('allow', METHODS)
      return send(res, 405, { error: `${path} takes ${METHODS}` })
  }
  send(res, 200, chosen.map(toldOf))
}

async function setAll(pods: readonly SimulatedPod[], faultsFor: (pod: SimulatedPod) => Faults): Promise<void> {
  await Promise.all(pods.map((pod) => pod.set(faultsFor(pod))))
}

function toldOf(pod: SimulatedPod): unknown {
  return { port: pod.port, url: pod.url, state: pod.state(), faults: pod.faults() }
}

async function jsonOf(req: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of req as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > BODY_BYTES_MAX) throw new UserError(`the body is larger than ${BODY_BYTES_MAX} bytes`)
    chunks.push(chunk)
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'))
  } catch {
    throw new UserError('the body is no JSON: expected an object like {"hang": true}')
  }
}

function send(res: ServerResponse, status: number, body: unknown): void {
  if (res.headersSent) return
  res.writeHead(status, { 'content-type': 'application/json' })
  res.end(`${JSON.stringify(body, undefined, 1)}\n`)
}

function sendText(res: ServerResponse, text: string): void {
  res.writeHead(200, { 'content-type': 'text/plain; charset=utf-8' })
  res.end(text)
}
