// A byte-level BPE small enough to be made in a test: merges learned from a few sentences, special tokens, a template.
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export const QWEN_PATTERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
export const LLAMA_PATTERN = QWEN_PATTERN.replace('|\\p{N}|', '|\\p{N}{1,3}|')

const SENTENCES =
  'the cache holds the tokens of the prompt that were there before, and the pods that have them are warm. ' +
  "it's theirs; they'll say what we've computed: 1234 blocks of 16 tokens, 100 pods. " +
  'Der Speicher hält, was schon berechnet wurde: größer, schöner, öfter. Привет мир привет. 你好 世界 你好. ' +
  '  if (x == y) {\n    return x + 1;\n  }\n\n\nfunction again(count) { return again(count - 1) }\n'

export type ModelSettings = {
  readonly pattern?: string
  readonly ignoreMerges?: boolean
  readonly addedTokens?: readonly object[]
  readonly normalizer?: object | null
  readonly postProcessor?: object | null
  readonly preTokenizer?: object
  readonly model?: object
}

/** The letter of each byte in a byte-level vocabulary. */
function letters(): string[] {
  let next = 0x100
  return Array.from({ length: 256 }, (_, byte) =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad)
      ? String.fromCharCode(byte)
      : String.fromCharCode(next++),
  )
}

/** The commonest pair again and again, as byte-pair merges are learned. */
function learn(count: number): { readonly vocab: Record<string, number>; readonly merges: string[] } {
  const alphabet = letters()
  const vocab: Record<string, number> = {}
  for (const letter of alphabet) vocab[letter] = Object.keys(vocab).length
  let words = (SENTENCES.match(/ ?\p{L}+| ?\p{N}+|\s+| ?[^\s\p{L}\p{N}]+/gu) ?? []).map((word) =>
    [...Buffer.from(word)].map((byte) => alphabet[byte] as string),
  )
  const merges: string[] = []
  while (merges.length < count) {
    const times = new Map<string, number>()
    for (const word of words) {
      for (let at = 0; at + 1 < word.length; at++) {
        const pair = `${word[at]} ${word[at + 1]}`
        times.set(pair, (times.get(pair) ?? 0) + 1)
      }
    }
    const [best] = [...times].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1))
    if (best === undefined) break
    const [left = '', right = ''] = best[0].split(' ')
    merges.push(best[0])
    vocab[left + right] ??= Object.keys(vocab).length
    words = words.map((word) => merged(word, left, right))
  }
  return { vocab, merges }
}

function merged(word: readonly string[], left: string, right: string): string[] {
  const out: string[] = []
  for (let at = 0; at < word.length; at++) {
    if (word[at] === left && word[at + 1] === right) {
      out.push(left + right)
      at++
    } else out.push(word[at] as string)
  }
  return out
}

const LEARNED = learn(260)
export const FIRST_ADDED_ID = 1_000
export const SPECIALS = ['<|bos|>', '<|start|>', '<|end|>', '<|eot|>'] as const

export function specialToken(content: string, index: number, more: object = {}): object {
  return {
    id: FIRST_ADDED_ID + index,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
    ...more,
  }
}

export function tokenizerJson(settings: ModelSettings = {}): Record<string, unknown> {
  const { pattern = QWEN_PATTERN, ignoreMerges = false } = settings
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: settings.addedTokens ?? SPECIALS.map((content, index) => specialToken(content, index)),
    normalizer: settings.normalizer === undefined ? { type: 'NFC' } : settings.normalizer,
    pre_tokenizer: settings.preTokenizer ?? {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false },
      ],
    },
    post_processor:
      settings.postProcessor === undefined
        ? {
            type: 'TemplateProcessing',
            single: [{ SpecialToken: { id: '<|bos|>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
            pair: [],
            special_tokens: { '<|bos|>': { id: '<|bos|>', ids: [FIRST_ADDED_ID], tokens: ['<|bos|>'] } },
          }
        : settings.postProcessor,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: ignoreMerges,
      vocab: LEARNED.vocab,
      merges: LEARNED.merges,
      ...settings.model,
    },
  }
}

/** Roles between special tokens, tools as JSON, thoughts cut out of old turns: what templates of today's models do. */
export const TEMPLATE = `{%- if tools %}{{- '<|start|>system\\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{%- for tool in tools %}{{- tool | tojson + '\\n' }}{%- endfor %}{{- '<|end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|start|>system\\n' + messages[0].content + '<|end|>\\n' }}{%- endif %}
{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' and '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
{%- if message.role == 'tool' %}{{- '<|start|>user\\n<result>' + content + '</result><|end|>\\n' }}
{%- elif message.role != 'system' or not loop.first %}{{- '<|start|>' + message.role + '\\n' + content | trim }}
{%- for call in message.tool_calls or [] %}{{- '<call>' + (call.function | tojson) + '</call>' }}{%- endfor %}{{- '<|end|>\\n' }}{%- endif %}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant\\n' }}{%- endif %}`

/** Writes the model's files below a folder; gives that folder. */
export function writeModel(folder: string, settings: ModelSettings = {}, template = TEMPLATE): string {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tokenizerJson(settings)))
  const config = { chat_template: template, bos_token: '<|bos|>', eos_token: { content: '<|eot|>' } }
  writeFileSync(join(folder, 'tokenizer_config.json'), JSON.stringify(config))
  return folder
}
