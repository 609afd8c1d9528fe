// The models of a pod: its base model under its names, and the adapters beside it, which come and go.
import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Change } from './adapters.ts'
import { refuse, withJson } from './body.ts'
import { ApiError } from './errors.ts'
import { sendJson } from './exchange.ts'
import type { Pod } from './routes.ts'

export function answerModels(
  { settings, adapters, startedAtMs }: Pod,
  _req: IncomingMessage,
  res: ServerResponse,
): void {
  const { models, maxModelLen } = settings
  const created = Math.floor(startedAtMs / 1000)
  const base = models[0] as string
  const data = [
    ...models.map((id) => modelCard(created, { id, root: base, parent: null, maxModelLen })),
    ...adapters
      .list()
      .map(({ name, path }) => modelCard(created, { id: name, root: path, parent: base, maxModelLen: null })),
  ]
  sendJson(res, 200, { object: 'list', data })
}

type ModelEntry = {
  readonly id: string
  readonly root: string
  readonly parent: string | null
  readonly maxModelLen: number | null
}

function modelCard(created: number, { id, root, parent, maxModelLen }: ModelEntry): unknown {
  return {
    id,
    object: 'model',
    created,
    owned_by: 'vllm',
    root,
    parent,
    max_model_len: maxModelLen,
    permission: [
      {
        id: `modelperm-${randomUUID().replaceAll('-', '').slice(0, 16)}`,
        object: 'model_permission',
        created,
        allow_create_engine: false,
        allow_sampling: true,
        allow_logprobs: true,
        allow_search_indices: false,
        allow_view: true,
        allow_fine_tuning: false,
        organization: '*',
        group: null,
        is_blocking: false,
      },
    ],
  }
}

export function changeAdapters(change: (text: string) => Change, req: IncomingMessage, res: ServerResponse): void {
  withJson(req, res, (text) => {
    const changed = change(text)
    if (changed instanceof ApiError) return refuse(res, changed)
    // It says nothing of its type.
    res.writeHead(200, { 'content-length': Buffer.byteLength(changed) })
    res.end(changed)
  })
}
