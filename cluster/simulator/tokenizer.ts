// Text to token ids and back. The built-in tokenizer needs no vocabulary: a token is up to four bytes of one word,
// packed into its id, so that any text has one encoding, every process agrees on it, and it can be undone.
import { isTooDeep } from './schema.ts'

export type ChatMessage = {
  readonly role: string
  readonly content?: unknown
  readonly tool_calls?: unknown
  readonly [member: string]: unknown
}

export type ChatEncoding = {
  readonly addGenerationPrompt: boolean
  readonly continueFinalMessage: boolean
  readonly addSpecialTokens: boolean
  /** Given to the chat template as variables. */
  readonly templateVariables: Readonly<Record<string, unknown>>
}

/** Adds a token to the text; what it returns is the text that became complete. */
export type TextDecoderStream = (tokenId: number) => string

export type Tokenizer = {
  readonly encode: (text: string, addSpecialTokens: boolean) => number[]
  readonly decode: (ids: readonly number[]) => string
  /** Throws TemplateError when the template refuses the messages. */
  readonly encodeChat: (
    messages: readonly ChatMessage[],
    tools: readonly unknown[] | undefined,
    options: ChatEncoding,
  ) => number[]
  readonly isId: (id: number) => boolean
  /** How the vocabulary spells the token. */
  readonly spelling: (id: number) => string
  readonly endOfTextId: number
  readonly createDecoder: () => TextDecoderStream
}

/** A chat template's own objection. */
export class TemplateError {
  readonly message: string
  constructor(message: string) {
    this.message = message
  }
}

/** UTF-8 uses 243 of the 256 byte values: never 0xC0, 0xC1 and 0xF5 to 0xFF. Digit 0 is no byte. */
const RADIX = 244
const BYTES_PER_TOKEN = 4
const FIRST_SPECIAL_ID = RADIX ** BYTES_PER_TOKEN
const FIRST_LEAD_BYTE = 0xc2

const MESSAGE_START = '<|im_start|>'
const MESSAGE_END = '<|im_end|>'
const SPECIALS = ['<|endoftext|>', MESSAGE_START, MESSAGE_END] as const
const MESSAGE_END_ID = FIRST_SPECIAL_ID + SPECIALS.indexOf(MESSAGE_END)

/** Words with the space before them, numbers, signs, white space; a run of white space leaves its last space behind. */
const PIECE = / ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+/gu
const SPECIAL = /(<\|endoftext\|>|<\|im_start\|>|<\|im_end\|>)/

const utf8 = new TextEncoder()

/** The tokenizer of a simulated model that has no files. */
export function createBuiltInTokenizer(): Tokenizer {
  return {
    encode: (text) => encode(text),
    decode: (ids) => {
      const push = createDecoder()
      return ids.map(push).join('') + push(END_OF_STREAM)
    },
    encodeChat: (messages, tools, options) => encode(renderChat(messages, tools, options)),
    isId,
    spelling: (id) => specialOf(id) ?? Buffer.from(bytesOf(id)).toString('latin1'),
    endOfTextId: MESSAGE_END_ID,
    createDecoder,
  }
}

function encode(text: string): number[] {
  const ids: number[] = []
  for (const part of text.split(SPECIAL)) {
    const special = (SPECIALS as readonly string[]).indexOf(part)
    if (special >= 0) ids.push(FIRST_SPECIAL_ID + special)
    else for (const [piece] of part.matchAll(PIECE)) pushPiece(ids, piece)
  }
  return ids
}

function pushPiece(ids: number[], piece: string): void {
  const bytes = utf8.encode(piece)
  for (let start = 0; start < bytes.length; start += BYTES_PER_TOKEN) {
    let id = 0
    for (let at = Math.min(start + BYTES_PER_TOKEN, bytes.length) - 1; at >= start; at--) {
      id = id * RADIX + digitOf(bytes[at] as number)
    }
    ids.push(id)
  }
}

function digitOf(byte: number): number {
  return byte < FIRST_LEAD_BYTE ? byte + 1 : byte - 1
}

function byteOf(digit: number): number {
  return digit < FIRST_LEAD_BYTE - 1 ? digit - 1 : digit + 1
}

function bytesOf(id: number): number[] {
  const bytes: number[] = []
  for (let rest = id; rest > 0; rest = Math.floor(rest / RADIX)) bytes.push(byteOf(rest % RADIX))
  return bytes
}

function isId(id: number): boolean {
  if (!Number.isInteger(id) || id <= 0) return false
  if (id >= FIRST_SPECIAL_ID) return specialOf(id) !== undefined
  for (let rest = id; rest > 0; rest = Math.floor(rest / RADIX)) if (rest % RADIX === 0) return false
  return true
}

function specialOf(id: number): string | undefined {
  return SPECIALS[id - FIRST_SPECIAL_ID]
}

/** Never an id: flushes the bytes of a character that did not come whole. */
const END_OF_STREAM = -1

function createDecoder(): TextDecoderStream {
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  return (id) => {
    if (id === END_OF_STREAM) return decoder.decode()
    const special = specialOf(id)
    if (special !== undefined) return decoder.decode() + special
    return decoder.decode(Uint8Array.from(bytesOf(id)), { stream: true })
  }
}

function renderChat(
  messages: readonly ChatMessage[],
  tools: readonly unknown[] | undefined,
  { addGenerationPrompt, continueFinalMessage }: ChatEncoding,
): string {
  const toolTurn =
    tools && tools.length > 0 ? turn('system', `# Tools\n${tools.map((tool) => JSON.stringify(tool)).join('\n')}`) : ''
  const turns = messages.map(({ role, content, tool_calls }) => {
    const calls = Array.isArray(tool_calls) ? tool_calls.map((call) => `\n${callText(call)}`).join('') : ''
    return turn(role === 'developer' ? 'system' : role, `${contentText(content)}${calls}`)
  })
  const text = toolTurn + turns.join('')
  if (continueFinalMessage) return text.slice(0, -`${MESSAGE_END}\n`.length)
  return addGenerationPrompt ? `${text}${MESSAGE_START}assistant\n` : text
}

/** A call as templates print it: what it calls and with what, however the caller wrote that down. */
function callText(call: unknown): string {
  const called = (
    call as { readonly function?: { readonly name?: unknown; readonly arguments?: unknown } | null } | null
  )?.function
  return JSON.stringify({ name: called?.name ?? null, arguments: callArguments(called?.arguments) })
}

/** A call's arguments, which callers send as JSON text. Like vLLM, what is no object stands for no arguments. */
export function callArguments(given: unknown): unknown {
  if (typeof given !== 'string') return given ?? {}
  try {
    const value: unknown = JSON.parse(given)
    return typeof value !== 'object' || value === null || Array.isArray(value) || isTooDeep(value) ? {} : value
  } catch {
    return {}
  }
}

function turn(role: string, text: string): string {
  return `${MESSAGE_START}${role}\n${text}${MESSAGE_END}\n`
}

/** A message's content as the one string that most templates want: text parts are joined by line feeds. */
export function contentText(content: unknown): string {
  if (content === null || content === undefined) return ''
  if (typeof content === 'string') return content
  if (!Array.isArray(content)) return JSON.stringify(content)
  return content.map(partText).join('\n')
}

function partText(part: unknown): string {
  if (typeof part === 'string') return part
  const text = (part as { readonly text?: unknown } | null | undefined)?.text
  return typeof text === 'string' ? text : ''
}
