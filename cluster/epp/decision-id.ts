// Names of decisions, and the way back to them from the ids that answers have.
import { randomBytes } from 'node:crypto'

const PREFIX_BYTES = 5
const COUNT_BYTES = 6
/** A multiple of three: no padding in base64. */
const NONCE_BYTES = 12

const DECISION_ID = /^d-([0-9a-f]{10})-([0-9a-z]{1,9})$/
/** Of completions, chats and messages, and embeddings; vLLM puts these before the request id that it was given. */
const ANSWER_PREFIX = /^(chatcmpl|cmpl|embd)-/
const RESPONSE_ID = /^resp_([A-Za-z0-9_-]{16})/

/** Unique across restarts and replicas, short enough to read out. */
export function createDecisionIds(prefix: Buffer = randomBytes(PREFIX_BYTES)): () => string {
  const name = prefix.toString('hex', 0, PREFIX_BYTES)
  let count = 0
  return () => `d-${name}-${(++count).toString(36)}`
}

/** 16 characters of base64url that no other decision has, and that lead back to this one. Throws for another id. */
export function nonceOf(decisionId: string): string {
  const [, prefix, count] = DECISION_ID.exec(decisionId) ?? []
  if (prefix === undefined || count === undefined) throw new Error(`${decisionId} is no decision's id`)
  const bytes = Buffer.alloc(NONCE_BYTES)
  bytes.write(prefix, 'hex')
  bytes.writeUIntBE(Number.parseInt(count, 36), PREFIX_BYTES, COUNT_BYTES)
  return bytes.toString('base64url')
}

/** The decision behind an answer's own id; any other text is taken for a decision's id. */
export function decisionIdOf(text: string): string {
  const nonce = RESPONSE_ID.exec(text)?.[1]
  if (nonce === undefined) return text.replace(ANSWER_PREFIX, '')
  const bytes = Buffer.from(nonce, 'base64url')
  const count = bytes.readUIntBE(PREFIX_BYTES, COUNT_BYTES)
  return `d-${bytes.toString('hex', 0, PREFIX_BYTES)}-${count.toString(36)}`
}
