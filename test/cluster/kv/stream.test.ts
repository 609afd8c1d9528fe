import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import {
  HELD_BATCHES_MAX,
  HELD_BYTES_MAX,
  KvStream,
  REPLAY_BATCHES_MAX,
  REPLAY_ROUNDS_MAX,
  type StreamOutput,
} from '../../../cluster/kv/stream.ts'

/** A batch of one publisher's life: what `same publisher` is told by. */
const payload = (life: number, seq: number) => Buffer.from(`${life}:${seq}`)
const batches = (life: number, from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => ({ seq: from + index, payload: payload(life, from + index) }))

/** Outputs in short: `apply 3`, `clear`, `replay 0`, … */
function outputs(stream: KvStream): string[] {
  const seen: string[] = []
  for (let output = stream.next(); output; output = stream.next()) seen.push(short(output))
  return seen
}
function short(output: StreamOutput): string {
  if (output.type === 'apply') return `apply ${output.seq}`
  if (output.type === 'replay') return `replay ${output.from}`
  if (output.type === 'retry-later') return `retry after ${output.afterMs} ms`
  return output.type
}
const applied = (from: number, to: number) => batches(0, from, to).map(({ seq }) => `apply ${seq}`)

function rig(replayable = true) {
  const stream = new KvStream(replayable)
  let replay = 0
  return {
    stream,
    state: () => stream.state,
    connected: () => {
      stream.push({ type: 'connected' })
      return outputs(stream)
    },
    disconnected: () => {
      stream.push({ type: 'disconnected' })
      return outputs(stream)
    },
    live(life: number, from: number, to = from) {
      for (const batch of batches(life, from, to)) stream.push({ type: 'live', ...batch })
      return outputs(stream)
    },
    replayed(life: number, from: number, to = from) {
      for (const batch of batches(life, from, to)) stream.push({ type: 'replayed', replay: replay || 1, ...batch })
      return outputs(stream)
    },
    /** From here on the answers are those to the n-th question. */
    answering(nth: number) {
      replay = nth
    },
    ended() {
      stream.push({ type: 'replay-ended', replay: replay || 1 })
      return outputs(stream)
    },
    failed() {
      stream.push({ type: 'replay-failed', replay: replay || 1 })
      return outputs(stream)
    },
    retry() {
      stream.push({ type: 'retry' })
      return outputs(stream)
    },
  }
}

const LIVE_AND_COMPLETE = { state: 'live', complete: true }
const LIVE_WITH_A_HOLE = { state: 'live', complete: false }

describe('a router that comes late', () => {
  it('replays from the start, then goes on live without a batch twice', () => {
    const { connected, replayed, live, ended, state } = rig()
    expect(state()).toEqual({ state: 'connecting', complete: false })
    expect(connected()).toEqual(['replay 0'])
    expect(live(0, 4, 6)).toEqual([])
    expect(replayed(0, 0, 5)).toEqual(applied(0, 5))
    expect(state()).toEqual({ state: 'replaying', complete: false })
    expect(ended()).toEqual(['apply 6'])
    expect(state()).toEqual(LIVE_AND_COMPLETE)
    expect(live(0, 7)).toEqual(['apply 7'])
  })
  it('knows everything of an engine that has published nothing', () => {
    const { connected, ended, live, state } = rig()
    connected()
    expect(ended()).toEqual([])
    expect(state()).toEqual(LIVE_AND_COMPLETE)
    expect(live(0, 0)).toEqual(['apply 0'])
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
  it('says that something is missing when the engine has dropped its oldest batches', () => {
    const { connected, replayed, ended, state } = rig()
    connected()
    expect(replayed(0, 7, 9)).toEqual(applied(7, 9))
    ended()
    expect(state()).toEqual(LIVE_WITH_A_HOLE)
  })
  it('drops a live batch that the replay has brought already, and takes it for no restart', () => {
    const { connected, replayed, ended, live, state } = rig()
    connected()
    replayed(0, 0, 5)
    ended()
    expect(live(0, 4, 6)).toEqual(['apply 6'])
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
})

describe('a lost message', () => {
  it('is replayed, together with the batch before it, which proves who sent it', () => {
    const { connected, ended, live, replayed, answering, state } = rig()
    connected()
    ended()
    live(0, 0, 3)
    answering(2)
    expect(live(0, 6)).toEqual(['replay 3'])
    expect(state()).toEqual({ state: 'replaying', complete: false })
    expect(replayed(0, 3, 6)).toEqual(applied(4, 6))
    expect(ended()).toEqual([])
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
  it('that the engine no longer has leaves a hole, and the next lost one is asked for again', () => {
    const { connected, ended, live, replayed, answering, state } = rig()
    connected()
    ended()
    live(0, 0, 3)
    live(0, 9)
    answering(2)
    expect(replayed(0, 8, 9)).toEqual(applied(8, 9))
    ended()
    expect(state()).toEqual(LIVE_WITH_A_HOLE)
    expect(live(0, 10)).toEqual(['apply 10'])
    expect(live(0, 12)).toEqual(['replay 10'])
  })
  it('in the middle of a replay is asked for again, from where the replay stopped', () => {
    const { connected, replayed, answering, ended, state } = rig()
    connected()
    replayed(0, 0, 2)
    expect(replayed(0, 5)).toEqual(['replay 2'])
    answering(2)
    expect(replayed(0, 2, 5)).toEqual(applied(3, 5))
    ended()
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
  it('leaves what a closed replay still had in its socket unread', () => {
    const { connected, replayed, stream } = rig()
    connected()
    replayed(0, 0, 2)
    expect(replayed(0, 5)).toEqual(['replay 2'])
    expect(replayed(0, 6, 9)).toEqual([])
    expect(stream.state.state).toBe('replaying')
  })
})

describe('a restarted engine', () => {
  it('is noticed when its numbers go back: everything is forgotten and replayed', () => {
    const { connected, ended, live, replayed, answering, state } = rig()
    connected()
    ended()
    live(0, 0, 5)
    expect(live(1, 1)).toEqual(['clear', 'replay 0'])
    answering(2)
    expect(replayed(1, 0, 1)).toEqual(applied(0, 1))
    expect(ended()).toEqual([])
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
  it('is noticed after a reconnect although it has published more than the old one', () => {
    const { connected, disconnected, ended, live, replayed, answering, state } = rig()
    connected()
    ended()
    live(0, 0, 2)
    disconnected()
    expect(state()).toEqual({ state: 'lost', complete: false })
    expect(connected()).toEqual(['replay 2'])
    answering(2)
    expect(replayed(1, 2)).toEqual(['clear', 'replay 0'])
    answering(3)
    replayed(1, 0, 7)
    ended()
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
  it('is noticed after a reconnect when it has published less, or nothing', () => {
    const { connected, disconnected, ended, live, answering, state } = rig()
    connected()
    ended()
    live(0, 0, 2)
    disconnected()
    connected()
    answering(2)
    expect(ended()).toEqual(['clear', 'replay 0'])
    answering(3)
    ended()
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
  it('is not assumed to be the old one when the replay that would tell fails: what may be another’s is forgotten', () => {
    const { connected, disconnected, replayed, ended, live, answering, failed, state } = rig()
    connected()
    replayed(0, 0, 3)
    ended()
    disconnected()
    connected()
    answering(2)
    expect(failed()).toEqual(['clear', 'retry after 30000 ms'])
    expect(live(1, 4)).toEqual(['apply 4'])
    expect(state()).toEqual({ state: 'live', complete: false })
  })

  it('is noticed when no replay tells of it: its first live batch is not taken for a replayed one', () => {
    const { connected, disconnected, ended, failed, live, replayed, answering } = rig()
    connected()
    replayed(0, 0, 9)
    ended()
    disconnected()
    connected()
    answering(2)
    failed()
    expect(live(1, 3)).toEqual(['clear', 'replay 0'])
  })
  it('is not assumed when the connection was only cut: what was known stays', () => {
    const { connected, disconnected, ended, live, replayed, answering, state } = rig()
    connected()
    ended()
    live(0, 0, 2)
    disconnected()
    connected()
    answering(2)
    expect(replayed(0, 2, 4)).toEqual(applied(3, 4))
    ended()
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
})

describe('an engine without replay', () => {
  it('is followed at once, and is complete only when its first number is 0', () => {
    const whole = rig(false)
    expect(whole.connected()).toEqual([])
    expect(whole.state()).toEqual(LIVE_WITH_A_HOLE)
    expect(whole.live(0, 0)).toEqual(['apply 0'])
    expect(whole.state()).toEqual(LIVE_AND_COMPLETE)

    const late = rig(false)
    late.connected()
    expect(late.live(0, 3, 4)).toEqual(applied(3, 4))
    expect(late.state()).toEqual(LIVE_WITH_A_HOLE)
  })
  it('is not complete after a reconnect, and is again once it restarts', () => {
    const { connected, disconnected, live, state } = rig(false)
    connected()
    live(0, 0, 2)
    disconnected()
    connected()
    expect(live(0, 3)).toEqual(['apply 3'])
    expect(state()).toEqual(LIVE_WITH_A_HOLE)
    expect(live(1, 0)).toEqual(['clear', 'apply 0'])
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
  it('loses nothing that came before the connection was reported', () => {
    const { connected, live, state } = rig(false)
    expect(live(0, 0, 1)).toEqual(applied(0, 1))
    connected()
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
})

describe('a replay that goes wrong', () => {
  it('by never answering: goes on live, incomplete, and asks again later', () => {
    const { connected, failed, live, retry, replayed, answering, ended, state } = rig()
    connected()
    live(0, 4, 5)
    expect(failed()).toEqual(['retry after 30000 ms', ...applied(4, 5)])
    expect(state()).toEqual(LIVE_WITH_A_HOLE)
    answering(2)
    expect(retry()).toEqual(['replay 0'])
    expect(live(0, 6)).toEqual([])
    expect(replayed(0, 0, 6)).toEqual([])
    expect(ended()).toEqual(['clear', ...applied(0, 6)])
    expect(state()).toEqual(LIVE_AND_COMPLETE)
  })
  it('again and again: waits twice as long each time, and keeps what it knows', () => {
    const { connected, failed, live, retry, answering } = rig()
    connected()
    live(0, 4)
    failed()
    const seen: string[] = []
    for (let nth = 2; nth < 9; nth++) {
      answering(nth)
      seen.push(...retry(), ...failed())
    }
    expect(seen.filter((output) => output.startsWith('retry'))).toEqual(
      [60, 120, 240, 480, 600, 600, 600].map((seconds) => `retry after ${seconds}000 ms`),
    )
    expect(seen).not.toContain('clear')
  })
  it('halfway when it is asked for again: keeps what it knows', () => {
    const { connected, failed, live, retry, replayed, answering } = rig()
    connected()
    live(0, 4, 5)
    failed()
    answering(2)
    retry()
    replayed(0, 0, 2)
    expect(failed()).toEqual(['retry after 60000 ms'])
    expect(live(0, 6)).toEqual(['apply 6'])
    answering(3)
    retry()
    replayed(0, 0, 2)
    expect(replayed(0, 4)).toEqual(['abandon-replay', 'retry after 120000 ms'])
    expect(live(0, 7)).toEqual(['apply 7'])
  })
  it('keeps what it knows when the engine no longer has the beginning', () => {
    const { connected, failed, live, retry, replayed, answering, state } = rig()
    connected()
    live(0, 4, 5)
    failed()
    answering(2)
    retry()
    expect(replayed(0, 2)).toEqual(['abandon-replay'])
    expect(live(0, 6)).toEqual(['apply 6'])
    expect(state()).toEqual(LIVE_WITH_A_HOLE)
    expect(retry()).toEqual([])
  })
  it('by losing its end: is asked to go on from there', () => {
    const { connected, replayed, failed } = rig()
    connected()
    replayed(0, 0, 9)
    expect(failed()).toEqual(['replay 9'])
  })
  it('by never ending: is cut off by count, and given up after some rounds', () => {
    const stream = new KvStream(true)
    stream.push({ type: 'connected' })
    let asked = 0
    let abandoned = 0
    let seq = 0
    for (let replay = 1; replay <= REPLAY_ROUNDS_MAX; replay++) {
      for (let batch = 0; batch <= REPLAY_BATCHES_MAX; batch++) {
        stream.push({ type: 'replayed', replay, seq: seq++, payload: Buffer.alloc(0) })
        for (let output = stream.next(); output; output = stream.next()) {
          if (output.type === 'replay') asked++
          if (output.type === 'abandon-replay') abandoned++
        }
      }
      seq--
    }
    expect(asked).toBe(REPLAY_ROUNDS_MAX)
    expect(abandoned).toBe(REPLAY_ROUNDS_MAX)
    expect(stream.state).toEqual(LIVE_WITH_A_HOLE)
  })
})

describe('what is held back while a replay runs', () => {
  it.each([
    ['by count', HELD_BATCHES_MAX + 1, 1],
    ['by bytes', 5, HELD_BYTES_MAX / 4],
  ])('is bounded %s; what was dropped is asked for once more', (_, count, bytes) => {
    const stream = new KvStream(true)
    stream.push({ type: 'connected' })
    const body = Buffer.alloc(bytes)
    for (let seq = 0; seq < count; seq++) stream.push({ type: 'live', seq, payload: body })
    stream.push({ type: 'replayed', replay: 1, seq: 0, payload: body })
    stream.push({ type: 'replay-ended', replay: 1 })
    expect(outputs(stream)).toEqual(['replay 0', 'apply 0', 'replay 0'])
    expect(stream.state.complete).toBe(false)
    for (let seq = 0; seq < count; seq++) stream.push({ type: 'replayed', replay: 2, seq, payload: body })
    stream.push({ type: 'replay-ended', replay: 2 })
    expect(outputs(stream)).toHaveLength(count - 1)
    expect(stream.state).toEqual(LIVE_AND_COMPLETE)
  })
})

describe('a batch that cannot be read', () => {
  it('is missing until the engine begins anew', () => {
    const { stream, connected, ended, live, state } = rig(true)
    connected()
    ended()
    live(0, 0)
    stream.push({ type: 'unreadable' })
    expect(state()).toEqual(LIVE_WITH_A_HOLE)
  })
})

/**
 * A publisher with everything that can happen to its messages. The stream's outputs are carried out, and what it claims is
 * compared with what was really published.
 */
function simulate(replayable: boolean, ringSize: number) {
  const stream = new KvStream(replayable)
  let life = 0
  let published = 0
  let isConnected = false
  let wire: number[] = []
  /** Answers under way; -1 is the end. */
  let answers: { readonly replay: number; readonly left: number[]; begun: boolean } | undefined
  let open: number | undefined
  let newestDelivered = -1
  let known: { readonly life: number; readonly seq: number }[] = []
  let retryAsked = false

  const perform = (output: StreamOutput) => {
    if (output.type === 'clear') known = []
    else if (output.type === 'apply') {
      const [its, seq] = Buffer.from(output.payload).toString().split(':').map(Number) as [number, number]
      expect(seq).toBe(output.seq)
      expect(seq).toBeGreaterThan(known.at(-1)?.seq ?? -1)
      known.push({ life: its, seq })
    } else if (output.type === 'replay') {
      const oldest = Math.max(output.from, published - ringSize)
      const left = batches(life, oldest, published - 1).map(({ seq }) => seq)
      answers = isConnected ? { replay: output.replay, left: [...left, -1], begun: false } : undefined
      open = output.replay
    } else if (output.type === 'abandon-replay') {
      answers = undefined
      open = undefined
    } else retryAsked = true
  }
  const check = () => {
    if (!stream.state.complete) return
    expect(isConnected).toBe(true)
    expect(known).toEqual(known.map((_, seq) => ({ life, seq })))
    expect(known.length).toBeGreaterThan(newestDelivered)
  }
  const pump = (steps: number) => {
    for (let left = steps; left > 0; left--) {
      const output = stream.next()
      if (output === undefined) return check()
      perform(output)
    }
  }
  const cut = () => {
    if (!isConnected) return
    isConnected = false
    answers = undefined
    stream.push({ type: 'disconnected' })
  }
  const actions = {
    publish() {
      if (isConnected) wire.push(published)
      published++
    },
    connect() {
      if (isConnected) return
      isConnected = true
      wire = []
      newestDelivered = -1
      stream.push({ type: 'connected' })
    },
    deliver() {
      const seq = wire.shift()
      if (seq === undefined) return
      if (isConnected) newestDelivered = seq
      stream.push({ type: 'live', seq, payload: payload(isConnected ? life : life - 1, seq) })
    },
    loseLive: () => void wire.shift(),
    loseAnswer() {
      // The first one finds the queue empty: it is not lost, however slow the reader is.
      if (answers?.begun) answers.left.shift()
    },
    answer() {
      const seq = answers?.left.shift()
      if (answers === undefined || seq === undefined) return
      const { replay } = answers
      answers.begun = true
      if (seq === -1) {
        answers = undefined
        open = undefined
        stream.push({ type: 'replay-ended', replay })
      } else stream.push({ type: 'replayed', replay, seq, payload: payload(life, seq) })
    },
    timeOut() {
      if (open === undefined) return
      const replay = open
      answers = undefined
      open = undefined
      stream.push({ type: 'replay-failed', replay })
    },
    cut() {
      cut()
      wire = []
    },
    restart() {
      cut()
      life++
      published = 0
    },
    retry() {
      if (!retryAsked) return
      retryAsked = false
      stream.push({ type: 'retry' })
    },
  }
  return {
    stream,
    actions,
    pump,
    known: () => known,
    /** Nothing goes wrong any more. */
    settle() {
      actions.connect()
      pump(Number.POSITIVE_INFINITY)
      for (let round = 0; round < 10; round++) {
        if (round === 5) actions.publish()
        while (wire.length > 0 || answers !== undefined) {
          if (answers?.left.length === 0) actions.timeOut()
          actions.deliver()
          actions.answer()
          pump(Number.POSITIVE_INFINITY)
        }
        // What is still open was asked of nobody.
        actions.timeOut()
        pump(Number.POSITIVE_INFINITY)
        actions.retry()
        pump(Number.POSITIVE_INFINITY)
      }
      return { life, published }
    },
  }
}

type Action = keyof ReturnType<typeof simulate>['actions']
const ACTIONS: readonly { readonly weight: number; readonly arbitrary: fc.Arbitrary<Action> }[] = [
  ...(['publish', 'deliver', 'answer'] as const).map((action) => ({ weight: 12, arbitrary: fc.constant(action) })),
  ...(['connect', 'loseLive'] as const).map((action) => ({ weight: 3, arbitrary: fc.constant(action) })),
  ...(['loseAnswer', 'timeOut', 'cut', 'restart', 'retry'] as const).map((action) => ({
    weight: 1,
    arbitrary: fc.constant(action),
  })),
]
const story = fc.array(fc.tuple(fc.oneof(...ACTIONS), fc.constantFrom(1, 3, 1000)), { maxLength: 150, size: 'max' })

describe('whatever is lost, cut or restarted', () => {
  it('batches are applied in order, never twice, and complete means that nothing is missing', () => {
    fc.assert(
      fc.property(story, fc.boolean(), fc.constantFrom(3, 1000), (steps, replayable, ringSize) => {
        const { actions, pump } = simulate(replayable, ringSize)
        for (const [action, outputs] of steps) {
          actions[action]()
          pump(outputs)
        }
      }),
      { numRuns: 2000 },
    )
  })
  it('everything is known again once nothing is lost any more', () => {
    fc.assert(
      fc.property(story, (steps) => {
        const { actions, pump, settle, stream, known } = simulate(true, 1000)
        for (const [action, outputs] of steps) {
          actions[action]()
          pump(outputs)
        }
        const { life, published } = settle()
        expect(known()).toEqual(Array.from({ length: published }, (_, seq) => ({ life, seq })))
        expect(stream.state).toEqual(LIVE_AND_COMPLETE)
      }),
      { numRuns: 1000 },
    )
  })
})
