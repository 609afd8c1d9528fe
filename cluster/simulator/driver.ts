// Runs an engine on a clock of the real world: one timer, set to the end of the step that is open.
import type { Engine, StepResult } from './engine.ts'

export type Driver = {
  /** Work was added. */
  readonly wake: () => void
  /** Makes each step from the next one on take so many times as long. */
  readonly stretch: (factor: number) => void
  /** Stops the engine's progress, or lets it go on. */
  readonly hang: (hanging: boolean) => void
  readonly stop: () => void
}

export type DriverDeps = {
  readonly nowMs: () => number
  readonly onStep: (result: StepResult) => void
}

/** A process that was held up longer than this does not make up for it in a burst. */
const LAG_MAX_MS = 250

export function createDriver(engine: Engine, { nowMs, onStep }: DriverDeps): Driver {
  let timer: NodeJS.Timeout | undefined
  let immediate: NodeJS.Immediate | undefined
  let endsAtMs: number | undefined
  let hanging = false
  let factor = 1
  let stopped = false

  /** At most one step, so that sockets get their turn however fast or late the engine is. */
  const turn = () => {
    timer = undefined
    immediate = undefined
    const now = nowMs()
    if (endsAtMs === undefined) endsAtMs = engine.begin(now, factor)
    if (endsAtMs !== undefined && endsAtMs <= now) {
      onStep(engine.end())
      // The next step begins where the last one ended, not when the timer came: timers are late, engines are not.
      endsAtMs = engine.begin(Math.max(endsAtMs, now - LAG_MAX_MS), factor)
    }
    arm()
  }

  const arm = () => {
    if (endsAtMs === undefined || hanging || stopped || timer || immediate) return
    const waitMs = endsAtMs - nowMs()
    if (waitMs > 0) timer = setTimeout(turn, waitMs)
    else immediate = setImmediate(turn)
  }

  const disarm = () => {
    clearTimeout(timer)
    clearImmediate(immediate)
    timer = undefined
    immediate = undefined
  }

  return {
    wake: () => {
      if (hanging || stopped || timer || immediate) return
      // Later, so that requests that arrive together share the first step.
      immediate = setImmediate(turn)
    },
    stretch: (wanted) => {
      factor = wanted
    },
    hang: (wanted) => {
      if (hanging === wanted) return
      hanging = wanted
      disarm()
      if (!hanging && !stopped) immediate = setImmediate(turn)
    },
    stop: () => {
      stopped = true
      disarm()
    },
  }
}
