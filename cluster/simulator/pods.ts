// The pods of one process, and what befalls them: a pod that dies gives up its port, and starts anew on the same one.
import { setTimeout as delay } from 'node:timers/promises'
import { UserError } from '../user-error.ts'
import type { Faults } from './faults.ts'
import { type Simulator, type SimulatorOptions, startSimulator } from './server.ts'

export type PodState = 'starting' | 'up' | 'dead'

export type SimulatedPod = {
  readonly port: number
  readonly url: string
  readonly state: () => PodState
  readonly faults: () => Faults
  /** Replaces all faults; `{}` heals the pod. Resolves once the pod is as they say, a slow start apart. */
  readonly set: (faults: Faults) => Promise<void>
  /** The pod that runs; undefined while it is dead or starts. */
  readonly simulator: () => Simulator | undefined
  readonly close: () => Promise<void>
}

/**
 * Starts a pod. It keeps its ports when it dies and comes back.
 * @param onFailure told why a pod did not come back: it is dead from then on.
 */
export async function startPod(
  options: SimulatorOptions,
  initial: Faults,
  onFailure: (error: unknown) => void,
  portFlag?: string,
): Promise<SimulatedPod> {
  let faults: Faults = {}
  let running: Simulator | undefined = await startSimulator(options, portFlag)
  const { port, url, kvEvents } = running
  const again: SimulatorOptions = {
    ...options,
    port,
    ...(kvEvents && { kvEventsPort: kvEvents.port, kvReplayPort: kvEvents.replayPort }),
  }
  let starting: AbortController | undefined
  /** One change at a time: what was set last is what the pod ends up as. */
  let change: Promise<void> = Promise.resolve()

  const kill = async () => {
    starting?.abort()
    starting = undefined
    const simulator = running
    running = undefined
    await simulator?.close()
  }

  const revive = async () => {
    if (running || starting) return
    const cancel = new AbortController()
    starting = cancel
    const seconds = faults.slowStartSeconds ?? 0
    const start = async () => {
      if (seconds > 0) await delay(seconds * 1_000, undefined, { signal: cancel.signal })
      const simulator = await startSimulator(again)
      if (cancel.signal.aborted) return simulator.close()
      running = simulator
      running.faults.set(faults)
      starting = undefined
    }
    const started = start().catch((error) => {
      if (cancel.signal.aborted) return
      starting = undefined
      onFailure(error)
    })
    // Nobody waits for a slow one.
    if (seconds === 0) await started
  }

  const apply = async (wanted: Faults) => {
    faults = wanted
    if (wanted.dead) return kill()
    running?.faults.set(wanted)
    await revive()
  }

  const set = (wanted: Faults) => {
    // What failed before is no reason not to try.
    change = change.catch(() => undefined).then(() => apply(wanted))
    return change
  }
  // A pod that starts slowly is not there at all at first.
  if (initial.slowStartSeconds !== undefined && initial.slowStartSeconds > 0) await kill()
  await set(initial)

  return {
    port,
    url,
    state: () => (running ? 'up' : starting ? 'starting' : 'dead'),
    faults: () => faults,
    set,
    simulator: () => running,
    close: async () => {
      await change.catch(() => undefined)
      await kill()
    },
  }
}

/** Starts so many pods, the first on the port that is given and each other one on the next. */
export async function startPods(
  count: number,
  options: SimulatorOptions,
  initial: Faults,
  onFailure: (error: unknown) => void,
  portFlag?: string,
): Promise<readonly SimulatedPod[]> {
  const portOf = (first: number | undefined, index: number) => (first === undefined || first === 0 ? 0 : first + index)
  if (portOf(options.port, count - 1) > 65_535) {
    throw new UserError(`port ${options.port} leaves no room for ${count} pods below 65536: lower it`)
  }
  const pods: SimulatedPod[] = []
  try {
    for (let index = 0; index < count; index++) {
      const events = options.kvEventsPort
      const more = {
        port: portOf(options.port, index),
        // Its ranks lie side by side.
        ...(typeof events === 'number' && { kvEventsPort: portOf(events, index * (options.dataParallelSize ?? 1)) }),
        ...(options.kvReplayPort !== undefined && {
          kvReplayPort: portOf(options.kvReplayPort, index * (options.dataParallelSize ?? 1)),
        }),
        seed: (options.seed ?? 0) + index,
      }
      pods.push(await startPod({ ...options, ...more }, initial, onFailure, portFlag))
    }
    return pods
  } catch (error) {
    await Promise.all(pods.map((pod) => pod.close()))
    throw error
  }
}
