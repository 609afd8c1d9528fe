import { expect, it } from 'vitest'
import { readUsage } from '../../shared/usage.ts'

it.each([
  [
    'of a chat',
    { prompt_tokens: 9, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 8 } },
    { promptTokens: 9, completionTokens: 2, cachedTokens: 8 },
  ],
  [
    'of a response',
    { input_tokens: 10, output_tokens: 6, input_tokens_details: { cached_tokens: 4, input_tokens_per_turn: [] } },
    { promptTokens: 10, completionTokens: 6, cachedTokens: 4 },
  ],
  ['without details', { input_tokens: 10 }, { promptTokens: 10, completionTokens: 0, cachedTokens: undefined }],
  [
    'with details that are null',
    { prompt_tokens: 1, prompt_tokens_details: null },
    { promptTokens: 1, completionTokens: 0, cachedTokens: undefined },
  ],
  [
    'with counts that are none: they go into sums',
    { prompt_tokens: 5, completion_tokens: 1.5, prompt_tokens_details: { cached_tokens: -1 } },
    { promptTokens: 5, completionTokens: 0, cachedTokens: undefined },
  ],
  ['of endless prompts', { prompt_tokens: Number.POSITIVE_INFINITY }, undefined],
  ['that counts nothing', { total_tokens: 3 }, undefined],
  ['that is null, as before the end of a response', null, undefined],
  ['that is text', 'many', undefined],
])('usage %s', (_, usage, expected) => expect(readUsage(usage)).toEqual(expected))
