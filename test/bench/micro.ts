// Parts of the hot path alone, in this process. JSON.parse stands beside them as the yardstick.
import { readdirSync, readFileSync } from 'node:fs'
import { parseMetricsPage } from '../../cluster/endpoints/metrics-page.ts'
import { rewriteBody, scanBody } from '../../cluster/prompts/body.ts'
import { chatRequest } from './requests.ts'

export type Part = { readonly name: string; readonly bytes: number; readonly cpuUs: number }

const ROUNDS = 7
const ROUND_MS = 100

const FIXTURES = new URL('../fixtures/vllm-metrics/', import.meta.url)

/** Each part's CPU time for one call, the median over interleaved rounds. */
export function measureParts(): Part[] {
  const parts: { name: string; bytes: number; run: () => unknown }[] = []
  for (const file of readdirSync(FIXTURES)) {
    const page = readFileSync(new URL(file, FIXTURES))
    parts.push({ name: `metrics page ${file}`, bytes: page.length, run: () => parseMetricsPage(page) })
  }
  for (const size of [2_048, 32_768, 400_000]) {
    const request = chatRequest(size, true).bytes
    const body = request.subarray(request.indexOf('\r\n\r\n') + 4)
    const scan = scanBody(body)
    if (!scan.ok) throw new Error(scan.message)
    const set = new Map([['priority', '1']])
    const name = `${Math.round(size / 1000)} KB`
    parts.push({ name: `body scan ${name}`, bytes: body.length, run: () => scanBody(body) })
    parts.push({
      name: `body rewrite ${name}`,
      bytes: body.length,
      run: () => rewriteBody(body, scan.members, (member) => member === 'temperature', set),
    })
    parts.push({ name: `JSON.parse ${name}`, bytes: body.length, run: () => JSON.parse(body.toString()) })
  }
  const timings = parts.map((): number[] => [])
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [index, part] of parts.entries()) {
      const cpuUs = cpuUsOf(part.run)
      // The first round compiles.
      if (round > 0) timings[index]?.push(cpuUs)
    }
  }
  return parts.map(({ name, bytes }, index) => {
    const sorted = (timings[index] ?? []).sort((a, b) => a - b)
    return { name, bytes, cpuUs: sorted[sorted.length >> 1] ?? Number.NaN }
  })
}

function cpuUsOf(run: () => unknown): number {
  const until = performance.now() + ROUND_MS
  const before = process.cpuUsage()
  let calls = 0
  while (performance.now() < until) {
    for (let index = 0; index < 10; index++) run()
    calls += 10
  }
  const { user, system } = process.cpuUsage(before)
  return (user + system) / calls
}
