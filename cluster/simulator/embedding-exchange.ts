// One /v1/embeddings request over HTTP: its prompts through the engine, their vectors back.
import { randomBytes } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { base64Of, embeddingOf } from './embedding.ts'
import type { EmbeddingRequest } from './embedding-request.ts'
import { sendFailure, sendJson } from './exchange.ts'
import { createGeneration, type GenerationDeps } from './generation.ts'
import { cutOff } from './reader.ts'

/** Says the answer to `res`. `requestId` is the caller's header. */
export function serveEmbedding(
  deps: GenerationDeps,
  request: EmbeddingRequest,
  requestId: string | undefined,
  res: ServerResponse,
): void {
  const { generation: work, encoding, bigEndian, normalised } = request
  const id = `embd-${requestId ?? work.requestId ?? randomBytes(8).toString('hex')}`
  const created = Math.floor(Date.now() / 1000)
  const generation = createGeneration(deps, work, {
    token: () => undefined,
    done: ({ promptTokens }) => {
      const data = work.prompts.map(({ tokenIds }, index) => {
        const vector = embeddingOf(tokenIds, normalised)
        return {
          index,
          object: 'embedding',
          embedding: encoding === 'base64' ? base64Of(vector, bigEndian) : [...vector],
        }
      })
      const usage = {
        prompt_tokens: promptTokens,
        total_tokens: promptTokens,
        completion_tokens: 0,
        prompt_tokens_details: null,
        completion_tokens_details: null,
      }
      sendJson(res, 200, { id, object: 'list', created, model: work.model, data, usage })
    },
    failed: (how) => {
      if (how === 'died') cutOff(res)
      else sendFailure(res)
    },
  })
  // A client that goes away wants no vectors.
  res.on('close', generation.stop)
  generation.start()
}
