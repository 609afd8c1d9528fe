// Whether a tokenizer in this process says what an engine says: a few prompts are put to both. Which of them differ tells
// what is wrong.
import { readTokenIds } from './token-ids.ts'
import type { Chat, JsonObject, TextPrompt, Tokens } from './tokenizer.ts'

/** One `POST /tokenize` for each. */
export type Probe = {
  readonly name: string
  /** What is wrong when this is the first one that differs. */
  readonly suspect: Suspect
  readonly prompt: TextPrompt
  readonly body: Buffer
}

export type Suspect = 'tokenizer revision' | 'BOS and other special tokens' | 'chat template'

export type ProbeAnswer = { readonly status: number; readonly body: Buffer }

export type Verdict =
  | { readonly kind: 'same' }
  | { readonly kind: 'differs'; readonly suspect: Suspect; readonly because: string }
  /** The engine did not tell. */
  | { readonly kind: 'unknown'; readonly because: string }

/** Words of many scripts, digits, white space, code: what revisions of one tokenizer cut differently. */
const TEXT =
  "The KV cache holds 4096 tokens; it's WE'LL-known.\n\n\tif (x != 1_000.5) { return `y`; }  // naïve café Straße\r\n" +
  'Привет, мир! 你好，世界。 こんにちは 안녕하세요 مرحبا नमस्ते 👩‍👩‍👧 🇩🇪 e\u0301\u00a0\u2003 —“quoted”… 1234567890 ½ ²'

const WEATHER = {
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'Tells the weather of a place.',
    parameters: {
      type: 'object',
      properties: { city: { type: 'string' }, days: { type: 'integer' } },
      required: ['city'],
    },
  },
}

const CHATS: readonly (readonly [string, readonly JsonObject[], readonly JsonObject[] | undefined])[] = [
  ['a question', [{ role: 'user', content: TEXT }], undefined],
  [
    'a conversation',
    [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Hi' },
      { role: 'assistant', content: 'Hello! How can I help?' },
      { role: 'user', content: 'Say it again.' },
    ],
    undefined,
  ],
  [
    'white space, parts and thoughts',
    [
      { role: 'user', content: ' Hi \n' },
      { role: 'assistant', content: '<think>\nHm.\n</think>\n\nHello' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'Again' },
          { type: 'text', text: 'please' },
        ],
      },
    ],
    undefined,
  ],
  [
    'tools',
    [
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: 'Rain in Köln?' },
    ],
    [WEATHER],
  ],
  [
    'a call of a tool',
    [
      { role: 'user', content: 'Rain in Köln?' },
      {
        role: 'assistant',
        content: null,
        tool_calls: [
          {
            id: 'call_1',
            type: 'function',
            function: { name: 'get_weather', arguments: '{"city": "Köln", "days": 2}' },
          },
        ],
      },
      { role: 'tool', tool_call_id: 'call_1', content: '12 °C' },
    ],
    [WEATHER],
  ],
]

export function probesOf(model: string): readonly Probe[] {
  const text = (name: string, suspect: Suspect, addSpecialTokens: boolean): Probe =>
    probeOf(name, suspect, { model, prompt: TEXT, add_special_tokens: addSpecialTokens }, () => ({
      ok: true,
      text: TEXT,
      addSpecialTokens,
    }))
  return [
    text('a text', 'tokenizer revision', false),
    text('a text with its special tokens', 'BOS and other special tokens', true),
    ...CHATS.map(([name, messages, tools]) => {
      const chat: Chat = {
        messages,
        tools,
        templateArguments: undefined,
        addGenerationPrompt: true,
        continueFinalMessage: false,
      }
      return probeOf(name, 'chat template', { model, messages, ...(tools && { tools }) }, () => ({
        ok: true,
        chat,
        addSpecialTokens: false,
      }))
    }),
  ]
}

function probeOf(
  name: string,
  suspect: Suspect,
  request: object,
  read: NonNullable<TextPrompt['reading']>['read'],
): Probe {
  const body = Buffer.from(JSON.stringify(request))
  const forEngine = () => ({ ok: true, body }) as const
  return {
    name,
    suspect,
    body,
    prompt: { kind: 'text', forEngine, reading: { parts: 1, longStrings: [], read } },
  }
}

/**
 * Compares one probe's answers.
 *
 * @param theirs undefined when the engine did not answer.
 */
export function compareProbe({ name, suspect }: Probe, ours: Tokens, theirs: ProbeAnswer | undefined): Verdict {
  if (theirs === undefined) return { kind: 'unknown', because: 'it does not answer /tokenize' }
  if (theirs.status === 404 || theirs.status >= 500) {
    return { kind: 'unknown', because: `it answers ${theirs.status} to /tokenize` }
  }
  const ids = theirs.status === 200 ? readTokenIds(theirs.body) : undefined
  // Both templates refuse it: that is the same, too.
  if (ids === undefined && !ours.ok) return { kind: 'same' }
  const because = differenceOf(ours, ids, theirs.status)
  return because === undefined ? { kind: 'same' } : { kind: 'differs', suspect, because: `${name}: ${because}` }
}

function differenceOf(ours: Tokens, theirs: Uint32Array | undefined, status: number): string | undefined {
  if (!ours.ok) return `here it has no tokens: ${ours.because}`
  if (theirs === undefined) return `the engine refuses it (${status})`
  const { ids } = ours
  if (ids.length === theirs.length && ids.every((id, at) => id === theirs[at])) return undefined
  let at = 0
  while (at < ids.length && ids[at] === theirs[at]) at++
  return `${ids.length} tokens here, ${theirs.length} there; token ${at} is ${ids[at] ?? 'missing'} here, ${theirs[at] ?? 'missing'} there`
}
