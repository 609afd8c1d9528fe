// What the benchmark's engine says, and so what its load generator must get back, to the byte.

export const MODEL = 'bench'

const ID = 'chatcmpl-8f14e45fceea167a5a36dedd4bea2543'
const PROSE =
  'Prefix caching keeps the keys and values of tokens that were computed before, so that a request which begins with the same text does not compute them again. '

export const ANSWER_TEXT = PROSE.repeat(4)

/** A whole answer of about 1.1 KB. */
export const JSON_ANSWER = JSON.stringify({
  id: ID,
  object: 'chat.completion',
  created: 1_795_376_839,
  model: MODEL,
  choices: [
    {
      index: 0,
      message: { role: 'assistant', content: ANSWER_TEXT, refusal: null, annotations: null, tool_calls: [] },
      logprobs: null,
      finish_reason: 'stop',
      stop_reason: null,
      token_ids: null,
    },
  ],
  service_tier: null,
  system_fingerprint: 'vllm-0.32.0-1f2e3d4c',
  usage: {
    prompt_tokens: 512,
    total_tokens: 640,
    completion_tokens: 128,
    prompt_tokens_details: { cached_tokens: 496 },
  },
  prompt_logprobs: null,
})

const STAMP_MARK = '@'
export const STAMP_MARK_BYTE = 0x40
export const STAMP_DIGITS = 16

/** One token's event, about 230 B; the stamp in it says when it was sent. */
const [BEFORE_STAMP, AFTER_STAMP] = event({
  id: ID,
  object: 'chat.completion.chunk',
  created: 1_795_376_839,
  model: MODEL,
  choices: [{ index: 0, delta: { content: STAMP_MARK }, logprobs: null, finish_reason: null, token_ids: null }],
}).split(STAMP_MARK) as [string, string]

export const USAGE_EVENT = event({
  id: ID,
  object: 'chat.completion.chunk',
  created: 1_795_376_839,
  model: MODEL,
  choices: [],
  usage: { prompt_tokens: 512, total_tokens: 712, completion_tokens: 200 },
})

export const DONE_EVENT = 'data: [DONE]\n\n'

export function tokenEvent(stampUs: bigint): string {
  return BEFORE_STAMP + STAMP_MARK + String(stampUs).padStart(STAMP_DIGITS, '0') + AFTER_STAMP
}

/** Microseconds on the clock that all processes of this machine share. */
export function nowUs(): bigint {
  return process.hrtime.bigint() / 1_000n
}

/** Bytes and events of a streamed answer with that many tokens. */
export function streamSize(tokens: number): { readonly bytes: number; readonly events: number } {
  return { bytes: tokens * tokenEvent(0n).length + USAGE_EVENT.length + DONE_EVENT.length, events: tokens + 2 }
}

function event(payload: object): string {
  return `data: ${JSON.stringify(payload)}\n\n`
}
