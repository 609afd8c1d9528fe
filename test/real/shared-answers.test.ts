// The routers' walk over a real redis-server, killed and stopped under load.
import { beforeAll, onTestFinished } from 'vitest'
import { describeSharedAnswers } from '../cluster/proxy/shared-answers.ts'
import { installRedis } from './install-redis.ts'
import { startRedis } from './redis.ts'

beforeAll(async () => {
  await installRedis()
})

describeSharedAnswers('a real Redis that routers share', async () => {
  const redis = await startRedis()
  onTestFinished(redis.stop)
  return { ...redis, url: `redis://127.0.0.1:${redis.port}` }
})
