// One request in the engine, whatever API it came through: a sequence for each choice, the faults that are set, the usage.
import { randomBytes } from 'node:crypto'
import { type Random, seedOf } from '../../shared/random.ts'
import type { Choice, UsageCounts } from './answers.ts'
import type { LivingFaults } from './faults.ts'
import { createSpeech } from './generate.ts'
import type { ToolParserCalls } from './metrics.ts'
import type { Rank } from './rank.ts'
import type { GenerationRequest } from './request.ts'
import type { Emission, PromptCaching, SequenceRequest, Utterance } from './sequence.ts'
import type { Tokenizer } from './tokenizer.ts'

export type GenerationDeps = {
  /** The rank for a new sequence: the one that was asked for, or the least loaded. */
  readonly place: (rank: number | undefined) => Rank
  readonly parserCalls: ToolParserCalls
  readonly tokenizer: Tokenizer
  /** Seeds the answers of requests that did not ask for a repeatable one. */
  readonly random: Random
  readonly nowMs: () => number
  /** What passes before a request of so many prompt tokens reaches the engine. */
  readonly delayMs: (promptTokens: number) => number
  readonly faults: () => LivingFaults
  /** Whether the pod is about to end: requests that come are ended at once. */
  readonly isDraining: () => boolean
  readonly promptTokensDetails: boolean
  /** Tokens that a stream tells at a time. */
  readonly streamInterval: number
  readonly systemFingerprint: string
}

export type FailureKind = 'error' | 'dead' | 'died'

/** What may become of a generation. After `done` or `failed` nothing more is told. */
export type GenerationListener = {
  /** `last` when no choice has more to say; no ids where a choice ends without a token. */
  readonly token: (choice: Choice, text: string, last: boolean, tokenIds: readonly number[]) => void
  readonly done: (usage: UsageCounts) => void
  /** `error`: the engine failed; `dead`: for good. `died`: the pod did, and nobody is left to say so. */
  readonly failed: (how: FailureKind) => void
}

export type Generation = {
  readonly choices: readonly Choice[]
  readonly start: () => void
  /** Drops what is not finished. */
  readonly stop: () => void
}

/** A generation that has not started. */
export function createGeneration(deps: GenerationDeps, request: GenerationRequest, to: GenerationListener): Generation {
  const sequences = sequencesOf(deps, request)
  const choices: Choice[] = sequences.map((_, index) => ({
    index,
    text: '',
    tokenIds: [],
    finish: undefined,
    toolCallId: `chatcmpl-tool-${randomBytes(8).toString('hex')}`,
  }))
  /** Where each sequence is; those that have not started are nowhere. */
  const ranks = new Map<string, Rank>()
  let open = choices.length
  let timer: NodeJS.Timeout | undefined
  let tokens = 0
  let caching: PromptCaching | undefined

  const leave = (reason: 'abort' | 'error') => {
    clearTimeout(timer)
    for (const [id, { engine, listeners, metrics }] of ranks) {
      listeners.delete(id)
      const finished = engine.abort(id, deps.nowMs(), reason)
      if (!finished) continue
      // vLLM counts no request that its client left (`OutputProcessor.abort_requests`).
      if (reason === 'abort') metrics.recordLeft()
      else metrics.recordFinished(finished)
    }
    open = 0
  }

  const fail = (how: FailureKind) => {
    leave(how === 'died' ? 'abort' : 'error')
    to.failed(how)
  }

  /** Whether a fault ended the generation. */
  const meetsFault = (): boolean => {
    const { dieAfterTokens, errorAfterTokens, engineDead } = deps.faults()
    if (engineDead) fail('dead')
    else if (dieAfterTokens !== undefined && tokens >= dieAfterTokens) fail('died')
    else if (errorAfterTokens !== undefined && tokens >= errorAfterTokens) fail('error')
    else return false
    return true
  }

  /** What a choice has said that was not told: a stream tells the first token at once, then some together. */
  const untold = new Map<number, { text: string; readonly tokenIds: number[] }>()
  const hold = ({ index, tokenIds }: Choice, { text, tokenId, finish }: Utterance, isToken: boolean) => {
    const held = untold.get(index) ?? { text: '', tokenIds: [] }
    held.text += text
    if (isToken) held.tokenIds.push(tokenId)
    const isHeld = request.stream && !finish && tokenIds.length > 1 && held.tokenIds.length < deps.streamInterval
    if (isHeld) untold.set(index, held)
    else untold.delete(index)
    return isHeld ? undefined : held
  }

  const hear = (choice: Choice, rank: Rank, { id, utterance, isToken, caching: found }: Emission) => {
    if (meetsFault()) return
    if (utterance.finish?.reason === 'error') return fail('error')
    tokens++
    if (isToken) choice.tokenIds.push(utterance.tokenId)
    choice.finish = utterance.finish
    // A stream tells what its first token brought, any other answer what the choice that ended last did.
    if (caching === undefined || !request.stream) caching = found
    if (utterance.finish) {
      rank.listeners.delete(id)
      open--
    }
    const held = hold(choice, utterance, isToken)
    if (!request.promptOnly) choice.text += utterance.text
    if (held) to.token(choice, request.promptOnly ? '' : held.text, open === 0, held.tokenIds)
    if (open > 0) {
      meetsFault()
      return
    }
    if (request.api === 'embedding') for (const _ of choices) rank.metrics.recordRequest(1, 0)
    else rank.metrics.recordRequest(request.n, Math.max(...choices.map(({ tokenIds }) => tokenIds.length)))
    to.done(usageOf(deps, request, choices, caching))
  }

  return {
    choices,
    start: () => {
      const promptTokens = request.prompts.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0)
      const delayMs = deps.delayMs(promptTokens)
      if (delayMs > 0) timer = setTimeout(begin, delayMs)
      else begin()
    },
    stop: () => {
      if (open > 0) leave('abort')
    },
  }

  function begin(): void {
    if (deps.faults().engineDead) return fail('dead')
    for (const [index, sequence] of sequences.entries()) {
      const choice = choices[index] as Choice
      const rank = deps.place(request.rank)
      ranks.set(sequence.id, rank)
      rank.listeners.set(sequence.id, (emission) => {
        try {
          hear(choice, rank, emission)
        } catch (error) {
          // Everyone else's tokens of this step are still to be told.
          reportFault(error)
          fail('error')
        }
      })
      try {
        rank.engine.add(sequence, deps.nowMs())
      } catch (error) {
        leave('error')
        throw error
      }
      rank.driver.wake()
      if (deps.isDraining()) rank.abort(sequence.id)
    }
  }
}

/** One sequence for each choice, prompt by prompt. */
function sequencesOf(deps: GenerationDeps, request: GenerationRequest): readonly SequenceRequest[] {
  const { tokenizer } = deps
  const key = randomBytes(8).toString('hex')
  const scriptIds = request.script === undefined ? undefined : tokenizer.encode(request.script, false)
  if (request.api === 'embedding') {
    return request.prompts.map(({ tokenIds }, promptIndex) => ({
      id: `${key}-${promptIndex}`,
      promptTokenIds: tokenIds,
      maxTokens: 0,
      isPooled: true,
      cacheSalt: request.cacheSalt,
      speak: () => ({ tokenId: tokenizer.endOfTextId, text: '', finish: { reason: 'stop', stopReason: null } }),
    }))
  }
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
        cacheSalt: request.cacheSalt,
        lora: request.lora,
        priority: request.priority,
        ignoreCache: request.ignoreCache,
        reportHits: request.reportHits,
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
function speechSeed(deps: GenerationDeps, request: GenerationRequest, prompt: number, choice: number): number {
  if (request.temperature === 0) return prompt
  const seed = request.seed === undefined ? Math.floor(deps.random() * 2 ** 32) : seedOf([request.seed, choice])
  return seedOf([prompt, seed])
}

function usageOf(
  { promptTokensDetails }: GenerationDeps,
  request: GenerationRequest,
  choices: readonly Choice[],
  caching: PromptCaching | undefined,
): UsageCounts {
  return {
    promptTokens: request.prompts.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0),
    completionTokens: choices.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0),
    caching: caching ?? { cachedTokens: 0, offloadedTokens: 0, createdTokens: 0 },
    withDetails: promptTokensDetails,
  }
}

/** Says what went wrong in the simulator itself; the pod, and whoever shares its process, goes on. */
export function reportFault(error: unknown): void {
  process.emitWarning(error instanceof Error ? error : 'The simulated pod failed without an error.')
}
