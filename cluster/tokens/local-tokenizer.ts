// Which thread reads a prompt: this one, where streams wait meanwhile, or a worker for what would take long. Both read it the
// same way.
import type { TextTokenizer } from './bpe/bpe.ts'
import { type Encoder, READ_BODY_BYTES_MAX } from './encoder.ts'
import type { ChatTemplates } from './model-directory.ts'
import { createTextDigests } from './text-digests.ts'
import { BEHIND, createThreadTokenizer } from './thread-tokenizer.ts'
import type { PromptReading, TextPrompt, Tokens } from './tokenizer.ts'

/** Each of these takes this thread a millisecond or two. */
const PARTS_HERE_MAX = 150
const SHORT_BYTES_HERE_MAX = 128 * 1024
const READ_BYTES_HERE_MAX = 256 * 1024
/** Looking through a longer one for what was there before is work enough. */
const BODY_BYTES_HERE_MAX = 1024 * 1024
/** One prompt in so many that was rendered with stand-ins is rendered and tokenised whole too, to see whether it differs. */
const CHECKED_ONE_IN = 64

export type LocalTokenizerDeps = {
  readonly tokenizer: TextTokenizer
  readonly templates: ChatTemplates
  /** Whether something may stand in for long texts. */
  readonly standsIn: boolean
  readonly encoder: Encoder
  /** Uniform in [0, 1). */
  readonly random: () => number
  /** Told when a prompt with stand-ins came out otherwise than without: from then on there are none. */
  readonly onStandInsDiffer: () => void
}

export type LocalTokenizer = {
  /** Never rejects. Not ok where only the engine can tell. */
  readonly tokenize: (prompt: TextPrompt) => Promise<Tokens>
  readonly stats: () => { readonly pieces: number; readonly bytes: number; readonly waitingBytes: number }
}

export function createLocalTokenizer(deps: LocalTokenizerDeps): LocalTokenizer {
  const { encoder } = deps
  const here = createThreadTokenizer({ ...deps, digestTexts: createTextDigests() })
  let standsIn = deps.standsIn

  async function tokenize(prompt: TextPrompt): Promise<Tokens> {
    const tokens = await read(prompt, standsIn)
    if (tokens.ok && standsIn && deps.random() * CHECKED_ONE_IN < 1) void check(prompt, tokens.ids)
    return tokens
  }

  async function check(prompt: TextPrompt, ids: Uint32Array): Promise<void> {
    const whole = await read(prompt, false)
    if (!whole.ok || Buffer.from(whole.ids.buffer).equals(Buffer.from(ids.buffer))) return
    standsIn = false
    deps.onStandInsDiffer()
  }

  async function read(prompt: TextPrompt, mayStandIn: boolean): Promise<Tokens> {
    const { source } = prompt
    if (source === undefined || source.body.length <= BODY_BYTES_HERE_MAX) {
      const { reading } = prompt
      if (reading === undefined) return { ok: false, because: 'the prompt can be read by an engine alone' }
      if (source === undefined || isReadHere(reading, source.body)) {
        const tokens = await here.tokenize(reading, mayStandIn, READ_BYTES_HERE_MAX)
        if (tokens !== 'too-long') return tokens
      }
    }
    if (source === undefined || source.body.length > READ_BODY_BYTES_MAX) {
      return { ok: false, because: 'the prompt is too long to be read here' }
    }
    return (await encoder.tokenize(source, mayStandIn)) ?? BEHIND
  }

  return { tokenize, stats: () => ({ ...here.stats(), waitingBytes: encoder.waitingBytes() }) }
}

function isReadHere({ longStrings, parts }: PromptReading, body: Buffer): boolean {
  if (parts > PARTS_HERE_MAX) return false
  return body.length - longStrings.reduce((sum, { length }) => sum + length, 0) <= SHORT_BYTES_HERE_MAX
}
