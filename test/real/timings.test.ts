// A real vLLM's times: that they can be recorded, and that a preset can be fitted to them. How well is tested on the
// recording in the fixtures, taken with WARMPATH_RECORD_TIMINGS_SECONDS on a machine that had nothing else to do.
import { writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { fitRecording, presetText } from '../../cluster/simulator/fit.ts'
import { parsePreset } from '../../cluster/simulator/preset.ts'
import { recordEngine } from '../../cluster/simulator/record.ts'
import { parseRecording } from '../../cluster/simulator/recording.ts'
import { MAX_NUM_SEQS, startVllm, type Vllm } from './vllm.ts'

const FIXTURE = fileURLToPath(new URL('../fixtures/vllm/timings.jsonl', import.meta.url))
/** Two rounds of all kinds of episodes, or more where the machine is fast. */
const SECONDS_DEFAULT = 8

let engine: Vllm

beforeAll(async () => {
  engine = await startVllm()
})
afterAll(() => engine?.stop())

it('a recording of it can be fitted, and the preset is one that a simulated pod takes', async () => {
  const wanted = process.env.WARMPATH_RECORD_TIMINGS_SECONDS
  const told: string[] = []
  const text = await recordEngine({
    engine: engine.url,
    seconds: Number(wanted ?? SECONDS_DEFAULT),
    seed: 0,
    maxNumSeqs: MAX_NUM_SEQS,
    maxNumBatchedTokens: undefined,
    print: (line) => told.push(line),
  })
  if (wanted !== undefined) writeFileSync(FIXTURE, text)
  expect(told.at(0)).toContain('recording vLLM 0.32.0, model tiny-qwen3')
  const recording = parseRecording(text, 'timings.jsonl')
  expect(recording.head).toMatchObject({ blockSize: 32, kvCacheTokens: 65_536, maxModelLen: 8_192 })
  const kinds = new Set(recording.requests.map(({ kind }) => kind))
  expect([...kinds].sort()).toEqual(['alone', 'sharing', 'together-2', 'together-4', 'together-8'])
  // Who shares a beginning finds the whole blocks of it cached.
  const shared = recording.requests.filter(({ kind, cachedTokens }) => kind === 'sharing' && cachedTokens > 0)
  expect(shared.length).toBeGreaterThan(0)
  for (const { prompt, cachedTokens } of shared)
    expect(cachedTokens % 32 === 0 && cachedTokens <= (prompt[0]?.[1] ?? 0)).toBe(true)
  const fitted = fitRecording(recording)
  const preset = parsePreset(presetText(recording, fitted, 'timings.jsonl'), 'preset.yaml')
  // Two layers of 64 numbers: far below a real model, far above nothing. The machine may be busy.
  expect(preset.timing.step.overheadMs).toBeGreaterThan(0.2)
  expect(preset.timing.step.overheadMs).toBeLessThan(500)
  expect(preset.timing.step.perTokenMs).toBeLessThan(5)
})
