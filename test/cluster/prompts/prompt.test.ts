import { describe, expect, it } from 'vitest'
import { scanBody } from '../../../cluster/prompts/body.ts'
import { promptOf } from '../../../cluster/prompts/prompt.ts'
import type { Dialect } from '../../../shared/dialect.ts'

function prompt(dialect: Dialect, value: unknown) {
  const body = Buffer.from(typeof value === 'string' ? value : JSON.stringify(value))
  const scan = scanBody(body)
  if (!scan.ok) throw new Error(scan.message)
  const found = promptOf(dialect, body, scan.members)
  if (found.kind === 'text') {
    const made = found.forEngine()
    return made.ok ? (JSON.parse(made.body.toString()) as unknown) : made.because
  }
  return found.kind === 'ids' ? [...found.ids] : found.because
}

const SEVERAL = 'the request holds several prompts, or none that can be read'
const messages = [{ role: 'user', content: 'hi' }]

describe('what of a request makes its prompt', () => {
  it.each<[string, Dialect, unknown, unknown]>([
    [
      'a chat: what the template reads, and nothing of how it is answered',
      'chat',
      { model: 'm', messages, tools: [{ type: 'function' }], stream: true, temperature: 0, max_tokens: 5, user: 'u' },
      { model: 'm', messages, tools: [{ type: 'function' }] },
    ],
    [
      'a chat with reasoning effort: vLLM hands it to the template, with thinking switched on',
      'chat',
      { model: 'm', messages, reasoning_effort: 'low' },
      { model: 'm', messages, chat_template_kwargs: { reasoning_effort: 'low', enable_thinking: true } },
    ],
    [
      'a chat whose own template arguments stand above that',
      'chat',
      { model: 'm', messages, reasoning_effort: 'none', chat_template_kwargs: { enable_thinking: true, a: 1 } },
      { model: 'm', messages, chat_template_kwargs: { reasoning_effort: 'none', enable_thinking: true, a: 1 } },
    ],
    [
      'a chat with no effort at all',
      'chat',
      { model: 'm', messages, reasoning_effort: null },
      { model: 'm', messages },
    ],
    ['a completion of text', 'completions', { model: 'm', prompt: 'x', n: 2 }, { model: 'm', prompt: 'x' }],
    ['a completion of one text in a list', 'completions', { model: 'm', prompt: ['x'] }, { model: 'm', prompt: 'x' }],
    ['a completion of token ids', 'completions', { model: 'm', prompt: [1, 2, 3] }, [1, 2, 3]],
    ['a completion of one list of token ids', 'completions', { model: 'm', prompt: [[1, 2]] }, [1, 2]],
    [
      'a text in a list, with quotes in it',
      'completions',
      '{"model":"m","prompt": [ "a\\"]" ]}',
      { model: 'm', prompt: 'a"]' },
    ],
    ['spaced ids', 'completions', '{"model":"m","prompt": [ [ 1 ,\n2 ] ]}', [1, 2]],
    ['several lists of ids', 'completions', { model: 'm', prompt: [[1], [2]] }, SEVERAL],
    ['an empty list', 'completions', { model: 'm', prompt: [] }, SEVERAL],
    ['several prompts', 'completions', { model: 'm', prompt: ['x', 'y'] }, SEVERAL],
    ['ids that are none', 'completions', { model: 'm', prompt: [1, -2] }, SEVERAL],
    ['no prompt', 'completions', { model: 'm' }, 'the request has no prompt'],
    ['a prompt of neither kind', 'completions', { model: 'm', prompt: 3 }, 'the prompt is neither text nor token ids'],
    ['a list that is no JSON', 'completions', '{"model":"m","prompt":[1,,2]}', SEVERAL],
    [
      'a chat with effort and template arguments that say otherwise: vLLM believes the member',
      'chat',
      { model: 'm', messages, reasoning_effort: 'low', chat_template_kwargs: { reasoning_effort: 'high' } },
      { model: 'm', messages, chat_template_kwargs: { reasoning_effort: 'low', enable_thinking: true } },
    ],
    [
      'a chat with documents that cannot be told exactly',
      'chat',
      '{"model":"m","messages":[],"documents":[{"n":1.0}]}',
      'a number in the prompt can be written in several ways',
    ],
    [
      'a response: vLLM adds special tokens to what the template has, so that Llama 3 computes two BOS',
      'responses',
      { model: 'm', input: 'hi' },
      { model: 'm', messages, add_special_tokens: true },
    ],
    [
      'a chat that an engine truncates',
      'completions',
      { model: 'm', prompt: 'x', truncate_prompt_tokens: 5 },
      'the request has `truncate_prompt_tokens`',
    ],
    ['messages', 'messages', { model: 'm', messages, max_tokens: 1 }, { model: 'm', messages }],
    ['a count of tokens', 'count-tokens', { model: 'm', messages }, 'counting tokens computes none of them'],
    ['embeddings', 'embeddings', { model: 'm', input: 'x' }, 'prompts of embeddings are not looked up'],
  ])('%s', (_, dialect, value, expected) => {
    expect(prompt(dialect, value)).toEqual(expected)
  })

  it('is not looked for in millions of items: nobody else is served meanwhile', () => {
    for (const item of ['[]', '""', '1', '{}']) {
      const body = Buffer.from(`{"model":"m","prompt":[${Array(4_000_000).fill(item).join()}]}`)
      const members = [{ name: 'prompt', valueStart: body.indexOf('['), valueEnd: body.length - 1 }] as never
      const startedAtMs = performance.now()
      expect(promptOf('completions', body, members)).toEqual({ kind: 'unknown', because: SEVERAL })
      expect(performance.now() - startedAtMs).toBeLessThan(100)
    }
  })
})
