// Encodes texts: small ones at once, large ones in a worker thread, so that no prompt holds up another's stream.
import { Worker } from 'node:worker_threads'
import type { TextTokenizer } from './bpe/bpe.ts'
import { bytesOf, type EncoderResult, type EncoderTask, perform, type Utf8 } from './encoder-work.ts'

/** As much takes about a millisecond, words that were never seen included. */
const AT_ONCE_BYTES = 8 * 1024
/** What may wait for the worker: some seconds of its work. */
const WAITING_BYTES_MAX = 32 * 1024 * 1024
/** A worker that ended is started again, not more often than this. */
const RESTART_MS = 5_000

export type Encoder = {
  /** Undefined when it cannot be done now: too much waits, or the worker has ended. */
  readonly perform: (task: EncoderTask) => Promise<EncoderResult | undefined>
  readonly waitingBytes: () => number
  readonly close: () => Promise<void>
}

export type EncoderOptions = {
  readonly directory: string
  readonly tokenizer: TextTokenizer
  readonly sought: readonly string[]
  readonly nowMs: () => number
  /** The worker ended by itself, in words. */
  readonly onFault: (message: string) => void
}

type Waiting = { readonly bytes: number; readonly resolve: (result: EncoderResult | undefined) => void }

export function createEncoder({ directory, tokenizer, sought, nowMs, onFault }: EncoderOptions): Encoder {
  // Invariant: `waitingBytes` is the sum over `waiting`; all of it is with `worker`.
  const waiting = new Map<number, Waiting>()
  let waitingBytes = 0
  let worker: Worker | undefined
  let startedAtMs = Number.NEGATIVE_INFINITY
  let nextId = 0
  let closed = false

  function start(): Worker | undefined {
    if (worker !== undefined || closed || nowMs() - startedAtMs < RESTART_MS) return worker
    startedAtMs = nowMs()
    const started = new Worker(new URL('./encoder-worker.ts', import.meta.url), { workerData: { directory, sought } })
    // It holds nothing that a process has to wait for.
    started.unref()
    started.on('message', ({ id, result }: { readonly id?: number; readonly result?: EncoderResult }) => {
      if (id !== undefined) settle(id, result)
    })
    const ended = (message: string) => {
      if (worker !== started) return
      worker = undefined
      if (!closed) onFault(message)
      for (const id of [...waiting.keys()]) settle(id, undefined)
    }
    started.on('error', (error) => ended(error.message))
    started.on('exit', (code) => ended(`it ended with ${code}`))
    worker = started
    return started
  }

  function settle(id: number, result: EncoderResult | undefined): void {
    const one = waiting.get(id)
    if (one === undefined) return
    waiting.delete(id)
    waitingBytes -= one.bytes
    one.resolve(result)
  }

  start()
  return {
    async perform(task) {
      const bytes = bytesOf(task)
      if (bytes <= AT_ONCE_BYTES) return perform(task, tokenizer, sought)
      const to = start()
      if (to === undefined || waitingBytes + bytes > WAITING_BYTES_MAX) return undefined
      const id = nextId++
      return new Promise((resolve) => {
        waiting.set(id, { bytes, resolve })
        waitingBytes += bytes
        const { copy, buffers } = copied(task)
        to.postMessage({ id, task: copy }, buffers)
      })
    },
    waitingBytes: () => waitingBytes,
    async close() {
      closed = true
      await worker?.terminate()
    },
  }
}

const UTF8_CHARS_MIN = 4 * 1024
const utf8 = new TextEncoder()

/** Views of a body would take the whole of it along. */
function copied(task: EncoderTask): { readonly copy: EncoderTask; readonly buffers: ArrayBuffer[] } {
  const buffers: ArrayBuffer[] = []
  const own = (bytes: Uint8Array): Uint8Array => {
    const copy = new Uint8Array(bytes)
    buffers.push(copy.buffer)
    return copy
  }
  const encoded = (text: string): Utf8 => {
    const bytes = utf8.encode(text)
    buffers.push(bytes.buffer)
    return { utf8: bytes, length: bytes.length }
  }
  if (task.kind === 'examine') return { copy: { ...task, strings: task.strings.map(own) }, buffers }
  const pieces = task.pieces.map((parts) =>
    parts.map((part) => {
      if (typeof part === 'string') return part.length < UTF8_CHARS_MIN ? part : encoded(part)
      return part instanceof Uint8Array ? own(part) : part
    }),
  )
  return { copy: { ...task, pieces }, buffers }
}
