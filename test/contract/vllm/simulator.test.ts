// The contract with vLLM, kept by the simulator: every recorded exchange and every recorded observation of a real vLLM 0.32,
// asked of simulated pods again.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Simulator, startSimulator } from '../../../cluster/simulator/server.ts'
import { expectSame } from './compare.ts'
import { exchangeWith } from './exchange.ts'
import { exchangeRows, forSimulator } from './exchanges.ts'
import { observationRows } from './observations.ts'
import { type ObservedPod, observe } from './observed-pod.ts'
import { SIMULATED } from './pods.ts'
import { asRecorded, recordedObservation } from './recorded-observations.ts'

describe.each(['plain', 'pooling'] as const)('a simulated pod (%s) says what the real one said', (kind) => {
  let pod: Simulator
  beforeAll(async () => {
    pod = await startSimulator({ ...SIMULATED[kind], speed: 0 })
  })
  afterAll(() => pod?.close())

  it.each(exchangeRows(kind))('$name', async (row) => {
    const answer = await exchangeWith(pod.url, forSimulator(row, 'builtIn'))
    expectSame(answer, row.response, row, { isSimulated: true })
  })
})

describe.each(['plain', 'adapters'] as const)('a simulated pod (%s) is seen to do what the real one did', (kind) => {
  let pod: Simulator
  let observed: ObservedPod
  beforeAll(async () => {
    pod = await startSimulator(SIMULATED[kind])
    const { port, replayPort } = pod.kvEvents ?? {}
    observed = await observe({
      url: pod.url,
      eventsEndpoint: `tcp://127.0.0.1:${port}`,
      replayEndpoint: `tcp://127.0.0.1:${replayPort}`,
    })
  })
  afterAll(async () => {
    observed?.close()
    await pod?.close()
  })

  for (const { name, look } of observationRows(kind)) {
    it(name, async () => {
      // What rows before this one left behind is not of this one.
      await observed.events()
      expect(asRecorded(await look(observed))).toEqual(recordedObservation(name))
    })
  }
})
