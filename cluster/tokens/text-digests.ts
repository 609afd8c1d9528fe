// Digests of a conversation's long texts. Those of the turn before are known by their bytes, which are compared faster than
// they are digested.
import { hash } from 'node:crypto'
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

/** SHA-256 of each text, in base64. */
export type DigestTexts = (texts: readonly Buffer[]) => readonly string[]

export function createTextDigests(): DigestTexts {
  /** By the digest of the last text. */
  const conversations = createLru<Kept>(KEPT_BYTES, ({ bytes, texts }) => bytes + texts.length * KEPT_ENTRY_BYTES)
  return (texts) => {
    const bytes = texts.reduce((sum, { length }) => sum + length, 0)
    if (bytes < COMPARED_BYTES_MIN) return texts.map(digestOf)
    const digests = Array<string>(texts.length)
    let at = texts.length - 1
    for (; at >= 0; at--) {
      const digest = digestOf(texts[at] as Buffer)
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

function digestOf(text: Buffer): string {
  return hash('sha256', text, 'base64')
}
