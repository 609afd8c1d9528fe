// The cache's place in a request's story, without the story: what is kept of an answer, and under what.
import { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import { describe, expect, it } from 'vitest'
import { createFlights } from '../../../cluster/cache/flights.ts'
import { createMemoryTier } from '../../../cluster/cache/memory.ts'
import { createResponseCache } from '../../../cluster/cache/response-cache.ts'
import { askCache, type CacheStepResult, type CachingDeps } from '../../../cluster/proxy/cache-step.ts'
import { prepareEngineRequest } from '../../../cluster/proxy/engine-request.ts'

const ANSWER = JSON.stringify({
  ...{ id: 'chatcmpl-1', object: 'chat.completion', created: 1, model: 'm', usage: { total_tokens: 1 } },
  choices: [{ index: 0, message: { role: 'assistant', content: 'hi' }, finish_reason: 'stop' }],
})
const BODY = Buffer.from('{"model":"m","temperature":0,"messages":[]}')

function rig() {
  const memory = createMemoryTier(1e6)
  const clocks = { epochMs: () => 1_000_000, nowMs: () => 0 }
  const cache = createResponseCache({ memory, redis: undefined, flights: createFlights(clocks.nowMs), ...clocks })
  let version: string | undefined = 'v'
  const deps: CachingDeps = {
    policy: () => ({ keep: 'deterministic', toolCalls: false, ttlSeconds: 60, epoch: '' }),
    ...{ cache, secret: 's', modelVersion: () => version, onOutcome: () => {}, random: () => 0 },
    ...{ onBug: (error: unknown) => expect.unreachable(String(error)), epochMs: clocks.epochMs },
  }
  const prepared = prepareEngineRequest('chat', BODY, false)
  if (!prepared.ok) throw new Error(prepared.rejection.message)
  const ask = (cacheControl = ''): Promise<CacheStepResult> => {
    const req = new IncomingMessage(new Socket())
    req.headers = { authorization: 'Bearer acme', 'cache-control': cacheControl }
    return askCache(
      deps,
      { trusted: false, tenant: undefined, pin: undefined },
      prepared.request,
      req,
      new ServerResponse(req),
    )
  }
  return {
    ask,
    deploy: (next: string | undefined) => {
      version = next
    },
  }
}

function answerIt(step: CacheStepResult): void {
  if (step.kind !== 'forward' || !step.keeping) throw new Error(`not to be kept: ${step.kind}`)
  step.keeping.begin(false)
  step.keeping.push(Buffer.from(ANSWER))
  step.keeping.over(true)
}

describe('an answer is kept for the model that was asked', () => {
  it('while that is what it was', async () => {
    const { ask } = rig()
    answerIt(await ask())
    expect((await ask()).kind).toBe('stored')
  })

  it.each([['another'], [undefined]])(
    'and not when it became %s meanwhile: one cannot tell which answered',
    async (next) => {
      const { ask, deploy } = rig()
      const step = await ask()
      deploy(next)
      answerIt(step)
      expect((await ask()).kind).toBe('forward')
      deploy('v')
      expect((await ask()).kind).toBe('forward')
    },
  )
})

it('an answer that was refused for want of a stored one says that it went nowhere', async () => {
  const { ask } = rig()
  const refused = await ask('only-if-cached')
  expect(refused).toMatchObject({ kind: 'refused', status: 'warmpath-router; detail=not-cached' })
})
