// What the rows of observations share: requests of token ids, and what of their answers is told.
import type { Answer } from './exchange.ts'
import { type ObservedPod, settled } from './observed-pod.ts'
import { countsIn } from './shape.ts'

/** Asks for one token after a prompt of token ids; the numbers of the answer's usage. */
export async function complete(pod: ObservedPod, prompt: readonly number[], more: object = {}): Promise<string> {
  const answer = await pod.ask('POST', '/v1/completions', { prompt, max_tokens: 1, temperature: 0, ...more })
  return answer.status === 200 ? countsIn(answer).join(' ') : JSON.stringify(answer.json)
}

/** Status, headers and body, less what is of the moment. */
export function told({ status, headers: { 'x-request-id': _, ...headers }, json, text, stream }: Answer): unknown {
  return { status, headers, body: json ?? text ?? stream }
}

/** An open stream of a request that takes long, and a way to leave it. */
export async function openStream(pod: ObservedPod, body: object): Promise<{ readonly leave: () => void }> {
  const client = new AbortController()
  const answer = await fetch(`${pod.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...pod.credentials },
    body: JSON.stringify({ temperature: 0, ignore_eos: true, stream: true, ...body }),
    signal: client.signal,
  })
  const reader = answer.body?.getReader()
  // Until its first token: it runs.
  await reader?.read()
  return {
    leave: () => client.abort(),
  }
}

/** The series of a family, spelled as on the page. */
export async function seriesOf(pod: ObservedPod, family: string): Promise<ReadonlyMap<string, string>> {
  const { text = '' } = await pod.ask('GET', '/metrics')
  const lines = text.split('\n').filter((line) => line.startsWith(`${family}{`))
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), line.slice(line.lastIndexOf(' ') + 1)]))
}

/** How many requests run, once they are as many as they should be. */
export async function runningOf(pod: ObservedPod, wanted: number): Promise<readonly (readonly [string, string])[]> {
  const series = await settled(
    () => seriesOf(pod, 'vllm:num_requests_running'),
    (running) => [...running.values()].every((value) => Number(value) === wanted),
  )
  return [...series]
}
