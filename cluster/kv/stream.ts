// One publisher's stream of KV event batches, decided without sockets: what to apply, when to ask for a replay, when to
// forget everything, and whether anything is missing. The rim reports what it saw and does what comes out.
import { Fifo } from './fifo.ts'

/** Batches that are held back while a replay runs; beyond either bound all of them are dropped. */
export const HELD_BATCHES_MAX = 10_000
export const HELD_BYTES_MAX = 64 * 1024 * 1024
/** A replay is cut off after so many. vLLM keeps 10,000 batches unless told otherwise. */
export const REPLAY_BATCHES_MAX = 100_000
/**
 * Replays in a row, each going on where the one before stopped, after which the rest is given up. A ROUTER drops what its
 * queue of 1,000 cannot take, so that a whole replay may come in portions of that size.
 */
export const REPLAY_ROUNDS_MAX = 32
/** A publisher whose replay failed is asked again after this long, then after twice as long, up to the maximum. */
const RETRY_MS = 30_000
const RETRY_MS_MAX = 600_000

export type StreamInput =
  /** A connection stands, and the subscription with it. */
  | { readonly type: 'connected' }
  | { readonly type: 'disconnected' }
  | { readonly type: 'live'; readonly seq: number; readonly payload: Uint8Array }
  | { readonly type: 'replayed'; readonly replay: number; readonly seq: number; readonly payload: Uint8Array }
  /** The publisher said that the replay is whole. */
  | { readonly type: 'replay-ended'; readonly replay: number }
  /** It took too long, or its socket broke. */
  | { readonly type: 'replay-failed'; readonly replay: number }
  /** The time that `retry-later` named is over. */
  | { readonly type: 'retry' }
  /** The batch that was handed out last could not be decoded. */
  | { readonly type: 'unreadable' }

export type StreamOutput =
  | { readonly type: 'apply'; readonly seq: number; readonly payload: Uint8Array }
  /** Forget every block of this publisher. */
  | { readonly type: 'clear' }
  /** Close the replay that may be running, and ask for every batch from this number on. */
  | { readonly type: 'replay'; readonly replay: number; readonly from: number }
  /** Close the running replay: left unread it can stall the engine. */
  | { readonly type: 'abandon-replay' }
  | { readonly type: 'retry-later'; readonly afterMs: number }

export type StreamState = {
  readonly state: 'connecting' | 'replaying' | 'live' | 'lost'
  /** Every batch that this publisher has sent was applied, as far as the numbers that were seen can tell. */
  readonly complete: boolean
}

/** Where a stream was left: its last batch, and whether none before it is missing. */
export type StreamPosition = { readonly seq: number; readonly payload: Uint8Array; readonly complete: boolean }

type Batch = { readonly seq: number; readonly payload: Uint8Array }

type Replay = {
  readonly id: number
  /** For a rebuild, the batches from 0 on: they take the place of what is known once they are whole, and not before. */
  readonly collected: Batch[] | undefined
  collectedBytes: number
  /** What had come live when it was asked for: the publisher had sent all that. */
  readonly newestLiveBefore: number
  batches: number
  /** The last applied batch came once more, byte for byte: the publisher is the same one. */
  proven: boolean
  /** It brought a batch that was applied. */
  advanced: boolean
}

/**
 * Takes inputs by `push`; `next` gives the outputs one by one, so that a long backlog can be applied in slices.
 * Invariants: applied numbers rise strictly between two `clear`s; the numbers in `#held` rise, and none leaves it to be
 * applied while a replay runs; of a publisher with replay it is empty while no connection stands.
 */
export class KvStream {
  readonly #replayable: boolean
  readonly #outputs = new Fifo<StreamOutput>()
  readonly #held = new Fifo<Batch>()
  #heldBytes = 0
  #phase: StreamState['state'] = 'connecting'
  #replay: Replay | undefined
  #replays = 0
  /** Replays in a row without being live in between. */
  #rounds = 0
  /** The batch applied last; its number is -1 when there is none. */
  #last = -1
  #lastPayload: Uint8Array | undefined
  /** Highest number that came live from this publisher, -1 before the first. What comes live next is higher. */
  #newestLive = -1
  /** The same, of this connection alone. */
  #newestHere = -1
  /** Something is missing among the batches up to `#last`, or may be. */
  #hole = true
  /** What is missing below this number was asked for in vain. */
  #givenUpBelow = 0
  /** The connection was gone since the last batch: another publisher may have taken this one's place. */
  #unproven = false
  /** The hole is one that a replay from the start might fill. */
  #retryable = false
  #retryMs = RETRY_MS

  /**
   * @param replayable whether the publisher offers replays.
   * @param from where another reader left it, whose blocks are taken over: a replay has to prove that the publisher is
   * the same one.
   */
  constructor(replayable: boolean, from?: StreamPosition) {
    this.#replayable = replayable
    if (from === undefined) return
    this.#last = from.seq
    this.#lastPayload = from.payload
    this.#newestLive = from.seq
    this.#hole = !from.complete
    this.#unproven = true
  }

  get state(): StreamState {
    const caughtUp = this.#held.length === 0 && this.#newestLive <= this.#last
    return { state: this.#phase, complete: this.#phase === 'live' && !this.#hole && caughtUp }
  }

  /** Nothing is missing up to the last batch, whatever came since. */
  get whole(): boolean {
    return !this.#hole
  }

  push(input: StreamInput): void {
    switch (input.type) {
      case 'connected':
        return this.#connected()
      case 'disconnected':
        return this.#disconnected()
      case 'live':
        return this.#live(input)
      case 'retry':
        return this.#retry()
      case 'unreadable':
        this.#hole = true
        return
    }
    const replay = this.#replay
    // A replay that was closed may still have had something in its socket.
    if (replay?.id !== input.replay) return
    if (input.type === 'replayed') this.#replayed(replay, input)
    else if (input.type === 'replay-ended') this.#replayEnded(replay)
    else this.#replayFailed(replay)
  }

  /** The next thing to do; undefined when there is nothing. */
  next(): StreamOutput | undefined {
    for (;;) {
      const output = this.#outputs.take()
      if (output !== undefined) return output
      const batch = this.#phase === 'replaying' ? undefined : this.#held.peek()
      if (batch === undefined) return undefined
      const gap = batch.seq > this.#last + 1
      if (gap && this.#replayable && batch.seq > this.#givenUpBelow) {
        this.#ask('follow')
        continue
      }
      this.#dropFirstHeld(batch)
      if (batch.seq > this.#last) this.#apply(batch)
    }
  }

  #connected(): void {
    if (this.#phase === 'live' || this.#phase === 'replaying') return
    this.#rounds = 0
    if (this.#replayable) return this.#ask('follow')
    // Whether anything was sent meanwhile, or by whom, nobody can tell.
    if (this.#unproven) {
      this.#hole = true
      this.#dropHeld()
    }
    this.#unproven = false
    this.#phase = 'live'
  }

  #disconnected(): void {
    if (this.#phase === 'connecting') return
    if (this.#replay?.collected) this.#outputs.put({ type: 'retry-later', afterMs: this.#retryMs })
    this.#stopReplay()
    this.#phase = 'lost'
    this.#newestHere = -1
    // On a new connection nothing comes live that was replayed on the old one. What was never applied need not be remembered.
    this.#newestLive = this.#last === -1 ? -1 : Math.max(this.#newestLive, this.#last)
    this.#unproven = this.#last >= 0 || !this.#replayable
    // The next replay brings it again, if the publisher is the same; if it is not, it must not be applied.
    if (this.#replayable) this.#dropHeld()
  }

  #live({ seq, payload }: Batch): void {
    // Of the old connection, or of the new one before it was reported: the next replay brings it.
    if (this.#replayable && this.#phase !== 'live' && this.#phase !== 'replaying') return
    if (seq <= this.#newestLive) {
      this.#restarted()
      this.#unproven = this.#phase === 'lost'
    }
    this.#newestLive = seq
    this.#newestHere = seq
    // A replay was faster than the subscription.
    if (seq <= this.#last) return
    if (this.#held.length === HELD_BATCHES_MAX || this.#heldBytes + payload.length > HELD_BYTES_MAX) {
      return this.#dropHeld()
    }
    this.#held.put({ seq, payload })
    this.#heldBytes += payload.length
  }

  #replayed(replay: Replay, { seq, payload }: Batch): void {
    if (++replay.batches > REPLAY_BATCHES_MAX) {
      this.#outputs.put({ type: 'abandon-replay' })
      return this.#replayFailed(replay)
    }
    if (replay.collected) return this.#collect(replay, replay.collected, { seq, payload })
    if (seq < this.#last) return
    const first = !replay.proven && !replay.advanced
    if (seq === this.#last) {
      if (first && !sameBytes(payload, this.#lastPayload)) return this.#beginAnew()
      replay.proven = true
      this.#unproven = false
      return
    }
    if (this.#unproven) return this.#beginAnew()
    // The publisher has every batch from the first one on, but a ROUTER whose queue is full drops replies without a word.
    if (!first && seq > this.#last + 1) return this.#goOn()
    replay.advanced = true
    this.#apply({ seq, payload })
  }

  #collect(replay: Replay, collected: Batch[], batch: Batch): void {
    replay.collectedBytes += batch.payload.length
    const fits = collected.length < HELD_BATCHES_MAX && replay.collectedBytes <= HELD_BYTES_MAX
    if (fits && batch.seq === collected.length) {
      collected.push(batch)
      return
    }
    this.#stopReplay()
    // What is dropped on the way may come the next time; what the publisher no longer has will not.
    if (fits && collected.length > 0) return this.#giveUp()
    this.#retryable = false
    this.#goLive()
  }

  #replayEnded(replay: Replay): void {
    // It has not got as far as what was applied: it is another publisher.
    if (this.#unproven && !replay.proven && !replay.advanced) return this.#beginAnew()
    if (replay.collected) {
      this.#forget()
      for (const batch of replay.collected) this.#apply(batch)
      replay.advanced = true
    }
    if (this.#last === -1) this.#hole = false
    this.#retryMs = RETRY_MS
    for (let held = this.#held.peek(); held && held.seq <= this.#last; held = this.#held.peek()) {
      this.#dropFirstHeld(held)
    }
    const next = this.#held.peek()?.seq ?? this.#newestLive + 1
    if (next > this.#last + 1) {
      const mayBeAnswered = replay.proven || replay.advanced || next > replay.newestLiveBefore + 1
      if (mayBeAnswered) return this.#goOn()
      this.#hole = true
      this.#givenUpBelow = next
    }
    this.#goLive()
  }

  #replayFailed(replay: Replay): void {
    if (replay.advanced && this.#rounds < REPLAY_ROUNDS_MAX) return this.#goOn()
    this.#giveUp()
  }

  /** Another replay, from where this one stopped. */
  #goOn(): void {
    if (this.#rounds < REPLAY_ROUNDS_MAX) return this.#ask('follow')
    this.#stopReplay()
    this.#giveUp()
  }

  #giveUp(): void {
    // Of two publishers, what is known may be the one's that is gone.
    if (this.#unproven) this.#forget()
    this.#hole = true
    this.#retryable = true
    this.#givenUpBelow = this.#newestLive + 1
    this.#outputs.put({ type: 'retry-later', afterMs: this.#retryMs })
    this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MS_MAX)
    this.#goLive()
  }

  #retry(): void {
    if (!this.#retryable) return
    if (this.#phase === 'live') this.#ask('rebuild')
    else this.#outputs.put({ type: 'retry-later', afterMs: this.#retryMs })
  }

  /** `follow`: what came after the last batch. `rebuild`: everything. */
  #ask(purpose: 'follow' | 'rebuild'): void {
    this.#rounds++
    this.#phase = 'replaying'
    const newestLiveBefore = this.#newestLive
    const collected: Batch[] | undefined = purpose === 'rebuild' ? [] : undefined
    this.#replay = {
      id: ++this.#replays,
      collected,
      collectedBytes: 0,
      newestLiveBefore,
      batches: 0,
      proven: false,
      advanced: false,
    }
    // The last batch is asked for once more: it proves that the publisher is the one that sent it.
    const from = purpose === 'rebuild' ? 0 : Math.max(0, this.#last)
    this.#outputs.put({ type: 'replay', replay: this.#replay.id, from })
  }

  #goLive(): void {
    this.#replay = undefined
    this.#unproven = false
    this.#rounds = 0
    this.#phase = 'live'
  }

  #apply({ seq, payload }: Batch): void {
    if (this.#last === -1) this.#hole = seq > 0
    else if (seq > this.#last + 1) this.#hole = true
    this.#last = seq
    this.#lastPayload = payload
    this.#outputs.put({ type: 'apply', seq, payload })
  }

  /** The numbers went back: the publisher is a new one. */
  #restarted(): void {
    this.#dropHeld()
    this.#forget()
    this.#rounds = 0
    if (this.#replayable) this.#ask('follow')
  }

  /** A replay showed that the publisher is a new one. What is held back may be the old one's, and is asked for again. */
  #beginAnew(): void {
    this.#dropHeld()
    this.#forget()
    this.#newestLive = this.#newestHere
    this.#ask('follow')
  }

  #forget(): void {
    this.#last = -1
    this.#lastPayload = undefined
    this.#hole = true
    this.#givenUpBelow = 0
    this.#unproven = false
    this.#retryable = false
    this.#outputs.put({ type: 'clear' })
  }

  #stopReplay(): void {
    if (this.#replay === undefined) return
    this.#replay = undefined
    this.#outputs.put({ type: 'abandon-replay' })
  }

  #dropFirstHeld(first: Batch): void {
    this.#held.take()
    this.#heldBytes -= first.payload.length
  }

  #dropHeld(): void {
    this.#held.clear()
    this.#heldBytes = 0
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array | undefined): boolean {
  return b !== undefined && Buffer.compare(a, b) === 0
}
