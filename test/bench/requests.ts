// What the load generator sends: chats of any size, plain or signed as the edge signs them.
import { createHash, createHmac, randomBytes } from 'node:crypto'
import { HEADER } from '../../shared/headers.ts'
import { formatSignature, signingInput } from '../../shared/signature.ts'
import { MODEL } from './answers.ts'

/** Head and body. `renew` makes the copy that is sent next another than all before it. */
export type Request = { readonly bytes: Buffer; readonly renew?: (own: Buffer) => void }

export type ChatOptions = {
  readonly headers?: Readonly<Record<string, string>>
  readonly temperature?: number
  /** Not another each time. */
  readonly same?: boolean
}

export type SigningKey = { readonly id: string; readonly secret: string; readonly tenant: string }

const PATH = '/v1/chat/completions'
const SERIAL_DIGITS = 8
const SERIAL_MARK = '#'.repeat(SERIAL_DIGITS)
const SAME_SERIAL = '0'.repeat(SERIAL_DIGITS)
const NONCE_PREFIX_BYTES = 9
const NONCE_DIGITS = 10

const PROSE = `A shared document stands at the front of many questions, and the engine has its keys and values already.
Whoever asks about it next waits for nothing but the question itself, if the request reaches the pod that has
them; sent anywhere else, the same text is computed once more. The authors call this "affinity", and the rest of
the paper is about what to do when the right pod is also the busiest one, which it tends to be.
`

/** A chat request of about that many bytes; each is another, so that no cache can answer it, unless they are the same. */
export function chatRequest(bytes: number, stream: boolean, options: ChatOptions = {}): Request {
  const { headers = {}, temperature = 0.7, same = false } = options
  const serial = same ? SAME_SERIAL : SERIAL_MARK
  const request = postRequest(PATH, headers, chatBody(bytes, stream, temperature, serial))
  const serialAt = request.indexOf(SERIAL_MARK)
  let next = 0
  const renew = (own: Buffer) => void own.write(String(next++).padStart(SERIAL_DIGITS, '0'), serialAt, 'latin1')
  return same ? { bytes: request } : { bytes: request, renew }
}

/** The same chat each time, with a signature of its own. The digest of the body is made once. */
export function signedRequest(bytes: number, { id, secret, tenant }: SigningKey): Request {
  const body = chatBody(bytes, false, 0.7, SAME_SERIAL)
  const bodyDigest = createHash('sha256').update(body).digest('hex')
  const prefix = randomBytes(NONCE_PREFIX_BYTES).toString('base64url')
  let next = 0
  function sign(): string {
    const timestampSeconds = Math.floor(Date.now() / 1_000)
    const nonce = prefix + String(next++).padStart(NONCE_DIGITS, '0')
    const input = signingInput({ method: 'POST', path: PATH, timestampSeconds, nonce, tenant, pin: '', bodyDigest })
    const mac = createHmac('sha256', secret).update(input).digest('base64url')
    return formatSignature({ keyId: id, timestampSeconds, nonce, mac })
  }
  const request = postRequest(PATH, { [HEADER.tenant]: tenant, [HEADER.signature]: sign() }, body)
  const signatureAt = request.indexOf(HEADER.signature) + HEADER.signature.length + ': '.length
  return { bytes: request, renew: (own) => void own.write(sign(), signatureAt, 'latin1') }
}

/** An ASCII body as it goes over the wire. */
export function postRequest(path: string, headers: Readonly<Record<string, string>>, body: string): Buffer {
  const head = [
    `POST ${path} HTTP/1.1`,
    'host: 127.0.0.1',
    'content-type: application/json',
    'accept: */*',
    'user-agent: warmpath-bench',
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
    `content-length: ${body.length}`,
  ]
  return Buffer.from(`${head.join('\r\n')}\r\n\r\n${body}`, 'latin1')
}

function chatBody(bytes: number, stream: boolean, temperature: number, serial: string): string {
  const prose = JSON.stringify(PROSE).slice(1, -1)
  // The engine looks for it in the first bytes.
  const wanted = stream ? '"stream":true,"stream_options":{"include_usage":true},' : ''
  const before = `{"model":"${MODEL}",${wanted}"temperature":${temperature},"max_tokens":200,"messages":[{"role":"system","content":"`
  const after = `"},{"role":"user","content":"Question ${serial}?"}]}`
  // The prompt is the same whether its answer is streamed or not.
  const filled = Math.max(0, bytes - (before.length - wanted.length) - after.length)
  // The cut may leave the first half of an escape.
  const content = prose
    .repeat(Math.ceil(filled / prose.length))
    .slice(0, filled)
    .replace(/\\$/, '.')
  return before + content + after
}
