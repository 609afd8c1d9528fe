// The router with the KV index in it, in front of simulated pods that publish their events.
import { once } from 'node:events'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { loadRouterConfig } from '../../../cluster/config.ts'
import { createLog } from '../../../cluster/log.ts'
import { startRouter } from '../../../cluster/router.ts'
import { type Simulator, type SimulatorOptions, startSimulator } from '../../../cluster/simulator/server.ts'
import { HEADER } from '../../../shared/headers.ts'
import { chat, decisionOf, type Rig, startRig, until } from './rig.ts'

async function startPods(count: number, options: SimulatorOptions = {}): Promise<readonly Simulator[]> {
  const pods: Simulator[] = []
  for (let pod = 0; pod < count; pod++) {
    const simulator = await startSimulator({ port: 0, models: ['m'], speed: 0, seed: pod, ...options })
    pods.push(simulator)
    onTestFinished(simulator.close)
  }
  return pods
}

/** Resolves when the router follows every pod's events. */
async function live(rig: Rig, pods: number): Promise<void> {
  await until(async () => {
    const endpoints = (await (await fetch(`${rig.adminUrl}/endpoints`)).json()) as { cache: { state: string }[] }[]
    return endpoints.filter(({ cache }) => cache.some(({ state }) => state === 'live')).length === pods
  })
}

const SYSTEM = { role: 'system', content: 'You answer in few words and never guess. '.repeat(40) }
const turn = (...texts: string[]) => ({
  model: 'm',
  max_tokens: 8,
  messages: [SYSTEM, ...texts.map((content, index) => ({ role: index % 2 ? 'assistant' : 'user', content }))],
})

async function ask(rig: Rig, body: object) {
  const { status, headers, text } = await chat(rig.url, body).answer
  expect(status).toBe(200)
  const { usage, choices } = JSON.parse(text) as {
    usage: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } }
    choices: [{ message: { content: string } }]
  }
  const decision = await decisionOf(rig, headers[HEADER.decision])
  return {
    said: choices[0].message.content,
    cached: usage.prompt_tokens_details.cached_tokens,
    promptTokens: usage.prompt_tokens,
    decision,
    pod: decision.chosen as string,
  }
}

/** The prediction follows the events, which follow the answer: asks until the index has them. */
async function indexed(rig: Rig, atLeast: number): Promise<void> {
  await until(async () => {
    const page = await (await fetch(`${rig.adminUrl}/metrics`)).text()
    return Number(/^warmpath_kv_index_blocks (\d+)/m.exec(page)?.[1] ?? 0) >= atLeast
  })
}

describe('the second turn', () => {
  it('goes where the first one was computed, and what was predicted is what the engine says', async () => {
    const pods = await startPods(3)
    const rig = await startRig(pods)
    await live(rig, 3)
    for (const topic of ['warm caches', 'cold caches', 'no caches at all']) {
      const first = await ask(rig, turn(topic))
      await indexed(rig, Math.floor(first.promptTokens / 16))
      const second = await ask(rig, turn(topic, first.said, 'And then?'))
      expect(second.decision).toMatchObject({ promptTokens: second.promptTokens })
      expect(second.decision.tokensUnknown).toBeUndefined()
      expect(second.cached).toBeGreaterThan(300)
      expect(second.decision.predictedCachedTokens).toBe(second.cached)
    }
    const accuracy = (await (await fetch(`${rig.adminUrl}/accuracy`)).json()) as { total: object }
    expect(accuracy.total).toMatchObject({ answers: 6, exact: 6, over: 0, under: 0, errorTokens: 0 })
  })

  it('is found by a router that starts after the first: events are replayed', async () => {
    const pods = await startPods(2)
    const before = await startRig(pods)
    await live(before, 2)
    const first = await ask(before, turn('replayed'))
    const after = await startRig(pods)
    await live(after, 2)
    const second = await ask(after, turn('replayed', first.said, 'And then?'))
    expect(second.pod).toBe(first.pod)
    expect(second.decision.predictedCachedTokens).toBe(second.cached)
    expect(second.cached).toBeGreaterThan(300)
  })

  it('why tells what each pod holds', async () => {
    const rig = await startRig(await startPods(2))
    await live(rig, 2)
    const first = await ask(rig, turn('why'))
    await indexed(rig, Math.floor(first.promptTokens / 16))
    const second = await ask(rig, turn('why', first.said, 'And then?'))
    const { words } = second.decision
    expect(words).toContain(`prompt   ${second.promptTokens} tokens, looked up in`)
    expect(words).toContain(`(${second.cached} cached, 0 active`)
    expect(words).toContain('(0 cached, 0 active')
    expect(words).toContain(`(${second.cached} cached, ${second.cached} predicted)`)
  })

  it('after a reset that nobody heard of yet, the closed loop notices: predicted and actual differ once', async () => {
    const pods = await startPods(1)
    const rig = await startRig(pods)
    await live(rig, 1)
    const first = await ask(rig, turn('reset'))
    await indexed(rig, Math.floor(first.promptTokens / 16))
    await fetch(`${pods[0]?.url}/reset_prefix_cache`, { method: 'POST' })
    const again = await ask(rig, turn('reset'))
    expect(again.cached).toBe(0)
    expect(again.decision.predictedCachedTokens).toBeGreaterThan(0)
    const accuracy = (await (await fetch(`${rig.adminUrl}/accuracy`)).json()) as { total: object }
    expect(accuracy.total).toMatchObject({ answers: 2, over: 1 })
  })
})

describe('ten at once with one new long prompt', () => {
  it('nine follow the first to its pod, and find there what it computed', async () => {
    // Its prefill takes a second and more.
    const pods = await startPods(4, { speed: 1 })
    const rig = await startRig(pods)
    await live(rig, 4)
    const long = 'One long document that everybody asks about. '.repeat(2_000)
    const asked = Array.from({ length: 10 }, (_, at) => ask(rig, turn(`${long} Question ${at}?`)))
    const answers = await Promise.all(asked)
    const busiest = Math.max(...pods.map(({ url }) => answers.filter(({ pod }) => pod === new URL(url).host).length))
    expect(busiest).toBe(10)
    const words = await Promise.all(
      answers.map(async ({ decision }) => {
        const headers = { accept: 'text/plain' }
        return (await fetch(`${rig.adminUrl}/decisions/${decision.id}`, { headers })).text()
      }),
    )
    expect(words.filter((each) => each.includes('being computed for another prompt')).length).toBe(9)
    // What is guessed is not predicted: the closed loop does not count it.
    expect(answers.filter(({ decision }) => decision.predictedCachedTokens !== undefined).length).toBe(1)
  })
})

describe('without events nothing fails', () => {
  it('pods that publish none are guessed to hold what was sent there, and why marks it as a guess', async () => {
    const pods = await startPods(3, { kvEventsPort: 'off' })
    const rig = await startRig(pods)
    const first = await ask(rig, turn('guessed'))
    for (let question = 0; question < 4; question++) {
      const next = await ask(rig, turn('guessed', first.said, `And question ${question}?`))
      expect(next.pod).toBe(first.pod)
      expect(next.cached).toBeGreaterThan(0)
      const headers = { accept: 'text/plain' }
      const words = await (await fetch(`${rig.adminUrl}/decisions/${next.decision.id}`, { headers })).text()
      expect(words).toMatch(/about \d+ cached, guessed from what was sent there/)
    }
  })

  it('pods that publish none are placed by load, and why says that their caches are not known', async () => {
    const rig = await startRig(await startPods(2, { kvEventsPort: 'off' }))
    const { decision } = await ask(rig, turn('no events'))
    expect(decision.tokensUnknown).toBe('no endpoint publishes KV events')
    expect(decision.predictedCachedTokens).toBeUndefined()
  })
})

describe('configuration that changes while the router runs', () => {
  it('takes new weights and endpoints at once, keeps the old ones when the file is wrong, and says where', async () => {
    const pods = await startPods(2)
    const [one, two] = pods as [Simulator, Simulator]
    const file = join(mkdtempSync(join(tmpdir(), 'warmpath-')), 'router.yaml')
    const yaml = (...urls: string[]) =>
      `port: 0\nadmin: { port: 0 }\nlogLevel: silent\nendpoints:\n${urls.map((url) => `  - url: ${url}\n`).join('')}`
    writeFileSync(file, yaml(one.url))
    const read = (text: string) => loadRouterConfig(file, {}, text)
    const router = await startRouter(loadRouterConfig(file, {}), createLog('silent'), undefined, { file, read })
    onTestFinished(() => router.close({ drainNoticeMs: 0, drainMs: 0 }))
    const rig: Rig = Object.assign(router, {
      url: `http://127.0.0.1:${router.port}`,
      adminUrl: `http://127.0.0.1:${router.adminPort}`,
    })
    const listed = async () =>
      ((await (await fetch(`${rig.adminUrl}/endpoints`)).json()) as { origin: string }[]).map(({ origin }) => origin)
    const reloads = async (outcome: string, times = 1) =>
      (await (await fetch(`${rig.adminUrl}/metrics`)).text()).includes(
        `warmpath_config_reloads_total{outcome="${outcome}"} ${times}`,
      )
    expect(await listed()).toEqual([one.url])

    writeFileSync(file, yaml(two.url))
    await until(() => reloads('applied'))
    expect(await listed()).toEqual([two.url])
    const page = await (await fetch(`${rig.adminUrl}/metrics`)).text()
    expect(page).not.toContain(`endpoint="${new URL(one.url).host}"`)
    const available = page.split('\n').filter((line) => line.startsWith('warmpath_endpoint_available{'))
    expect(available).toEqual([`warmpath_endpoint_available{endpoint="${new URL(two.url).host}",role="both"} 1`])
    await live(rig, 1)
    expect((await ask(rig, turn('moved'))).pod).toBe(new URL(two.url).host)

    writeFileSync(file, yaml('nonsense'))
    await until(() => reloads('refused'))
    expect((await ask(rig, turn('kept'))).pod).toBe(new URL(two.url).host)

    // The fault is gone, and those who watch for it are told.
    writeFileSync(file, yaml(two.url))
    await until(() => reloads('applied', 2))

    writeFileSync(file, `${yaml(two.url)}timeouts: { headerMs: 50 }\n`)
    await until(() => reloads('applied', 3))
    const stalled = connect(router.port, '127.0.0.1')
    stalled.write('POST /v1/chat/completions HTTP/1.1\r\n')
    const [answer] = (await once(stalled, 'data')) as [Buffer]
    expect(answer.toString()).toMatch(/^HTTP\/1.1 408 /)
    stalled.destroy()
  })
})
