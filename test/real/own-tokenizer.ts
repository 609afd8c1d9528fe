// The router's own tokenizer of a model's folder, alone: an engine is never asked.

import type { EndpointId } from '../../cluster/endpoints/endpoint.ts'
import { scanBody } from '../../cluster/prompts/body.ts'
import { PROMPT_WORKER, promptOf } from '../../cluster/prompts/prompt.ts'
import { createRouterTokenizer } from '../../cluster/tokens/router-tokenizer.ts'
import type { Tokens } from '../../cluster/tokens/tokenizer.ts'
import type { Dialect } from '../../shared/dialect.ts'

export type OwnTokenizer = {
  readonly tokenize: (dialect: Dialect, request: object) => Promise<Tokens>
  readonly close: () => Promise<void>
}

const NOBODY = 'nobody:1' as EndpointId

export async function startOwnTokenizer(directory: string): Promise<OwnTokenizer> {
  const tokenizer = createRouterTokenizer({
    worker: PROMPT_WORKER,
    directoryOf: () => directory,
    baseOf: (model) => model,
    engine: async () => ({ ok: false, because: 'not known here' }),
    ask: async () => undefined,
    nowMs: () => performance.now(),
    random: () => 0,
    budgetMs: () => 60_000,
    onEvent(event) {
      if (event.type === 'tokenizer-unusable' || event.type === 'stand-ins-differ')
        throw new Error(JSON.stringify(event))
    },
  })
  // Until then it would ask an engine.
  await tokenizer.verify(NOBODY, 'm')
  return {
    async tokenize(dialect, request) {
      const body = Buffer.from(JSON.stringify({ model: 'm', ...request }))
      const scan = scanBody(body)
      if (!scan.ok) throw new Error(scan.message)
      return tokenizer.tokenize('m', promptOf(dialect, body, scan.members))
    },
    close: tokenizer.close,
  }
}

const RANGES: readonly (readonly [number, number])[] = [
  [0x20, 0x7e],
  [0x00, 0x7f],
  [0x80, 0x7ff],
  [0x800, 0xd7ff],
  [0x0300, 0x036f],
  [0x0400, 0x04ff],
  [0x2000, 0x206f],
  [0x4e00, 0x9fff],
  [0xac00, 0xd7a3],
  [0xe000, 0xfffd],
  [0x10000, 0x1ffff],
  [0x1f300, 0x1f64f],
]
const WORDS = [
  '<|im_start|>',
  '<|im_end|>',
  '<|eot_id|>',
  '<|begin_of_text|>',
  '<think>',
  '</think>',
  "it's",
  "WE'LL",
  '\n\n',
  '  ',
  '\r\n',
  '\u0085',
  '\ufeff',
  '12345',
  ' the',
  'é',
]

/** Texts of any characters and of what tokenizers cut at. `random` is uniform in [0, 1). */
export function randomTexts(count: number, random: () => number): string[] {
  const pick = <Item>(list: readonly Item[]): Item => list[Math.floor(random() * list.length)] as Item
  return Array.from({ length: count }, () => {
    let text = ''
    for (let length = Math.floor(random() * 50); length > 0; length--) {
      const [from, to] = pick(RANGES)
      text += random() < 0.1 ? pick(WORDS) : String.fromCodePoint(from + Math.floor(random() * (to - from)))
    }
    return text.toWellFormed()
  })
}
