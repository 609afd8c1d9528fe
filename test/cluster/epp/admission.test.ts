import { describe, expect, it } from 'vitest'
import { type Admitted, createAdmission } from '../../../cluster/epp/admission.ts'

const nobodyLeaves = () => undefined

function admitted(answer: unknown): Admitted {
  expect(answer).toMatchObject({ ok: true })
  return answer as Admitted
}

describe('a full router', () => {
  it('lets requests wait in order, and refuses beyond the line with a computed Retry-After', async () => {
    let now = 0
    const admission = createAdmission({ inFlight: 2, waiting: 2, waitMs: 60_000 }, () => now)
    const first = admitted(admission.enter(nobodyLeaves))
    const second = admitted(admission.enter(nobodyLeaves))
    now = 10_000
    first.leave()
    admitted(admission.enter(nobodyLeaves))
    const order: string[] = []
    const third = Promise.resolve(admission.enter(nobodyLeaves)).then((answer) => {
      order.push('third')
      return admitted(answer)
    })
    const fourth = Promise.resolve(admission.enter(nobodyLeaves)).then(() => order.push('fourth'))
    expect(admission.counts()).toEqual({ inFlight: 2, waiting: 2 })
    // Ten seconds a request, two at a time, three in front: fifteen seconds.
    expect(await admission.enter(nobodyLeaves)).toMatchObject({
      ok: false,
      rejection: { reason: 'overloaded', retryAfterSeconds: 15 },
    })
    second.leave()
    ;(await third).leave()
    await fourth
    expect(order).toEqual(['third', 'fourth'])
    expect(admission.counts()).toEqual({ inFlight: 2, waiting: 0 })
  })

  it('gives up on a request that waits too long', async () => {
    const admission = createAdmission({ inFlight: 1, waiting: 1, waitMs: 1 }, () => 0)
    admitted(admission.enter(nobodyLeaves))
    expect(await admission.enter(nobodyLeaves)).toMatchObject({ ok: false, rejection: { reason: 'overloaded' } })
    expect(admission.counts()).toEqual({ inFlight: 1, waiting: 0 })
  })

  it('a caller that leaves while it waits leaves the line', async () => {
    const admission = createAdmission({ inFlight: 1, waiting: 1, waitMs: 60_000 }, () => 0)
    const first = admitted(admission.enter(nobodyLeaves))
    let leave = nobodyLeaves as () => void
    const waiting = admission.enter((left) => {
      leave = left
    })
    leave()
    expect(await waiting).toMatchObject({ ok: false })
    first.leave()
    expect(admission.counts()).toEqual({ inFlight: 0, waiting: 0 })
  })

  it('leaving twice frees one place', () => {
    const admission = createAdmission({ inFlight: 2, waiting: 0, waitMs: 1 }, () => 0)
    const first = admitted(admission.enter(nobodyLeaves))
    admitted(admission.enter(nobodyLeaves))
    first.leave()
    first.leave()
    expect(admission.counts().inFlight).toBe(1)
  })
})
