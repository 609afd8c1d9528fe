// What a model's name stands for in the cluster, as the router tells it with every answer. The edge has no other way to
// know, and must not answer with the old weights' words for longer than this memory lasts.
import type { Clock } from '../shared/clock.ts'
import type { ResponseStore } from './store.ts'

/** For so long the edge takes the router's last word for it. Then a request goes to the router, and brings the next. */
export const MODEL_VERSION_TTL_SECONDS = 60
const MODELS_MAX = 1_000
const VERSION_CHARS_MAX = 64

export type ModelVersions = {
  /** The version of a model, from this isolate's memory or the colo's; undefined when neither knows. */
  readonly find: (model: string, store: ResponseStore) => Promise<string | undefined>
  /** Takes the router's word, given to a question that left at `toldAtMs` or later. Resolves when the colo has it. */
  readonly learn: (model: string, version: string, toldAtMs: number, store: ResponseStore) => Promise<void>
}

export function createModelVersions({ epochMs }: Pick<Clock, 'epochMs'>): ModelVersions {
  type Known = { readonly version: string; readonly toldAtMs: number }
  const known = new Map<string, Known>()

  function remember(model: string, entry: Known): void {
    known.delete(model)
    if (known.size >= MODELS_MAX) known.delete(known.keys().next().value as string)
    known.set(model, entry)
  }
  const isFresh = ({ toldAtMs }: Known): boolean => epochMs() - toldAtMs < MODEL_VERSION_TTL_SECONDS * 1_000

  return {
    async find(model, store) {
      const near = known.get(model)
      if (near && isFresh(near)) return near.version
      const far = parse(await store.read(storeKey(model)))
      if (!far || !isFresh(far)) return undefined
      remember(model, far)
      return far.version
    },
    async learn(model, version, toldAtMs, store) {
      if (!isVersion(version)) return
      const near = known.get(model)
      // The word of an answer that took long may be older than what is known since.
      if (near && toldAtMs < near.toldAtMs) return
      // Every answer tells it; the colo is told well before it would forget.
      const isNews = near?.version !== version || toldAtMs - near.toldAtMs > (MODEL_VERSION_TTL_SECONDS * 1_000) / 2
      if (!isNews) return
      const entry = { version, toldAtMs }
      remember(model, entry)
      await store.write(storeKey(model), `${entry.toldAtMs} ${version}`, MODEL_VERSION_TTL_SECONDS)
    },
  }

  function parse(text: string | undefined): Known | undefined {
    const match = /^(\d{1,16}) ([A-Za-z0-9_-]+)$/.exec(text ?? '')
    return match ? { toldAtMs: Number(match[1]), version: match[2] as string } : undefined
  }
}

function isVersion(text: string): boolean {
  return text.length <= VERSION_CHARS_MAX && /^[A-Za-z0-9_-]+$/.test(text)
}

function storeKey(model: string): string {
  return `model/${encodeURIComponent(model)}`
}
