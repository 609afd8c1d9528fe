// The walk with the Redis of these tests, which needs nothing beyond npm; test/real runs it with the real one.
import { onTestFinished } from 'vitest'
import { startRespServer } from '../../resp-server.ts'
import { describeSharedAnswers } from './shared-answers.ts'

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
