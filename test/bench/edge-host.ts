// A Worker in workerd, on a socket of its own: no dev proxy stands before it. Ends when its stdin does.
// Usage: node edge-host.ts PORT ROUTER_URL WORKER_FILE API_KEY, with KEY_PEPPER and EDGE_SIGNING_KEYS in the environment.
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { convertV4MiniflareOptions, Miniflare } from 'miniflare'
import { unstable_getMiniflareWorkerOptions as workerOptionsOf } from 'wrangler'
import { keyDigest, keyRecordName } from '../../shared/api-key.ts'

const [port, routerUrl, file, apiKey] = process.argv.slice(2) as [string, string, string, string]
const { KEY_PEPPER = '', EDGE_SIGNING_KEYS = '' } = process.env

const { workerOptions } = workerOptionsOf(fileURLToPath(new URL('../../wrangler.toml', import.meta.url)))
const { modulesRules: _, ...asDeployed } = workerOptions
const bindings = { ...(asDeployed.bindings as object), KEY_PEPPER, EDGE_SIGNING_KEYS, ROUTER_URL: routerUrl }

const miniflare = new Miniflare(
  convertV4MiniflareOptions({
    logRequests: false,
    cf: false,
    workers: [
      {
        ...asDeployed,
        name: 'edge',
        bindings,
        modules: [{ type: 'ESModule', path: 'worker.js', contents: readFileSync(file, 'utf8') }],
        unsafeDirectSockets: [{ host: '127.0.0.1', port: Number(port) }],
      },
    ],
  }),
)

async function end(): Promise<void> {
  await miniflare.dispose()
  process.exit()
}
process.once('SIGTERM', end)
process.stdin.on('end', end).resume()

const keys = await miniflare.getKVNamespace('KEYS')
const record = { tenant: 'bench', createdAt: new Date().toISOString() }
await keys.put(keyRecordName(await keyDigest(KEY_PEPPER, apiKey)), JSON.stringify(record))
