// Encodes texts: small ones at once, large ones in a worker thread, so that no prompt holds up another's stream. The worker
// reads whole prompts too.
import { setImmediate as othersTurn } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import type { TextTokenizer } from './bpe/bpe.ts'
import { bytesOf, type EncoderResult, type EncoderTask, perform, type Utf8 } from './encoder-work.ts'
import type { PromptSource, Tokens } from './tokenizer.ts'

/** As much takes about a millisecond, words that were never seen included. */
const AT_ONCE_BYTES = 8 * 1024
/** What may wait for the worker: some seconds of its work. */
const WAITING_BYTES_MAX = 32 * 1024 * 1024
/** A worker that ended is started again, not more often than this. */
const RESTART_MS = 5_000

/** A third of a millisecond's work. */
const COPIED_AT_ONCE_BYTES = 512 * 1024
/** No model takes as many tokens as a longer body has; images may be as large. */
export const READ_BODY_BYTES_MAX = 8 * 1024 * 1024

/** What a worker is asked, by number. */
export type WorkerTask = EncoderTask | ReadTask

/** A whole prompt is to be read and encoded; see `ThreadTokenizer`. Its body is in the window until the answer. */
export type ReadTask = {
  readonly kind: 'read'
  readonly dialect: PromptSource['dialect']
  readonly bodyBytes: number
  readonly standsIn: boolean
}

export type WorkerResult = EncoderResult | { readonly kind: 'read'; readonly tokens: Tokens }

/** What a worker is given at its start. */
export type WorkerData = {
  readonly directory: string
  readonly sought: readonly string[]
  /** Where one body at a time lies: memory that is used again costs less than fresh memory for each. */
  readonly window: SharedArrayBuffer
}

export type Encoder = {
  /** Undefined when it cannot be done now: too much waits, or the worker has ended. */
  readonly perform: (task: EncoderTask) => Promise<EncoderResult | undefined>
  /** Of a prompt that takes long to read, with a body of `READ_BODY_BYTES_MAX` at most. Undefined as with `perform`. */
  readonly tokenize: (source: PromptSource, standsIn: boolean) => Promise<Tokens | undefined>
  readonly waitingBytes: () => number
  readonly close: () => Promise<void>
}

export type EncoderOptions = {
  /** The worker's program. It answers each `WorkerTask`, and is given {@link WorkerData}. */
  readonly worker: URL
  readonly directory: string
  readonly tokenizer: TextTokenizer
  readonly sought: readonly string[]
  readonly nowMs: () => number
  /** The worker ended by itself, in words. */
  readonly onFault: (message: string) => void
}

type Waiting = { readonly bytes: number; readonly resolve: (result: WorkerResult | undefined) => void }

export function createEncoder(options: EncoderOptions): Encoder {
  const { directory, tokenizer, sought, nowMs, onFault } = options
  // Invariant: `waitingBytes` is the sum over `waiting`; all of it is with `worker`.
  const waiting = new Map<number, Waiting>()
  let waitingBytes = 0
  const window = new SharedArrayBuffer(READ_BODY_BYTES_MAX)
  /** When the bodies that came before have left it. */
  let windowFree: Promise<unknown> = Promise.resolve()
  let worker: Worker | undefined
  let startedAtMs = Number.NEGATIVE_INFINITY
  let nextId = 0
  let closed = false

  function start(): Worker | undefined {
    if (worker !== undefined || closed || nowMs() - startedAtMs < RESTART_MS) return worker
    startedAtMs = nowMs()
    const workerData: WorkerData = { directory, sought, window }
    const started = new Worker(options.worker, { workerData })
    // It holds nothing that a process has to wait for.
    started.unref()
    started.on('message', ({ id, result }: { readonly id?: number; readonly result?: WorkerResult }) => {
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

  function settle(id: number, result: WorkerResult | undefined): void {
    const one = waiting.get(id)
    if (one === undefined) return
    waiting.delete(id)
    waitingBytes -= one.bytes
    one.resolve(result)
  }

  /** @param copy of the task, to give away, with its buffers. */
  async function ask(bytes: number, copy: () => Promise<Copy> | Copy): Promise<WorkerResult | undefined> {
    const to = start()
    if (to === undefined || waitingBytes + bytes > WAITING_BYTES_MAX) return undefined
    const id = nextId++
    const answer = new Promise<WorkerResult | undefined>((resolve) => {
      waiting.set(id, { bytes, resolve })
    })
    waitingBytes += bytes
    const made = copy()
    const { task, buffers } = made instanceof Promise ? await made : made
    to.postMessage({ id, task }, buffers)
    return answer
  }

  start()
  return {
    async perform(task) {
      const bytes = bytesOf(task)
      if (bytes <= AT_ONCE_BYTES) return perform(task, tokenizer, sought)
      return (await ask(bytes, () => copied(task))) as EncoderResult | undefined
    },
    async tokenize({ dialect, body }, standsIn) {
      const before = windowFree
      const asked = ask(body.length, async () => {
        await before
        await copyInParts(body, new Uint8Array(window))
        return { task: { kind: 'read', dialect, bodyBytes: body.length, standsIn }, buffers: [] }
      })
      windowFree = before.then(() => asked)
      const result = await asked
      return result?.kind === 'read' ? result.tokens : undefined
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

type Copy = { readonly task: WorkerTask; readonly buffers: ArrayBuffer[] }

async function copyInParts(bytes: Uint8Array, to: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; at += COPIED_AT_ONCE_BYTES) {
    await othersTurn()
    to.set(bytes.subarray(at, at + COPIED_AT_ONCE_BYTES), at)
  }
}

/** Views of a body would take the whole of it along. */
function copied(task: EncoderTask): Copy {
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
  if (task.kind === 'examine') return { task: { ...task, strings: task.strings.map(own) }, buffers }
  const pieces = task.pieces.map((parts) =>
    parts.map((part) => {
      if (typeof part === 'string') return part.length < UTF8_CHARS_MIN ? part : encoded(part)
      return part instanceof Uint8Array ? own(part) : part
    }),
  )
  return { task: { ...task, pieces }, buffers }
}
