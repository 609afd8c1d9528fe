// Embeddings: /v1/embeddings. They do not stream, and are kept as they were written: every digit counts.
import { type AnswerForm, FOLDED_CHARS_MAX } from './answer-form.ts'
import { withoutFresh } from './choices.ts'
import { ifKnown, isObject, isSaid, listOf, parseObject, unknown, withMembers } from './json.ts'

export const embeddingForm: AnswerForm = {
  createFold: undefined,
  read: (json) =>
    ifKnown(() => {
      if (json.length > FOLDED_CHARS_MAX) unknown('too long')
      const { object, data, usage } = parseObject(json)
      const all = listOf(data, 'data')
      const whole = all.length > 0 && all.every((one) => isObject(one) && one.object === 'embedding')
      if (object !== 'list' || !whole || !isSaid(usage)) unknown('another object')
      return { json: withoutFresh(json, ['id', 'created']), callsTools: false }
    }),
  toJson: (kept, { id, createdSeconds }) => withMembers({ id: `embd-${id}`, created: createdSeconds }, kept),
  toEvents: () => {
    throw new Error('embeddings do not stream')
  },
}
