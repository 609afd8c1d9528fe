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
const ejected = { availability: { state: 'ejected', cause: 'down' } } as const

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
  it('a response whose engine is gone cannot be continued: the client is told to send it all', () => {
    const facts = request({ bound: 'a:1' })
    const { rejection } = decide(profiles, facts, [view('a:1', {}, ejected), view('b:1')], () => 0)
    expect(rejection).toMatchObject({ reason: 'response-not-found', param: 'previous_response_id' })
  })
})
