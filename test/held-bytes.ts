// What something holds in memory, without the garbage that was made on the way.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

/** Bytes by which what `make` gives, and whatever it changed, keeps the heap and its buffers larger. */
export function heldBytes<Value>(make: () => Value): { readonly bytes: number; readonly value: Value } {
  const before = used()
  const value = make()
  return { bytes: used() - before, value }
}

function used(): number {
  collectGarbage()
  const { heapUsed, arrayBuffers } = process.memoryUsage()
  return heapUsed + arrayBuffers
}
