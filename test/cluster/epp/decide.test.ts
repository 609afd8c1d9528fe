import { describe, expect, it } from 'vitest'
import { decide } from '../../../cluster/epp/decide.ts'
import { buildProfile } from '../../../cluster/scheduling/profile.ts'
import { request } from '../requests.ts'
import { view } from '../views.ts'

const profiles = {
  decode: buildProfile('decode', { filters: [], scorers: [{ name: 'load-scorer', weight: 1 }], picker: 'max-score' }),
}
const place = (model: string, endpoints: Parameters<typeof decide>[2]) =>
  decide(profiles, request({ model }), endpoints, () => 0)
const ejected = { availability: { state: 'ejected', cause: 'down', gone: false } } as const

describe('a request that cannot be placed is told why', () => {
  it('a model that no engine lists does not exist', () => {
    const dead = view('b:1', {}, { models: undefined, ...ejected })
    const { rejection } = place('gpt-9', [view('a:1'), dead])
    expect(rejection).toMatchObject({ reason: 'model-not-found', param: 'model' })
    expect(rejection?.message).toContain('Models served here: m')
  })
  it('a model whose engines are all down is a matter of time: clients retry', () => {
    const { rejection } = place('m', [view('a:1', {}, ejected), view('b:1', {}, { models: ['x'] })])
    expect(rejection).toMatchObject({ reason: 'no-endpoint', retryAfterSeconds: 2 })
  })
  it('an engine that is still starting may serve it: no client is told that the model does not exist', () => {
    const starting = view('b:1', {}, { models: undefined })
    expect(place('gpt-9', [view('a:1'), starting]).rejection?.reason).toBe('no-endpoint')
  })
  it('before any engine has answered nothing is known to be missing', () => {
    expect(place('m', [view('a:1', {}, { models: undefined })]).rejection?.reason).toBe('no-endpoint')
  })
  it('a placed request carries no refusal', () => {
    expect(place('m', [view('a:1')])).toMatchObject({ rejection: undefined, decode: { order: ['a:1'] } })
  })
  it.each<[string, ReturnType<typeof view>[], object]>([
    ['is not listed any more', [], { reason: 'response-not-found', param: 'previous_response_id' }],
    [
      'has ended: nothing listens there',
      [view('a:1', {}, { availability: { ...ejected.availability, gone: true } })],
      { reason: 'response-not-found', param: 'previous_response_id' },
    ],
    ['is ejected for a while', [view('a:1', {}, ejected)], { reason: 'no-endpoint', retryAfterSeconds: 2 }],
    [
      'has not told this router yet what it serves',
      [view('a:1', {}, { models: undefined })],
      { reason: 'no-endpoint', retryAfterSeconds: 2 },
    ],
    [
      'serves other models than the one that is asked for now',
      [view('a:1', {}, { models: ['other'] })],
      { reason: 'response-not-found', message: expect.stringContaining('does not serve `m`') },
    ],
  ])('a response cannot be continued when its engine %s; only what is lost is said to be', (_, own, expected) => {
    const facts = request({ bound: 'a:1' })
    expect(decide(profiles, facts, [...own, view('b:1')], () => 0).rejection).toMatchObject(expected)
  })
  it('a response is continued with a model that nobody serves: the model is what is wrong', () => {
    const facts = request({ bound: 'a:1', model: 'gpt-9' })
    expect(decide(profiles, facts, [view('a:1')], () => 0).rejection).toMatchObject({ reason: 'model-not-found' })
  })
})
