// What flows back to the caller: one pull-based stream over the router's answer. It is never tee'd: with a second
// branch, a caller who leaves would no longer cancel the generation. A failure after the head is told in the stream.
import type { Account, Tap } from './tap.ts'

/** How an answer ended. */
export type Outcome = 'complete' | 'upstream_error' | 'client_abort' | keyof typeof FAILURES

export type MeterOptions = {
  readonly tap: Tap
  readonly idleTimeoutMs: number
  /** Aborts the request that the answer belongs to. */
  readonly upstream: AbortController
  /** Fires when the caller has left. */
  readonly caller: AbortSignal
  /** Takes the bytes as they came, before the tap. */
  readonly keep?: ((chunk: Uint8Array) => void) | undefined
  /** Called once, when the answer has ended. */
  readonly settle: (outcome: Outcome, account: Account) => void
}

const FAILURES = {
  upstream_truncated: { code: 'upstream_truncated', message: 'the answer ended before it was complete' },
  upstream_lost: { code: 'upstream_lost', message: 'the connection to the model was lost' },
  upstream_idle: { code: 'upstream_lost', message: 'the model sent nothing for too long' },
  upstream_event_too_large: { code: 'upstream_lost', message: 'the model sent an event that is too large' },
}

/** Passes an answer on through its tap; ends it with an error frame where the upstream failed. */
export function meter(body: ReadableStream<Uint8Array>, options: MeterOptions): ReadableStream<Uint8Array> {
  const { tap, idleTimeoutMs, upstream, caller } = options
  const reader = body.getReader()
  let settled = false

  function settle(outcome: Outcome): void {
    if (settled) return
    settled = true
    options.settle(outcome, tap.account())
  }

  function dropUpstream(): void {
    upstream.abort()
    // The abort alone may have broken it already.
    reader.cancel().catch(() => {})
  }

  /** The next bytes to go on, or how the answer ended. */
  async function next(): Promise<Uint8Array | Outcome> {
    let idle = false
    const timer = setTimeout(() => {
      idle = true
      dropUpstream()
    }, idleTimeoutMs)
    try {
      const { done, value } = await reader.read()
      if (!done) {
        options.keep?.(value)
        return tap.push(value) ?? 'upstream_event_too_large'
      }
      return tap.ended() ?? (idle ? 'upstream_idle' : tap.silentEnd)
    } catch {
      return tap.ended() ?? (caller.aborted ? 'client_abort' : idle ? 'upstream_idle' : 'upstream_lost')
    } finally {
      clearTimeout(timer)
    }
  }

  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      while (true) {
        const step = await next()
        if (settled) return
        if (typeof step === 'string') {
          if (step === 'upstream_event_too_large') dropUpstream()
          tellEnd(controller, step, tap)
          settle(step)
          return
        }
        if (step.length === 0) continue
        controller.enqueue(step)
        return
      }
    },
    cancel() {
      settle(tap.ended() ?? 'client_abort')
      dropUpstream()
    },
  })
}

function tellEnd(controller: ReadableStreamDefaultController<Uint8Array>, outcome: Outcome, tap: Tap): void {
  const failure = outcome in FAILURES ? FAILURES[outcome as keyof typeof FAILURES] : undefined
  const frame = failure && tap.failure(failure.code, failure.message)
  if (failure && !frame) {
    controller.error(new Error(failure.message))
    return
  }
  if (frame) controller.enqueue(frame)
  controller.close()
}
