// The rows of more than one request: each looks at a pod and tells what it saw, and what a real vLLM 0.32 then told stands
// in the recording. Prompts are token ids, so that numbers, block hashes and events are the same for every model.
import { ADAPTER_ROWS } from './adapter-rows.ts'
import { CACHE_ROWS } from './cache-rows.ts'
import { CONNECTION_ROWS } from './connection-rows.ts'
import type { ObservationRow } from './observed-pod.ts'
import { OPERATOR_ROWS } from './operator-rows.ts'
import type { Kind } from './pods.ts'

/** In the order in which a pod must see them, from its start on: some change what it holds. */
export function observationRows(kind: Kind): readonly ObservationRow[] {
  return [...OPERATOR_ROWS, ...CACHE_ROWS, ...CONNECTION_ROWS, ...ADAPTER_ROWS].filter((row) => row.kind === kind)
}
