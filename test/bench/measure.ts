// One measured stretch: a load on a subject, warm first, with the CPU time that the subject spent on it.
import { pause } from './figures.ts'
import { type Expected, type LoadCounts, startLoad } from './load.ts'
import type { Subject } from './processes.ts'
import type { Request } from './requests.ts'

export type Stretch = {
  readonly subject: Subject
  readonly connections: number
  readonly request: Request
  readonly expected: Expected
}

export type Measured = {
  readonly counts: LoadCounts
  /** CPU time of the subject. */
  readonly usedMs: number
  readonly elapsedMs: number
}

/** Rejects when an answer is not the expected one. */
export async function measureLoad(
  { subject, connections, request, expected }: Stretch,
  warmUpMs: number,
  measuredMs: number,
): Promise<Measured> {
  const load = startLoad({ port: subject.port, connections, request, expected })
  await pause(warmUpMs)
  load.take()
  const cpuMs = subject.cpuMs()
  const startedMs = performance.now()
  await pause(measuredMs)
  const counts = load.take()
  const usedMs = subject.cpuMs() - cpuMs
  const elapsedMs = performance.now() - startedMs
  await load.stop()
  return { counts, usedMs, elapsedMs }
}
