// What a real vLLM 0.32 told when it was looked at, by the name of the row.
import { existsSync, readFileSync, writeFileSync } from 'node:fs'

const FILE = new URL('../../fixtures/vllm/observations.json', import.meta.url)

/** What a row saw, as it would be read from the recording. */
export function asRecorded(observation: unknown): unknown {
  return JSON.parse(JSON.stringify(observation))
}

/** Undefined where nothing was recorded under this name. */
export function recordedObservation(name: string): unknown {
  return all()[name]
}

/** Puts one in the place of what was recorded under its name. */
export function recordObservation(name: string, observation: unknown): void {
  const entries = Object.entries({ ...all(), [name]: observation })
  const lines = entries.map(([key, value]) => `${JSON.stringify(key)}: ${JSON.stringify(value)}`)
  writeFileSync(FILE, `{\n${lines.join(',\n')}\n}\n`)
}

function all(): Readonly<Record<string, unknown>> {
  return existsSync(FILE) ? JSON.parse(readFileSync(FILE, 'utf8')) : {}
}
