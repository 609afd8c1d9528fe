// One chat, completion or message over HTTP, from the request that was understood to the last byte of its answer or the client's
// going away.
import { randomBytes } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import {
  answerBody,
  type Choice,
  createStreamWriter,
  errorEvent,
  STREAM_END,
  type StreamWriter,
  type UsageCounts,
} from './answers.ts'
import { type ApiError, anthropicError, ENGINE_DEAD, ENGINE_FAILED } from './errors.ts'
import { createGeneration, type GenerationDeps } from './generation.ts'
import { createLogprobs } from './logprobs.ts'
import { createMessageWriter, MESSAGE_FAILURE_EVENT, messageBody } from './message-answer.ts'
import { cutOff, writeOrDrop } from './reader.ts'
import type { GenerationRequest } from './request.ts'
import type { Tokenizer } from './tokenizer.ts'

/** Says the answer to `res`. `requestId` is the caller's header; `loadHeader` the load report it asked for, if any. */
export function serveGeneration(
  deps: GenerationDeps,
  request: GenerationRequest,
  requestId: string | undefined,
  loadHeader: () => string | undefined,
  res: ServerResponse,
): void {
  const prefix = request.api === 'completion' ? 'cmpl' : 'chatcmpl'
  const isMessage = request.api === 'message'
  const head = {
    id: `${prefix}-${requestId ?? request.requestId ?? randomBytes(8).toString('hex')}`,
    createdSeconds: Math.floor(Date.now() / 1000),
    systemFingerprint: deps.systemFingerprint,
  }
  const logprobs = request.logprobs === undefined ? undefined : createLogprobs(deps.tokenizer, request.logprobs)
  const generation = createGeneration(deps, request, {
    token: (choice, text, last, tokenIds) => streaming?.token(choice, text, last, tokenIds),
    done: (usage) => {
      if (streaming) return streaming.end(usage)
      for (const choice of choices)
        if (request.echo) choice.text = echoOf(deps.tokenizer, request, choice) + choice.text
      const load = loadHeader()
      if (load !== undefined) res.setHeader('endpoint-load-metrics', load)
      if (request.tool) deps.parserCalls.record('non_streaming', 'tool_call', 'chat_completions')
      sendJson(
        res,
        200,
        isMessage ? messageBody(head, request, choices, usage) : answerBody(head, request, choices, usage, logprobs),
      )
    },
    failed: (how) => {
      if (how === 'died') cutOff(res)
      else if (isMessage) sendMessageFailure(res)
      else sendFailure(res, how === 'dead' ? ENGINE_DEAD : ENGINE_FAILED)
    },
  })
  const { choices } = generation
  const streaming = request.stream
    ? createStreaming(
        deps,
        request,
        choices,
        isMessage ? createMessageWriter(head, request) : createStreamWriter(head, request, logprobs),
        res,
      )
    : undefined
  // A client that goes away before its last byte wants no more tokens.
  res.on('close', generation.stop)
  streaming?.begin()
  generation.start()
}

type Streaming = {
  readonly begin: () => void
  readonly token: (choice: Choice, text: string, last: boolean, tokenIds: readonly number[]) => void
  readonly end: (usage: UsageCounts) => void
}

function createStreaming(
  deps: GenerationDeps,
  request: GenerationRequest,
  choices: readonly Choice[],
  writer: StreamWriter,
  res: ServerResponse,
): Streaming {
  let opened = false
  return {
    begin: () => beginEventStream(res),
    token: (choice, text, last, tokenIds) => {
      let bytes = ''
      if (!opened) {
        opened = true
        bytes = choices.map(writer.opening).join('')
      }
      const first = tokenIds.length > 0 && choice.tokenIds.length === tokenIds.length
      const echoed = first && request.echo ? echoOf(deps.tokenizer, request, choice) : ''
      bytes += writer.token({
        choice,
        text: echoed + text,
        tokenIds,
        finish: choice.finish,
        first,
        last,
        completionTokens: choice.tokenIds.length,
      })
      if (request.tool) deps.parserCalls.record('streaming', 'tool_call', 'chat_completions')
      if (bytes !== '') writeOrDrop(res, bytes)
    },
    end: (usage) => {
      res.end(writer.end(usage))
    },
  }
}

function echoOf(tokenizer: Tokenizer, { prompts, n }: GenerationRequest, { index }: Choice): string {
  return tokenizer.decode(prompts[Math.floor(index / n)]?.tokenIds ?? [])
}

/** The head goes out before the engine has said anything: a queue shows as silence after a 200. */
export function beginEventStream(res: ServerResponse): void {
  res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
  res.flushHeaders()
}

/** The end of an exchange that cannot go on, as vLLM tells it before the first byte and after it. */
export function sendFailure(res: ServerResponse, failure: ApiError = ENGINE_FAILED): void {
  if (res.writableEnded) return
  if (res.headersSent) res.end(errorEvent(failure.body) + STREAM_END)
  else sendJson(res, failure.status, failure.body)
}

/** The same for messages, whose streams end with the failure. */
function sendMessageFailure(res: ServerResponse): void {
  if (res.headersSent) return void res.end(MESSAGE_FAILURE_EVENT)
  const { status, body } = anthropicError(ENGINE_FAILED)
  sendJson(res, status, body)
}

export function sendJson(res: ServerResponse, status: number, body: unknown): void {
  const bytes = Buffer.from(JSON.stringify(body))
  res.writeHead(status, { 'content-length': bytes.length, 'content-type': 'application/json' })
  res.end(bytes)
}
