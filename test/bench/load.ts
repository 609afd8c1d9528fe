// A closed loop of callers on raw sockets. Every answer is checked to the byte: a subject that loses, cuts or invents
// something ends the run.
import { connect, type Socket } from 'node:net'
import { MODEL, nowUs, STAMP_DIGITS, STAMP_MARK_BYTE } from './answers.ts'

export type Expected = { readonly bytes: number; readonly events: number }

/** Head and body. At `serialAt` stand digits that make each request another, so that no cache can answer it. */
export type Request = { readonly bytes: Buffer; readonly serialAt: number }

export type LoadOptions = {
  readonly port: number
  readonly connections: number
  readonly request: Request
  readonly expected: Expected
}

export type LoadCounts = {
  readonly answers: number
  readonly events: number
  /** Microseconds: from request to last byte, or for streams from the engine's write of an event to its arrival. */
  readonly latenciesUs: readonly number[]
}

export type Load = {
  /** What was seen since the last call. */
  readonly take: () => LoadCounts
  /** Lets the requests in flight finish. Rejects with the first thing that went wrong. */
  readonly stop: () => Promise<void>
}

const SERIAL_DIGITS = 8
/** A caller that hears nothing for this long gives up, and with it the run. */
const SILENCE_MS = 10_000

const LF = 0x0a

const PROSE = `A shared document stands at the front of many questions, and the engine has its keys and values already.
Whoever asks about it next waits for nothing but the question itself, if the request reaches the pod that has
them; sent anywhere else, the same text is computed once more. The authors call this "affinity", and the rest of
the paper is about what to do when the right pod is also the busiest one, which it tends to be.
`

export function startLoad({ port, connections, request, expected }: LoadOptions): Load {
  let counts = { answers: 0, events: 0, latenciesUs: [] as number[] }
  let serial = 0
  let stopping = false
  let failure: Error | undefined
  const open = new Set<Socket>()
  let allClosed: () => void = () => {}
  const closed = new Promise<void>((resolve) => {
    allClosed = resolve
  })

  function fail(message: string): void {
    failure ??= new Error(message)
    stopping = true
    for (const socket of open) socket.destroy()
  }

  function startCaller(): void {
    const own = Buffer.from(request.bytes)
    const socket = connect({ port, host: '127.0.0.1', noDelay: true })
    open.add(socket)
    let sentUs = 0n
    let waiting = false

    const answer = createAnswerReader({
      onEvent(stampUs) {
        counts.events++
        counts.latenciesUs.push(Number(nowUs() - stampUs))
      },
      onEnd(status, bytes, events) {
        if (status !== 200 || bytes !== expected.bytes || events !== expected.events) {
          fail(
            `got status ${status}, ${bytes} B, ${events} events; expected 200, ${expected.bytes} B, ${expected.events}`,
          )
          return
        }
        counts.answers++
        if (expected.events === 0) counts.latenciesUs.push(Number(nowUs() - sentUs))
        // Those without a stamp: usage and the end mark.
        else counts.events += 2
        waiting = false
        if (stopping) socket.end()
        else send()
      },
    })

    function send(): void {
      own.write(String(serial++).padStart(SERIAL_DIGITS, '0'), request.serialAt, 'latin1')
      waiting = true
      sentUs = nowUs()
      socket.write(own)
    }

    socket.on('connect', send)
    socket.on('data', (data) => {
      const wrong = answer(data)
      if (wrong) fail(wrong)
    })
    socket.setTimeout(SILENCE_MS, () => fail(`heard nothing for ${SILENCE_MS / 1000} s`))
    socket.on('error', (error) => fail(error.message))
    socket.on('close', () => {
      open.delete(socket)
      if (waiting) fail('the connection closed before the answer ended')
      if (open.size === 0) allClosed()
    })
  }

  for (let index = 0; index < connections; index++) startCaller()
  return {
    take() {
      const taken = counts
      counts = { answers: 0, events: 0, latenciesUs: [] }
      return taken
    },
    async stop() {
      stopping = true
      await closed
      if (failure) throw failure
    },
  }
}

type AnswerHandlers = {
  readonly onEvent: (stampUs: bigint) => void
  readonly onEnd: (status: number, bytes: number, events: number) => void
}

/** Takes reads of one connection and follows the framing of its answers; returns what is wrong with them. */
function createAnswerReader({ onEvent, onEnd }: AnswerHandlers): (data: Buffer) => string | undefined {
  let state: 'head' | 'length' | 'chunk-size' | 'chunk-data' | 'chunk-end' | 'last-line' = 'head'
  let carry: Buffer | undefined
  let status = 0
  let bytesLeft = 0
  let bytes = 0
  let events = 0
  let lastByte = 0

  function payload(data: Buffer): void {
    bytes += data.length
    if (data[0] === LF && lastByte === LF) events++
    for (let at = data.indexOf('\n\n'); at !== -1; at = data.indexOf('\n\n', at + 2)) events++
    for (let at = data.indexOf(STAMP_MARK_BYTE); at !== -1; at = data.indexOf(STAMP_MARK_BYTE, at + 1)) {
      // One that is cut between two reads is counted, not timed.
      const stamp = data.toString('latin1', at + 1, at + 1 + STAMP_DIGITS)
      if (stamp.length === STAMP_DIGITS) onEvent(BigInt(stamp))
    }
    lastByte = data[data.length - 1] ?? 0
  }

  function end(): void {
    state = 'head'
    onEnd(status, bytes, events)
  }

  return (received) => {
    let data = carry ? Buffer.concat([carry, received]) : received
    carry = undefined
    while (data.length > 0) {
      switch (state) {
        case 'head': {
          const headEnd = data.indexOf('\r\n\r\n')
          if (headEnd === -1) {
            carry = data
            return undefined
          }
          const head = data.toString('latin1', 0, headEnd)
          data = data.subarray(headEnd + 4)
          status = Number(head.slice(9, 12))
          bytes = 0
          events = 0
          lastByte = 0
          const length = /\ncontent-length: *([0-9]+)/i.exec(head)?.[1]
          if (length !== undefined) {
            bytesLeft = Number(length)
            state = 'length'
            if (bytesLeft === 0) end()
          } else if (/\ntransfer-encoding: *chunked/i.test(head)) {
            state = 'chunk-size'
          } else {
            return `an answer without a length:\n${head}`
          }
          break
        }
        case 'length':
        case 'chunk-data': {
          const taken = Math.min(bytesLeft, data.length)
          payload(data.subarray(0, taken))
          data = data.subarray(taken)
          bytesLeft -= taken
          if (bytesLeft > 0) break
          if (state === 'length') end()
          else state = 'chunk-end'
          break
        }
        default: {
          const lineEnd = data.indexOf('\r\n')
          if (lineEnd === -1) {
            carry = data
            return undefined
          }
          const line = data.toString('latin1', 0, lineEnd)
          data = data.subarray(lineEnd + 2)
          if (state === 'chunk-size') {
            bytesLeft = Number.parseInt(line, 16)
            if (!(bytesLeft >= 0)) return `no chunk size: ${line}`
            state = bytesLeft === 0 ? 'last-line' : 'chunk-data'
          } else if (line !== '') {
            return `an unexpected line: ${line}`
          } else if (state === 'chunk-end') {
            state = 'chunk-size'
          } else {
            end()
          }
        }
      }
    }
    return undefined
  }
}

/** A chat request of about that many bytes, with the place of its serial number. */
export function chatRequest(bytes: number, stream: boolean): Request {
  const prose = JSON.stringify(PROSE).slice(1, -1)
  const serialMark = '#'.repeat(SERIAL_DIGITS)
  const wanted = stream ? '"stream":true,"stream_options":{"include_usage":true},' : ''
  const before = `{"model":"${MODEL}",${wanted}"temperature":0.7,"max_tokens":200,"messages":[{"role":"system","content":"`
  const after = `"},{"role":"user","content":"Question ${serialMark}?"}]}`
  const filled = Math.max(0, bytes - before.length - after.length)
  // The cut may leave the first half of an escape.
  const content = prose
    .repeat(Math.ceil(filled / prose.length))
    .slice(0, filled)
    .replace(/\\$/, '.')
  const body = before + content + after
  const head = [
    'POST /v1/chat/completions HTTP/1.1',
    'host: 127.0.0.1',
    'content-type: application/json',
    'accept: */*',
    'user-agent: warmpath-bench',
    `content-length: ${body.length}`,
  ]
  const request = Buffer.from(`${head.join('\r\n')}\r\n\r\n${body}`, 'latin1')
  return { bytes: request, serialAt: request.indexOf(serialMark) }
}
