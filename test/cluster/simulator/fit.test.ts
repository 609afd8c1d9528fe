// Fitting a preset to recorded times: on a real recording, half of it for the fit and half for the test; and on times made by
// known constants, which must come back.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { ERROR_MAX, errorsOf, fitRecording, presetText } from '../../../cluster/simulator/fit.ts'
import { parsePreset } from '../../../cluster/simulator/preset.ts'
import { parseRecording } from '../../../cluster/simulator/recording.ts'

const RECORDED = readFileSync(new URL('../../fixtures/vllm/timings.jsonl', import.meta.url), 'utf8')

describe('a fit', () => {
  it('to half of what a real vLLM took is within a tenth of the other half’s medians', () => {
    const recording = parseRecording(RECORDED, 'timings.jsonl')
    const fitted = fitRecording(recording)
    const [first, inter] = errorsOf(fitted.held)
    expect(fitted.held.requests).toBeGreaterThan(300)
    expect(first, fitted.report).toBeLessThan(ERROR_MAX)
    expect(inter, fitted.report).toBeLessThan(ERROR_MAX)
    expect(fitted.report).not.toContain('more than')
    const preset = parsePreset(presetText(recording, fitted, 'a/timings.jsonl'), 'preset.yaml')
    expect(preset.timing.step.overheadMs).toBeCloseTo(fitted.timing.step.overheadMs, 2)
    expect(preset).toMatchObject({ kvCacheTokens: 65_536, maxNumSeqs: 16, blockSize: 32 })
  }, 60_000)

  it('says so when the two halves do not agree', () => {
    const [head = '', ...lines] = RECORDED.trimEnd().split('\n')
    const rounds = lines
      .map((line) => JSON.parse(line))
      .filter(({ episode }) => episode < 48)
      .map((request) => {
        const slower = Math.floor(request.episode / 6) % 2 === 1 ? 2 : 1
        const { firstTokenMs, lastTokenMs } = request
        return JSON.stringify({ ...request, firstTokenMs: firstTokenMs * slower, lastTokenMs: lastTokenMs * slower })
      })
    const { report } = fitRecording(parseRecording([head, ...rounds].join('\n'), 'x'))
    expect(report).toContain('more than 10 % off: record for longer')
  }, 60_000)
})

describe('a recording', () => {
  const [head = '', line = ''] = RECORDED.split('\n')

  it.each([
    ['', /^r\.jsonl:1: expected a line of JSON/],
    ['{}', /^r\.jsonl:1: recording: /],
    [head, 'r.jsonl: holds no request: record for longer'],
    [`${head}\n{"episode":0}`, /^r\.jsonl:2: kind: /],
    [`${head}\n${line}\n${line.replace('"episode":0', '"episode":-1')}`, /^r\.jsonl:3: episode: /],
    [
      `${head}\n${line.replace(/"prompt":\[\[(\d+),\d+\]\]/, '"prompt":[[$1,70000]]')}`,
      /^r\.jsonl:2: 70024 tokens do not fit the KV cache of 65536: drop the line$/,
    ],
    [`${head}\nnonsense`, /^r\.jsonl:2: expected a line of JSON/],
  ])('%.30s is refused with the line', (text, message) => {
    expect(() => parseRecording(text, 'r.jsonl')).toThrow(message)
  })
})
