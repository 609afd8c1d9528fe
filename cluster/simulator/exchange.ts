// One generation, from the request that was understood to the last byte of its answer or the client's going away.
import { randomBytes } from 'node:crypto'
import type { ServerResponse } from 'node:http'
import { type Random, seedOf } from '../../shared/random.ts'
import {
  answerBody,
  type Choice,
  createStreamWriter,
  errorEvent,
  STREAM_END,
  type StreamWriter,
  type UsageCounts,
} from './answers.ts'
import type { Emission, Engine, SequenceRequest, Utterance } from './engine.ts'
import { ENGINE_FAILED } from './errors.ts'
import type { Faults } from './faults.ts'
import { createSpeech } from './generate.ts'
import { createLogprobs } from './logprobs.ts'
import type { EngineMetrics } from './metrics.ts'
import type { GenerationRequest } from './request.ts'
import type { Tokenizer } from './tokenizer.ts'

export type ExchangeDeps = {
  readonly engine: Engine
  readonly metrics: EngineMetrics
  readonly tokenizer: Tokenizer
  /** Seeds the answers of requests that did not ask for a repeatable one. */
  readonly random: Random
  readonly nowMs: () => number
  readonly wake: () => void
  readonly faults: () => Faults
  readonly blockSizeTokens: number
  readonly promptTokensDetails: boolean
  readonly systemFingerprint: string
  /** Whom to tell of a sequence's tokens, by the sequence's id. */
  readonly listeners: Map<string, (emission: Emission) => void>
}

/** Says the answer to `res`. `requestId` is the caller's header; `loadHeader` the load report it asked for, if any. */
export function serveGeneration(
  deps: ExchangeDeps,
  request: GenerationRequest,
  requestId: string | undefined,
  loadHeader: () => string | undefined,
  res: ServerResponse,
): void {
  const prefix = request.api === 'chat' ? 'chatcmpl' : 'cmpl'
  const head = {
    id: `${prefix}-${requestId ?? request.requestId ?? randomBytes(8).toString('hex')}`,
    createdSeconds: Math.floor(Date.now() / 1000),
    systemFingerprint: deps.systemFingerprint,
  }
  const sequences = sequencesOf(deps, request)
  const choices: Choice[] = sequences.map((_, index) => ({
    index,
    text: '',
    tokenIds: [],
    finish: undefined,
    toolCallId: `chatcmpl-tool-${randomBytes(8).toString('hex')}`,
  }))
  const logprobs = request.logprobs === undefined ? undefined : createLogprobs(deps.tokenizer, request.logprobs)
  const streaming = request.stream
    ? createStreaming(deps, request, choices, createStreamWriter(head, request, logprobs), res)
    : undefined
  let open = choices.length
  let tokens = 0

  const leave = (reason: 'abort' | 'error') => {
    for (const { id } of sequences) {
      deps.listeners.delete(id)
      const finished = deps.engine.abort(id, deps.nowMs(), reason)
      if (finished) deps.metrics.recordFinished(finished)
    }
    open = 0
  }

  /** Whether a fault ended the exchange. */
  const fail = (): boolean => {
    const { dieAfterTokens, errorAfterTokens } = deps.faults()
    if (dieAfterTokens !== undefined && tokens >= dieAfterTokens) {
      leave('abort')
      // What was written still reaches the client; the end that its framing promised never does.
      res.socket?.destroySoon()
      return true
    }
    if (errorAfterTokens !== undefined && tokens >= errorAfterTokens) {
      leave('error')
      sendFailure(res)
      return true
    }
    return false
  }

  const hear = (choice: Choice, { id, utterance }: Emission) => {
    if (fail()) return
    if (utterance.finish?.reason === 'error') {
      leave('error')
      return sendFailure(res)
    }
    tokens++
    choice.tokenIds.push(utterance.tokenId)
    choice.finish = utterance.finish
    if (utterance.finish) {
      deps.listeners.delete(id)
      open--
    }
    if (streaming) streaming.token(choice, utterance.text, open === 0)
    else choice.text += request.promptOnly ? '' : utterance.text
    if (open > 0) {
      fail()
      return
    }
    deps.metrics.recordRequest(request.n, Math.max(...choices.map(({ tokenIds }) => tokenIds.length)))
    const usage = usageOf(deps, request, choices)
    if (streaming) return streaming.end(usage)
    for (const choice of choices) if (request.echo) choice.text = echoOf(deps, request, choice) + choice.text
    const load = loadHeader()
    if (load !== undefined) res.setHeader('endpoint-load-metrics', load)
    if (request.tool) deps.metrics.recordToolParser('non_streaming', 'tool_call')
    sendJson(res, 200, answerBody(head, request, choices, usage, logprobs))
  }

  // A client that goes away before its last byte wants no more tokens.
  res.on('close', () => {
    if (open > 0) leave('abort')
  })
  streaming?.begin()
  for (const [index, sequence] of sequences.entries()) {
    const choice = choices[index] as Choice
    deps.listeners.set(sequence.id, (emission) => {
      try {
        hear(choice, emission)
      } catch (error) {
        // Everyone else's tokens of this step are still to be told.
        reportFault(error)
        leave('error')
        sendFailure(res)
      }
    })
    deps.engine.add(sequence, deps.nowMs())
  }
  deps.wake()
}

type Streaming = {
  readonly begin: () => void
  readonly token: (choice: Choice, text: string, last: boolean) => void
  readonly end: (usage: UsageCounts) => void
}

function createStreaming(
  deps: ExchangeDeps,
  request: GenerationRequest,
  choices: readonly Choice[],
  writer: StreamWriter,
  res: ServerResponse,
): Streaming {
  let opened = false
  return {
    // The head goes out before the engine has said anything: a queue shows as silence after a 200.
    begin: () => {
      res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' })
      res.flushHeaders()
    },
    token: (choice, text, last) => {
      let bytes = ''
      if (!opened) {
        opened = true
        bytes = choices.map(writer.opening).join('')
      }
      const first = choice.tokenIds.length === 1
      const echoed = first && request.echo ? echoOf(deps, request, choice) : ''
      bytes += writer.token({
        choice,
        text: echoed + (request.promptOnly ? '' : text),
        tokenId: choice.tokenIds.at(-1) as number,
        finish: choice.finish,
        first,
        last,
        completionTokens: choice.tokenIds.length,
      })
      if (request.tool) deps.metrics.recordToolParser('streaming', 'tool_call')
      res.write(bytes)
    },
    end: (usage) => {
      res.end(request.includeUsage ? writer.usage(usage) + STREAM_END : STREAM_END)
    },
  }
}

/** One sequence for each choice, prompt by prompt. */
function sequencesOf(deps: ExchangeDeps, request: GenerationRequest): readonly SequenceRequest[] {
  const { tokenizer } = deps
  const key = randomBytes(8).toString('hex')
  const scriptIds = request.script === undefined ? undefined : tokenizer.encode(request.script, false)
  return request.prompts.flatMap(({ tokenIds, maxTokens }, promptIndex) => {
    const promptSeed = seedOf(tokenIds)
    return Array.from({ length: request.n }, (_, choice) => {
      const speech = createSpeech({
        tokenizer,
        seed: speechSeed(deps, request, promptSeed, choice),
        minTokens: request.minTokens,
        ignoreEos: request.ignoreEos,
        stop: request.stop,
        stopTokenIds: request.stopTokenIds,
        includeStopInOutput: request.includeStopInOutput,
        scriptIds,
      })
      return {
        id: `${key}-${promptIndex}-${choice}`,
        promptTokenIds: tokenIds,
        maxTokens,
        speak: (isLast: boolean) => speakOrFail(speech, isLast, tokenizer.endOfTextId),
      }
    })
  })
}

/** A fault of one sequence ends that sequence: thrown into the engine's step, it would end the step of all. */
function speakOrFail(speech: (isLast: boolean) => Utterance, isLast: boolean, tokenId: number): Utterance {
  try {
    return speech(isLast)
  } catch (error) {
    reportFault(error)
    return { tokenId, text: '', finish: { reason: 'error', stopReason: null } }
  }
}

/** Greedy sampling depends on the prompt alone, a given seed makes sampling repeatable, anything else is chance. */
function speechSeed(deps: ExchangeDeps, request: GenerationRequest, prompt: number, choice: number): number {
  if (request.temperature === 0) return prompt
  const seed = request.seed === undefined ? Math.floor(deps.random() * 2 ** 32) : seedOf([request.seed, choice])
  return seedOf([prompt, seed])
}

function echoOf({ tokenizer }: ExchangeDeps, { prompts, n }: GenerationRequest, { index }: Choice): string {
  return tokenizer.decode(prompts[Math.floor(index / n)]?.tokenIds ?? [])
}

function usageOf(deps: ExchangeDeps, request: GenerationRequest, choices: readonly Choice[]): UsageCounts {
  const { blockSizeTokens } = deps
  const promptLengths = request.prompts.map(({ tokenIds }) => tokenIds.length)
  // Only whole blocks are ever reused.
  const created = promptLengths.reduce((sum, length) => sum + length - (length % blockSizeTokens), 0)
  return {
    promptTokens: promptLengths.reduce((sum, length) => sum + length, 0),
    completionTokens: choices.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0),
    details: deps.promptTokensDetails
      ? { cachedTokens: 0, createdCacheTokens: created === 0 ? null : created }
      : undefined,
  }
}

/** The end of an exchange that cannot go on, as vLLM tells it before the first byte and after it. */
export function sendFailure(res: ServerResponse): void {
  if (res.writableEnded) return
  if (res.headersSent) res.end(errorEvent(ENGINE_FAILED.body) + STREAM_END)
  else sendJson(res, ENGINE_FAILED.status, ENGINE_FAILED.body)
}

/** Says what went wrong in the simulator itself; the pod, and whoever shares its process, goes on. */
export function reportFault(error: unknown): void {
  process.emitWarning(error instanceof Error ? error : 'The simulated pod failed without an error.')
}

export function sendJson(res: ServerResponse, status: number, body: unknown): void {
  const bytes = Buffer.from(JSON.stringify(body))
  res.writeHead(status, { 'content-length': bytes.length, 'content-type': 'application/json' })
  res.end(bytes)
}
