// What a real vLLM 0.32 published: frames as they came off the wire, and what its own decoder made of them.
import { readdirSync, readFileSync } from 'node:fs'
import { parseJson } from '../../parse-json.ts'

const FOLDER = new URL('../../fixtures/vllm/', import.meta.url)

export type Capture = {
  readonly file: string
  readonly seq: number
  readonly payload: Buffer
  /** `[ts, events, rank]`; integers beyond 2^53 as `{ $int }`, bytes as `{ $hex }`. */
  readonly decoded: readonly [number, readonly CapturedEvent[], number]
}

export type CapturedHash = number | { readonly $int: string } | { readonly $hex: string }

export type CapturedEvent = {
  readonly type: string
  readonly block_hashes: readonly CapturedHash[]
  readonly parent_block_hash: CapturedHash | null
  readonly token_ids: readonly number[]
  readonly block_size: number
  readonly medium: string | null
  readonly lora_name: string | null
  readonly extra_keys?: readonly (readonly string[] | null)[]
  readonly group_idx?: number
  readonly kv_cache_spec_kind?: string
}

export function readCaptures(): readonly Capture[] {
  const files = readdirSync(FOLDER).filter((file) => /^kv-events\..*\.jsonl$/.test(file))
  return files.flatMap((file) =>
    readFileSync(new URL(file, FOLDER), 'utf8')
      .trim()
      .split('\n')
      .map((line) => {
        const { frames_hex, decoded } = parseJson(line) as { frames_hex: string[]; decoded: Capture['decoded'] }
        const [, seq = '', payload = ''] = frames_hex
        return { file, seq: Number.parseInt(seq, 16), payload: Buffer.from(payload, 'hex'), decoded }
      }),
  )
}

/** A captured hash as the two words that the decoder gives. */
export function wordsOf(hash: CapturedHash): readonly [hi: number, lo: number] {
  const hex =
    typeof hash === 'number'
      ? hash.toString(16)
      : '$int' in hash
        ? BigInt.asUintN(64, BigInt(hash.$int)).toString(16)
        : hash.$hex
  const last = hex.padStart(16, '0').slice(-16)
  return [Number.parseInt(last.slice(0, 8), 16), Number.parseInt(last.slice(8), 16)]
}
