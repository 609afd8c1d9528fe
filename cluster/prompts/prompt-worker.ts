// A worker thread that encodes texts and reads whole prompts: it reads the model's tokenizer and templates from their
// directory, says that it is ready, and answers each task.
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setPriority } from 'node:os'
import { parentPort, workerData } from 'node:worker_threads'
import type { ReadTask, WorkerData, WorkerResult, WorkerTask } from '../tokens/encoder.ts'
import { perform } from '../tokens/encoder-work.ts'
import { type ModelFiles, readModelDirectory } from '../tokens/model-directory.ts'
import { digestEach } from '../tokens/text-digests.ts'
import { type LoadedTokenizer, loadTextTokenizer } from '../tokens/text-tokenizer.ts'
import { createThreadTokenizer } from '../tokens/thread-tokenizer.ts'
import type { Tokens } from '../tokens/tokenizer.ts'
import { scanBody } from './body.ts'
import { promptOf } from './prompt.ts'

/** Of long strings that stand for themselves; a prompt with more of them is the engine's to read. */
const READ_BYTES_MAX = 4 * 1024 * 1024

/** Where processors are few, streams come before prompts. */
const NICENESS = 10

const { directory, sought, window } = workerData as WorkerData
stepBack()
const { tokenizer, templates } = await load()
const whole = createThreadTokenizer({
  tokenizer,
  templates,
  encoder: { perform: async (task) => perform(task, tokenizer, sought) },
  digestTexts: digestEach,
})

/** Keeps nothing of the files: the collector would look through their hundred thousand strings again and again. */
async function load(): Promise<Pick<LoadedTokenizer, 'tokenizer'> & Pick<ModelFiles, 'templates'>> {
  const { tokenizer: json, config, templates } = await readModelDirectory(directory)
  return { tokenizer: loadTextTokenizer(json, config).tokenizer, templates }
}

/** This thread, and V8's, which collect its garbage with all the processors that there are. Only Linux tells them apart. */
function stepBack(): void {
  try {
    const own = readlinkSync('/proc/thread-self').split('/').at(-1) as string
    for (const thread of readdirSync('/proc/self/task')) {
      const name = readFileSync(`/proc/self/task/${thread}/comm`, 'latin1').trim()
      if (thread === own || name === 'V8Worker') setPriority(Number(thread), NICENESS)
    }
  } catch {
    // They are as quick as the others then.
  }
}

async function read({ dialect, bodyBytes, standsIn }: ReadTask): Promise<Tokens> {
  const body = Buffer.from(window, 0, bodyBytes)
  const scan = scanBody(body)
  const prompt = scan.ok ? promptOf(dialect, body, scan.members) : undefined
  const reading = prompt?.kind === 'text' ? prompt.reading : undefined
  if (reading === undefined) return { ok: false, because: 'the prompt is no text' }
  const tokens = await whole.tokenize(reading, standsIn, READ_BYTES_MAX)
  return tokens === 'too-long' ? { ok: false, because: 'the prompt is too long to be read here' } : tokens
}

async function answer(task: WorkerTask): Promise<WorkerResult> {
  return task.kind === 'read' ? { kind: 'read', tokens: await read(task) } : perform(task, tokenizer, sought)
}

function arraysOf(result: WorkerResult): readonly Uint32Array[] {
  if (result.kind === 'encoded') return result.pieces
  return result.kind === 'read' && result.tokens.ok ? [result.tokens.ids] : []
}

parentPort?.on('message', async ({ id, task }: { readonly id: number; readonly task: WorkerTask }) => {
  const result = await answer(task)
  const transferred = arraysOf(result).map(({ buffer }) => buffer as ArrayBuffer)
  parentPort?.postMessage({ id, result }, [...new Set(transferred)])
})
parentPort?.postMessage({ ready: true })
