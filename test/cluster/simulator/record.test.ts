// Recording an engine's times: what is written about a simulated pod, and the one line for whoever is no vLLM.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { recordEngine } from '../../../cluster/simulator/record.ts'
import { parseRecording } from '../../../cluster/simulator/recording.ts'
import { startPod } from './pod.ts'

const record = (engine: string, told: string[] = []) =>
  recordEngine({
    engine,
    seconds: 1,
    seed: 7,
    maxNumSeqs: 8,
    maxNumBatchedTokens: undefined,
    print: (line) => told.push(line),
  })

describe('a recording of an engine', () => {
  it.each([
    ['with room for long prompts', 8_192],
    ['with little context', 256],
  ])('%s has all kinds of episodes twice, and what each request took', async (_name, maxModelLen) => {
    const pod = await startPod({ blockSize: 32, kvCacheTokens: 65_536, maxModelLen })
    const told: string[] = []
    const { head, requests } = parseRecording(await record(pod.url, told), 'r.jsonl')
    expect(head).toMatchObject({ model: 'sim-8b', blockSize: 32, kvCacheTokens: 65_536, maxModelLen, maxNumSeqs: 8 })
    const episodes = new Map(requests.map(({ episode, kind }) => [episode, kind]))
    expect(episodes.size % 12).toBe(0)
    const round = ['alone', 'together-2', 'sharing', 'together-4', 'alone', 'together-8']
    expect([...episodes.values()].slice(0, 12)).toEqual([...round, ...round])
    for (const { prompt, firstTokenMs, lastTokenMs, cachedTokens, outputTokens } of requests) {
      const promptTokens = prompt.reduce((sum, [, length]) => sum + length, 0)
      expect(promptTokens).toBeLessThanOrEqual(3_000)
      expect(promptTokens + outputTokens).toBeLessThanOrEqual(maxModelLen)
      expect(firstTokenMs).toBeGreaterThan(0)
      expect(lastTokenMs).toBeGreaterThanOrEqual(firstTokenMs)
      expect(cachedTokens % 32).toBe(0)
      expect(outputTokens).toBeGreaterThanOrEqual(12)
    }
    expect(requests.some(({ kind, cachedTokens }) => kind === 'sharing' && cachedTokens > 0)).toBe(true)
    expect(requests.every(({ kind, cachedTokens }) => kind === 'sharing' || cachedTokens === 0)).toBe(true)
    expect(told.at(-1)).toBe(`recorded ${requests.length} requests in ${episodes.size} episodes`)
  })

  it('whose context leaves no room for prompts is refused with the flag to change', async () => {
    const pod = await startPod({ maxModelLen: 64 })
    await expect(record(pod.url)).rejects.toThrow(/ takes 64 tokens: start it with --max-model-len 128 or more$/)
  })

  it.each([
    ['answers in HTML', '<html>', 200, /\/v1\/models does not answer as vLLM does: name the engine itself/],
    ['answers with null', 'null', 200, /\/v1\/models does not answer as vLLM does/],
    ['lists models without their context', '{"data":[{"id":"m"}]}', 200, /\/v1\/models does not answer as vLLM does/],
    ['refuses', '{}', 503, /\/v1\/models answers 503: is it a vLLM\?$/],
  ])('that %s is one line', async (_name, body, status, message) => {
    const server = createServer((_request, response) => response.writeHead(status).end(body)).listen(0, '127.0.0.1')
    onTestFinished(() => {
      server.closeAllConnections()
      server.close()
    })
    await new Promise((resolve) => server.once('listening', resolve))
    await expect(record(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)).rejects.toThrow(message)
  })

  it('that nobody runs is one line', async () => {
    await expect(record('http://127.0.0.1:1')).rejects.toThrow(/ does not answer: start vLLM there, or name another/)
  })
})
