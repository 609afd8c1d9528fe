// Router and simulator as processes of their own, as they run in a cluster.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Program, start } from './program.ts'

let pod: Program
let podUrl: string

beforeAll(async () => {
  pod = start(['simulator', '--port', '0', '--model', 'm', '--speed', '2'], { POD_IP: '127.0.0.1' })
  await pod.says(/listens on \S+/)
  podUrl = /http:\S+/.exec(pod.said())?.[0] ?? ''
})

afterAll(async () => {
  pod.child.kill('SIGTERM')
  expect(await pod.ended).toBe(0)
})

async function startRouter(...flags: readonly string[]) {
  const router = start(['router', '-port=0', '--admin-port', '0', '--endpoint', podUrl, ...flags])
  await router.says('router listens')
  const line =
    router
      .said()
      .split('\n')
      .find((each) => each.includes('router listens')) ?? '{}'
  const { port } = JSON.parse(line) as { port: number }
  await router.says('endpoint lists its models')
  return { router, url: `http://127.0.0.1:${port}` }
}

function chat(url: string, maxTokens: number): Promise<Response> {
  return fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-secret-of-a-caller' },
    body: JSON.stringify({
      model: 'm',
      stream: true,
      max_tokens: maxTokens,
      ignore_eos: true,
      messages: [{ role: 'user', content: 'a-private-word' }],
    }),
  })
}

it('SIGTERM lets the answer in flight finish, then the router ends with 0', async () => {
  const { router, url } = await startRouter()
  const answer = await chat(url, 100)
  router.child.kill('SIGTERM')
  expect(await answer.text()).toMatch(/data: \[DONE\]\n\n$/)
  expect(await router.ended).toBe(0)
})

it('its log has a line per request, and neither bodies nor keys', async () => {
  const { router, url } = await startRouter()
  await (await chat(url, 2)).text()
  await router.says('"msg":"request"')
  router.child.kill('SIGTERM')
  await router.ended
  const line = JSON.parse(
    router
      .said()
      .split('\n')
      .find((each) => each.includes('"msg":"request"')) ?? '{}',
  )
  expect(line).toMatchObject({
    model: 'm',
    status: 200,
    outcome: 'completed',
    completionTokens: 2,
    attempts: 1,
    stream: true,
  })
  expect(router.said()).not.toContain('a-private-word')
  expect(router.said()).not.toContain('sk-secret-of-a-caller')
})
