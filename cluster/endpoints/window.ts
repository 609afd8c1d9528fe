// The mean over the last minute from an engine's totals, which only grow until it starts again.

export const WINDOW_MS = 60_000
/** Totals closer together than this are not kept: thirteen of them make the window. */
export const SAMPLE_INTERVAL_MS = 5_000

/** What a histogram has counted since the engine started; `sum / count` is its mean. Any ratio of counters fits. */
export type Totals = { readonly sum: number; readonly count: number }

type Sample = Totals & { readonly atMs: number }

/** Invariant: samples are in the order of time, at least SAMPLE_INTERVAL_MS apart, and never fall from one to the next. */
export class MeanWindow {
  #samples: Sample[] = []
  #last: Totals | undefined
  #mean: number | undefined

  /** The newest totals; undefined where the engine does not tell them. Times never go back. */
  add(atMs: number, totals: Totals | undefined): void {
    const restarted = totals && this.#last && (totals.sum < this.#last.sum || totals.count < this.#last.count)
    // What a new engine finished before it was first seen is lost: a second of it, against a mean over its whole life.
    if (totals === undefined || restarted) this.#samples = []
    this.#last = totals
    this.#mean = undefined
    if (totals === undefined) return
    const samples = this.#samples
    while (samples[0] && samples[0].atMs < atMs - WINDOW_MS) samples.shift()
    const [oldest] = samples
    if (oldest && totals.count > oldest.count) {
      this.#mean = (totals.sum - oldest.sum) / (totals.count - oldest.count)
    }
    const newest = samples.at(-1)
    if (!newest || atMs - newest.atMs >= SAMPLE_INTERVAL_MS) {
      samples.push({ atMs, sum: totals.sum, count: totals.count })
    }
  }

  /** Undefined when nothing was counted in the window, or it is not known. */
  mean(): number | undefined {
    return this.#mean
  }
}
