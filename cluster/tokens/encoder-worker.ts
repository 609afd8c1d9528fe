// A worker thread that encodes: it reads the model's tokenizer from its directory, says what it is, and answers one task
// after the other.
import { parentPort, workerData } from 'node:worker_threads'
import { type EncoderTask, perform } from './encoder-work.ts'
import { readModelDirectory } from './model-directory.ts'
import { loadTextTokenizer } from './text-tokenizer.ts'

const { directory, sought } = workerData as { readonly directory: string; readonly sought: readonly string[] }
const { tokenizer: json, config } = await readModelDirectory(directory)
const { tokenizer } = loadTextTokenizer(json, config)

parentPort?.on('message', ({ id, task }: { readonly id: number; readonly task: EncoderTask }) => {
  const result = perform(task, tokenizer, sought)
  const transferred = result.kind === 'encoded' ? result.pieces.map(({ buffer }) => buffer as ArrayBuffer) : []
  parentPort?.postMessage({ id, result }, [...new Set(transferred)])
})
parentPort?.postMessage({ ready: true })
