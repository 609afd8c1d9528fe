// Digests of a conversation's long texts. Those of the turn before are known by their bytes, which are compared faster than
// they are digested.
import { createHash, hash } from 'node:crypto'
import { setImmediate as othersTurn } from 'node:timers/promises'
import { createLru } from '../lru.ts'

/** Of bodies that are kept for the comparison: some hundred conversations, long ones fewer. */
const KEPT_BYTES = 32 * 1024 * 1024
const KEPT_ENTRY_BYTES = 400
/** A larger body would take the place of too many. */
const KEPT_BODY_BYTES_MAX = KEPT_BYTES / 8
/** Shorter conversations are digested as fast. */
const COMPARED_BYTES_MIN = 32 * 1024
/** An answer, another question, results of tools: what a turn adds behind the last text of the one before. */
const NEW_TEXTS_MAX = 6

type Kept = { readonly texts: readonly Buffer[]; readonly digests: readonly string[]; readonly bytes: number }

/** About a millisecond's work. */
const AT_ONCE_BYTES = 512 * 1024

/** SHA-256 of each text, in base64. Others have their turn in between when there is much to digest. */
export type DigestTexts = (texts: readonly Buffer[]) => Promise<readonly string[]>

export function createTextDigests(): DigestTexts {
  /** By the digest of the last text. */
  const conversations = createLru<Kept>(KEPT_BYTES, ({ bytes, texts }) => bytes + texts.length * KEPT_ENTRY_BYTES)
  return async (texts) => {
    const bytes = texts.reduce((sum, { length }) => sum + length, 0)
    if (bytes < COMPARED_BYTES_MIN) return texts.map(digestAtOnce)
    const digestOf = createDigest()
    const digests = Array<string>(texts.length)
    let at = texts.length - 1
    for (; at >= 0; at--) {
      const pending = digestOf(texts[at] as Buffer)
      const digest = typeof pending === 'string' ? pending : await pending
      digests[at] = digest
      const kept = at >= texts.length - NEW_TEXTS_MAX ? conversations.get(digest) : undefined
      if (kept === undefined || !beginsWith(texts, kept.texts, at)) continue
      for (let before = 0; before < at; before++) digests[before] = kept.digests[before] as string
      break
    }
    // They are views of the body: it is kept whole, images and all.
    const heldBytes = Math.max(bytes, texts.at(-1)?.buffer.byteLength ?? 0)
    if (heldBytes <= KEPT_BODY_BYTES_MAX) {
      conversations.set(digests.at(-1) as string, { texts, digests, bytes: heldBytes })
    }
    return digests
  }
}

/** Whether these are its texts, all of them, up to this one. */
function beginsWith(texts: readonly Buffer[], kept: readonly Buffer[], last: number): boolean {
  if (kept.length !== last + 1) return false
  for (let at = 0; at < last; at++) if (!(texts[at] as Buffer).equals(kept[at] as Buffer)) return false
  return true
}

/** Of one conversation's texts, one after the other. */
function createDigest(): (text: Buffer) => string | Promise<string> {
  let bytesAtOnce = 0
  return (text) => {
    bytesAtOnce += text.length
    if (bytesAtOnce < AT_ONCE_BYTES) return digestAtOnce(text)
    bytesAtOnce = 0
    return digestInParts(text)
  }
}

/** For a thread that keeps nobody waiting; it keeps nothing of the texts. */
export const digestEach: DigestTexts = async (texts) => texts.map(digestAtOnce)

function digestAtOnce(text: Buffer): string {
  return hash('sha256', text, 'base64')
}

async function digestInParts(text: Buffer): Promise<string> {
  const digest = createHash('sha256')
  for (let at = 0; at < text.length; at += AT_ONCE_BYTES) {
    await othersTurn()
    digest.update(text.subarray(at, at + AT_ONCE_BYTES))
  }
  return digest.digest('base64')
}
