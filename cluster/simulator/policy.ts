// Scheduling policies: whose turn it is, and who is taken back first.
import type { Sequence } from './sequence.ts'

/** Who came first, or whose priority is lowest. */
export const SCHEDULING_POLICIES = ['fcfs', 'priority'] as const
export type SchedulingPolicy = (typeof SCHEDULING_POLICIES)[number]

/** Puts a new sequence into the queue. */
export function enqueue(queue: Sequence[], sequence: Sequence, policy: SchedulingPolicy): void {
  if (policy === 'fcfs') queue.push(sequence)
  else insert(queue, sequence)
}

/** Puts one back that was taken from those that run: before all that have not run, or where its priority belongs. */
export function requeue(queue: Sequence[], sequence: Sequence, policy: SchedulingPolicy): void {
  if (policy === 'fcfs') queue.unshift(sequence)
  else insert(queue, sequence)
}

/** The place of the running sequence that is taken back first; there must be one. */
export function leastUrgent(running: readonly Sequence[], policy: SchedulingPolicy): number {
  let least = running.length - 1
  if (policy === 'fcfs') return least
  for (const [index, sequence] of running.entries()) {
    if (compareUrgency(sequence, running[least] as Sequence) > 0) least = index
  }
  return least
}

function insert(queue: Sequence[], sequence: Sequence): void {
  const behind = queue.findIndex((other) => compareUrgency(sequence, other) < 0)
  queue.splice(behind < 0 ? queue.length : behind, 0, sequence)
}

/** Below 0 where `a` goes first. */
function compareUrgency(a: Sequence, b: Sequence): number {
  return (a.request.priority ?? 0) - (b.request.priority ?? 0) || a.arrivedAtMs - b.arrivedAtMs
}
