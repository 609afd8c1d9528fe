// The walk with the Redis of these tests, which needs nothing beyond npm; test/real runs it with the real one.
import { expect, it, onTestFinished } from 'vitest'
import { startRespServer } from '../../resp-server.ts'
import { chat, startEngine, startRig, until } from './rig.ts'
import { answerWhole, describeSharedAnswers } from './shared-answers.ts'

describeSharedAnswers('a Redis that routers share', async () => {
  const server = await startRespServer()
  onTestFinished(server.stop)
  return {
    url: `redis://127.0.0.1:${server.port}`,
    kill: server.stop,
    start: server.start,
    pause: () => server.fail({ kind: 'stall' }),
    resume: () => server.fail(undefined),
  }
})

it('a caller that leaves while Redis is asked leaves nobody waiting', async () => {
  const server = await startRespServer()
  onTestFinished(server.stop)
  const engine = await startEngine(answerWhole)
  const cache = { keep: 'deterministic', toolCalls: false, ttlSeconds: 60, memoryBytes: 1e6, epoch: '' } as const
  const rig = await startRig([engine], { cache: { ...cache, redis: `redis://127.0.0.1:${server.port}` } })
  const body = { model: 'm', temperature: 0, messages: [{ role: 'user', content: 'hi' }] }
  const acme = { authorization: 'Bearer acme' }
  await until(async () => (await (await fetch(`${rig.adminUrl}/metrics`)).text()).includes('warmpath_redis_up 1'))
  server.fail({ kind: 'delay', delayMs: 30 }, ['GET'])
  const asked = server.commands().length
  const leaving = chat(rig.url, body, acme)
  await until(() => server.commands().length > asked)
  leaving.req.destroy()
  await until(async () => (await (await fetch(`${rig.adminUrl}/decisions?limit=1`)).text()).includes('the caller left'))
  expect(engine.seen.length).toBe(0)
  expect((await chat(rig.url, body, acme).answer).headers['cache-status']).toBe('warmpath-router; fwd=miss')
  expect((await chat(rig.url, body, acme).answer).headers['cache-status']).toContain('; hit; ')
})
