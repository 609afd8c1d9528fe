// One /v1/responses request over HTTP: answered at once, as a stream of typed events, or in the background; and what was
// kept of earlier ones, their events included.
import { randomBytes } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import type { UsageCounts } from './answers.ts'
import { type ApiError, invalidRequest, responseNotFound } from './errors.ts'
import { beginEventStream, sendFailure, sendJson } from './exchange.ts'
import { createGeneration, type Generation, type GenerationDeps } from './generation.ts'
import { createLogprobs } from './logprobs.ts'
import { cutOff, followEvents, writeOrDrop } from './reader.ts'
import { createOutputItem, type ResponseStatus, rawMessage, responseBody, responseEvent } from './response-answer.ts'
import type { ResponseRequest } from './response-request.ts'
import type { ResponseStore } from './response-store.ts'
import type { Body } from './schema.ts'

export type ResponseDeps = {
  readonly generation: GenerationDeps
  /** Undefined where nothing is kept. */
  readonly store: ResponseStore | undefined
  /** What runs in the background, by the response's id. */
  readonly background: Map<string, Generation>
}

const COMPLETED = 'response.completed'

/** Says the answer to `res`. A stream in the background is made whether or not it is read; `res` is its first reader. */
export function serveResponse(deps: ResponseDeps, request: ResponseRequest, res: ServerResponse): void {
  const { generation: work, background, messages } = request
  const store = request.store ? deps.store : undefined
  const head = {
    id: work.requestId ?? `resp_${randomBytes(8).toString('hex')}`,
    createdSeconds: Math.floor(Date.now() / 1000),
  }
  const { tokenizer, parserCalls } = deps.generation
  const logprobs = work.logprobs === undefined ? undefined : createLogprobs(tokenizer, work.logprobs)
  const item = createOutputItem(request, logprobs)
  const bodyAt = (status: ResponseStatus) => responseBody(head, request, status, [], undefined)
  const log = background && work.stream ? store?.events.open(head.id) : undefined
  let events = 0
  const write = (...told: readonly Body[]) => {
    if (!log) return writeOrDrop(res, told.map((event) => responseEvent(event, events++)).join(''))
    for (const event of told) {
      store?.events.append(log, { text: responseEvent(event, events++), isLast: event.type === COMPLETED })
    }
  }

  const finalBody = (usage: UsageCounts): Body => {
    const [choice] = generation.choices
    if (!choice) throw new Error('a response has one choice')
    const status = choice.finish?.reason === 'length' ? 'incomplete' : 'completed'
    const output = item.items(choice, work.stream)
    return responseBody(head, request, status, output, usage, [
      rawMessage(tokenizer, work.prompts[0]?.tokenIds ?? []),
      rawMessage(tokenizer, choice.tokenIds, choice.text),
    ])
  }

  const keep = (body: Body) => {
    if (store?.bodyOf(head.id)?.status !== 'cancelled') store?.put(head.id, body, messages)
  }

  const generation = createGeneration(deps.generation, work, {
    token: (choice, text) => {
      const told = work.stream ? item.told(choice, text) : []
      if (told.length > 0) write(...told)
    },
    done: (usage) => {
      deps.background.delete(head.id)
      const body = finalBody(usage)
      keep(body)
      if (work.tool) parserCalls.record(work.stream ? 'streaming' : 'non_streaming', 'tool_call', 'responses')
      if (work.stream) {
        const [choice] = generation.choices
        write(...(choice ? item.closing(choice) : []), { response: body, sequence_number: -1, type: COMPLETED })
        if (!log) res.end()
      } else if (!background) sendJson(res, 200, body)
    },
    failed: (how) => {
      deps.background.delete(head.id)
      if (background) {
        // vLLM 0.32's task ends with an error that nobody looks at: its response stays queued, and its readers wait on.
        if (how === 'died') store?.events.forget(head.id)
        return
      }
      // vLLM has no event for a failure in the middle of a stream: its error fits none, and the connection just ends.
      if (how === 'died' || res.headersSent) cutOff(res)
      else sendFailure(res)
    },
  })

  if (background) {
    keep(bodyAt('queued'))
    deps.background.set(head.id, generation)
  } else {
    // A client that goes away before its last byte wants no more tokens.
    res.on('close', generation.stop)
  }
  if (work.stream) {
    beginEventStream(res)
    if (log) followEvents(log, undefined, res)
    const response = bodyAt('in_progress')
    write(
      { response, sequence_number: -1, type: 'response.created' },
      { response, sequence_number: -1, type: 'response.in_progress' },
    )
  } else if (background) sendJson(res, 200, bodyAt('queued'))
  generation.start()
}

/** A response that was kept. */
export function keptResponse({ store }: ResponseDeps, id: string): Body | ApiError {
  return store?.bodyOf(id) ?? responseNotFound(id)
}

/**
 * The events of a response that was kept, after the one of that number or from the first one on, to its end. Only streams
 * in the background have any. vLLM 0.32 has answered 200 by the time it finds that there are none, and closes.
 */
export function followResponse(
  { store }: ResponseDeps,
  id: string,
  startingAfter: number | undefined,
  res: ServerResponse,
): void {
  beginEventStream(res)
  const log = store?.events.of(id)
  if (log) followEvents(log, startingAfter, res)
  else cutOff(res)
}

/**
 * Ends a response that is made in the background. If it is a stream, no event says so and its readers wait on, for ever:
 * vLLM 0.32 wakes them, but goes on waiting for a response.completed.
 */
export function cancelResponse({ store, background }: ResponseDeps, id: string): Body | ApiError {
  const body = store?.bodyOf(id)
  if (!store || !body) return responseNotFound(id)
  if (body.status !== 'queued' && body.status !== 'in_progress') {
    return invalidRequest(400, 'Cannot cancel a synchronous response.', 'response_id')
  }
  const cancelled = { ...body, status: 'cancelled' }
  store.put(id, cancelled, store.turnsOf(id)?.messages ?? [])
  background.get(id)?.stop()
  background.delete(id)
  return cancelled
}
