// The contract with vLLM, asked of a real one: what was recorded still holds, and a simulated pod that is asked the same
// tells the same numbers. A new version of vLLM that answers differently fails here, by the name of the row.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Simulator, startSimulator } from '../../cluster/simulator/server.ts'
import { expectSame } from '../contract/vllm/compare.ts'
import { exchangeWith } from '../contract/vllm/exchange.ts'
import { exchangeRows, forSimulator } from '../contract/vllm/exchanges.ts'
import { observationRows } from '../contract/vllm/observations.ts'
import { type ObservedPod, observe } from '../contract/vllm/observed-pod.ts'
import { ADAPTERS, KINDS, SERVED, SIMULATED } from '../contract/vllm/pods.ts'
import { asRecorded, recordedObservation, recordObservation } from '../contract/vllm/recorded-observations.ts'
import { makeTinyAdapter } from './tiny-adapter.ts'
import { makeTinyModel } from './tiny-model.ts'
import { startVllm, type Vllm } from './vllm.ts'

/** Writes down what is seen instead of comparing it: for a new version of vLLM, and for new rows. */
const RECORDS = process.env.WARMPATH_RECORD === '1'

describe.each(KINDS)('a real vLLM (%s)', (kind) => {
  const observations = observationRows(kind)
  let folder: string
  let engine: Vllm
  let observed: ObservedPod | undefined
  let simulated: Simulator

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'warmpath-contract-'))
    for (const [index, name] of ADAPTERS.entries()) makeTinyAdapter(join(folder, 'adapters', name), index)
    engine = await startVllm({ ...SERVED[kind], folder })
    if (observations.length > 0) observed = await observe(engine)
    simulated = await startSimulator({ ...SIMULATED[kind], speed: 0, tokenizerDir: await makeTinyModel() })
  })
  afterAll(async () => {
    observed?.close()
    await simulated?.close()
    await engine?.stop()
    rmSync(folder, { recursive: true, force: true })
  })

  it.each(observations)('$name: as recorded', async ({ name, look }) => {
    const pod = observed as ObservedPod
    // What rows before this one left behind is not of this one.
    await pod.events()
    const seen = asRecorded(await look(pod))
    if (RECORDS) recordObservation(name, seen)
    expect(seen).toEqual(recordedObservation(name))
  })

  it.each(exchangeRows(kind))('$name: as recorded, and as the simulator has it', async (row) => {
    const live = await exchangeWith(engine.url, row.forLive)
    const ours = await exchangeWith(simulated.url, forSimulator(row, 'real'))
    expectSame(live, row.response, row)
    expectSame(ours, live, row, { isSimulated: true, counts: true })
  })

  it('is of the version that the simulator says it is', async () => {
    const ask = { method: 'GET', path: '/version', headers: {} }
    expect((await exchangeWith(simulated.url, ask)).json).toEqual((await exchangeWith(engine.url, ask)).json)
  })
})
