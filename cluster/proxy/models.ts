// The list of models that all engines together serve.
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { ProxyDeps } from './deps.ts'
import { refuse, sendJson } from './refuse.ts'

export function listModels(deps: ProxyDeps, path: string, req: IncomingMessage, res: ServerResponse): void {
  const identified = deps.identify('GET', req.url ?? '', req.headers, null)
  if (!identified.ok) {
    refuse(res, path, identified.rejection)
    return
  }
  const models = deps.endpoints.modelList()
  if (path === '/v1/models') return sendJson(res, 200, { object: 'list', data: models })
  const id = decodeModelId(path.slice('/v1/models/'.length))
  const model = models.find((listed) => listed.id === id)
  if (model) return sendJson(res, 200, model)
  refuse(res, path, { reason: 'model-not-found', message: `The model \`${id}\` does not exist.`, param: 'model' })
}

export function decodeModelId(encoded: string): string {
  try {
    return decodeURIComponent(encoded)
  } catch {
    return encoded
  }
}
