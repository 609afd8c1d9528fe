import { expect, it } from 'vitest'
import { mergeUsage, readUsage } from '../../shared/usage.ts'

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
  [
    'of a message, whose input counts no token that a cache had a part in',
    { input_tokens: 3, output_tokens: 6, cache_read_input_tokens: 32, cache_creation_input_tokens: 5 },
    { promptTokens: 40, completionTokens: 6, cachedTokens: 32 },
  ],
  [
    'of a message where nothing is said of caches',
    { input_tokens: 9, output_tokens: 0, cache_read_input_tokens: null },
    { promptTokens: 9, completionTokens: 0, cachedTokens: undefined },
  ],
  [
    'of embeddings',
    { prompt_tokens: 2, total_tokens: 2, completion_tokens: 0, prompt_tokens_details: null },
    { promptTokens: 2, completionTokens: 0, cachedTokens: undefined },
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

it.each([
  [
    'the end repeats the input',
    [
      { input_tokens: 40, output_tokens: 0 },
      { input_tokens: 8, output_tokens: 4, cache_read_input_tokens: 32 },
    ],
    { promptTokens: 40, completionTokens: 4, cachedTokens: 32 },
  ],
  [
    'the end counts the output alone',
    [
      { input_tokens: 8, cache_read_input_tokens: 32, output_tokens: 1 },
      { output_tokens: 4, input_tokens: null },
    ],
    { promptTokens: 40, completionTokens: 4, cachedTokens: 32 },
  ],
  ['the end never came', [{ input_tokens: 8 }], { promptTokens: 8, completionTokens: 0, cachedTokens: undefined }],
  ['nothing is said', [null, 'many'], undefined],
])('usage of a streamed message where %s', (_, told, expected) => {
  expect(readUsage(told.reduce<ReturnType<typeof mergeUsage>>(mergeUsage, undefined))).toEqual(expected)
})
