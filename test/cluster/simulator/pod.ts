// What the simulator's tests share: a pod that closes itself after the test, and the reading of its streams.
import { setTimeout as delay } from 'node:timers/promises'
import { onTestFinished } from 'vitest'
import { type Simulator, type SimulatorOptions, startSimulator } from '../../../cluster/simulator/server.ts'

/** A pod for one test; without waiting unless the test wants time to pass. */
export async function startPod(options: SimulatorOptions = {}): Promise<Simulator> {
  const pod = await startSimulator({ speed: 0, ...options })
  onTestFinished(() => pod.close())
  return pod
}

export function post(
  pod: Pick<Simulator, 'url'>,
  path: string,
  body: unknown,
  init: RequestInit = {},
): Promise<Response> {
  return fetch(`${pod.url}${path}`, {
    method: 'POST',
    body: JSON.stringify(body),
    ...init,
    headers: { 'content-type': 'application/json', ...init.headers },
  })
}

/** The `data` of each event of a complete stream; JSON but for the last. */
export function eventsOf(stream: string): string[] {
  return stream
    .split('\n\n')
    .filter((event) => event !== '')
    .map((event) => event.replace(/^(event: .*\n)?data: /, ''))
}

/** Resolves once the condition holds. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await delay(2)
}
