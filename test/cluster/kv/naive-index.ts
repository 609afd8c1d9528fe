// The KV index as one would write it for clarity: maps of texts, every question answered by going through everything.
// Tests hold the real one against it.
import type { BlocksRemoved, BlocksStored, KvBatch } from '../../../cluster/kv/kv-event.ts'
import type { PromptQuery } from '../../../cluster/kv/prefix-match.ts'

type Held = { readonly content: string; readonly size: number; readonly isGpu: boolean; times: number }
type Waiting = { readonly event: BlocksStored; readonly removed: Set<number> }

/** How much of a prompt is held: in tokens. */
export type NaiveMatch = { readonly matchedTokens: number; readonly gpuTokens: number }

const COUNTED = [undefined, 'full_attention', 'mla_attention', 'sink_full_attention']

export class NaiveSource {
  readonly #model: string
  #held = new Map<string, Held>()
  #waiting: Waiting[] = []

  constructor(model: string) {
    this.#model = model
  }

  get blocks(): number {
    return this.#held.size
  }

  contents(): readonly string[] {
    return [...this.#held.values()].map(({ content }) => content)
  }

  apply(batch: KvBatch): void {
    for (const event of batch.events) {
      if (event.type === 'stored') this.#stored(event)
      else if (event.type === 'removed') this.#removed(event)
      else this.clear()
    }
  }

  clear(): void {
    this.#held.clear()
    this.#waiting = []
  }

  match({ tokenIds, lora, cacheSalt }: PromptQuery): NaiveMatch {
    let best: NaiveMatch = { matchedTokens: 0, gpuTokens: 0 }
    for (const size of new Set([...this.#held.values()].map((held) => held.size))) {
      let content = rootOf(this.#model, lora, cacheSalt)
      let matchedTokens = 0
      let gpuTokens = 0
      for (let at = 0; at + size < tokenIds.length; at += size) {
        content = contentAfter(content, tokenIds.subarray(at, at + size), '')
        const copies = [...this.#held.values()].filter((held) => held.content === content)
        if (copies.length === 0) break
        matchedTokens += size
        if (copies.some(({ isGpu }) => isGpu)) gpuTokens += size
      }
      const longer = matchedTokens - best.matchedTokens
      if (longer > 0 || (longer === 0 && gpuTokens > best.gpuTokens)) best = { matchedTokens, gpuTokens }
    }
    return best
  }

  #stored(event: BlocksStored): void {
    const { hashes, tokenIds, blockSizeTokens, parent, group } = event
    const blocks = hashes.length / 2
    if (!COUNTED.includes(event.specKind) || blocks === 0) return
    if (tokenIds.length === 0) {
      for (let block = 0; block < blocks; block++) {
        const known = this.#find(hashAt(hashes, block), group) ?? this.#find(hashAt(hashes, block), undefined)
        if (known) this.#hold(event, block, known.content, known.size)
      }
      return
    }
    if (tokenIds.length !== blocks * blockSizeTokens) return
    if (parent === undefined) {
      this.#store(event, rootOf(this.#model, event.loraName, event.extraKeys?.[0]?.salt), new Set())
      return
    }
    const known = this.#find(`${parent.hi}:${parent.lo}`, group)
    if (known) this.#store(event, known.content, new Set())
    else this.#waiting.push({ event, removed: new Set() })
  }

  #store(event: BlocksStored, after: string, removed: ReadonlySet<number>): void {
    const { hashes, tokenIds, blockSizeTokens, group } = event
    const found: { readonly waiting: Waiting; readonly content: string }[] = []
    let content = after
    for (let block = 0; block < hashes.length / 2; block++) {
      const tokens = tokenIds.subarray(block * blockSizeTokens, (block + 1) * blockSizeTokens)
      content = contentAfter(content, tokens, event.extraKeys?.[block]?.others ?? '')
      if (!removed.has(block)) this.#hold(event, block, content, blockSizeTokens)
      for (const waiting of this.#waiting) {
        const { parent } = waiting.event
        const hash = parent ? `${parent.hi}:${parent.lo}` : ''
        if (waiting.event.group === group && hash === hashAt(hashes, block)) found.push({ waiting, content })
      }
      this.#waiting = this.#waiting.filter((waiting) => !found.some((one) => one.waiting === waiting))
    }
    for (const one of found) this.#store(one.waiting.event, one.content, one.waiting.removed)
  }

  #hold({ hashes, group, medium = 'GPU' }: BlocksStored, block: number, content: string, size: number): void {
    const key = `${group}|${medium}|${hashAt(hashes, block)}`
    const held = this.#held.get(key)
    if (held) held.times++
    else this.#held.set(key, { content, size, isGpu: medium === 'GPU', times: 1 })
  }

  #removed({ hashes, group, medium = 'GPU' }: BlocksRemoved): void {
    for (let block = 0; block < hashes.length / 2; block++) {
      const hash = hashAt(hashes, block)
      const key = `${group}|${medium}|${hash}`
      const held = this.#held.get(key)
      if (held) {
        held.times--
        if (held.times === 0) this.#held.delete(key)
        continue
      }
      for (const { event, removed } of this.#waiting) {
        if (event.group !== group || (event.medium ?? 'GPU') !== medium) continue
        const at = range(event.hashes.length / 2).find((one) => !removed.has(one) && hashAt(event.hashes, one) === hash)
        if (at === undefined) continue
        removed.add(at)
        break
      }
    }
  }

  #find(hash: string, group: number | undefined): Held | undefined {
    for (const [key, held] of this.#held) {
      const [itsGroup, , itsHash] = key.split('|')
      if (itsHash === hash && (group === undefined || itsGroup === String(group))) return held
    }
    return undefined
  }
}

function rootOf(model: string, lora: string | undefined, salt: string | undefined): string {
  return JSON.stringify([model, lora ?? null, salt ?? null])
}

function contentAfter(before: string, tokens: Uint32Array, others: string): string {
  return `${before}/${tokens.join(',')}${others === '' ? '' : `+${others}`}`
}

function hashAt(hashes: Uint32Array, block: number): string {
  return `${hashes[2 * block]}:${hashes[2 * block + 1]}`
}

function range(length: number): number[] {
  return Array.from({ length }, (_, index) => index)
}
