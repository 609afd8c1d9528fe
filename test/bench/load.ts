// A closed loop of callers on raw sockets. Every answer is checked to the byte: a subject that loses, cuts or invents
// something ends the run.
import { connect, type Socket } from 'node:net'
import { nowUs, STAMP_DIGITS, STAMP_MARK_BYTE } from './answers.ts'
import type { Request } from './requests.ts'

/** What each answer is: of known sizes, or one that is looked at whole. Its status is 200 in any case. */
export type Expected =
  | { readonly bytes: number; readonly events: number }
  /** Says what is wrong with an answer; its time is that from request to last byte, however many events it has. */
  | { readonly check: (head: string, body: string) => string | undefined }

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

/** A caller that hears nothing for this long gives up, and with it the run. */
const SILENCE_MS = 10_000

const LF = 0x0a

export function startLoad({ port, connections, request, expected }: LoadOptions): Load {
  let counts = { answers: 0, events: 0, latenciesUs: [] as number[] }
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

    const read = createAnswerReader({
      keepsBody: 'check' in expected,
      onEvent(stampUs) {
        counts.events++
        counts.latenciesUs.push(Number(nowUs() - stampUs))
      },
      onEnd(answer) {
        const endedUs = nowUs()
        const wrong = faultOf(answer, expected)
        if (wrong !== undefined) {
          fail(wrong)
          return
        }
        counts.answers++
        if ('check' in expected || expected.events === 0) counts.latenciesUs.push(Number(endedUs - sentUs))
        // Those without a stamp: usage and the end mark.
        else counts.events += 2
        waiting = false
        if (stopping) socket.end()
        else send()
      },
    })

    function send(): void {
      request.renew?.(own)
      waiting = true
      sentUs = nowUs()
      socket.write(own)
    }

    socket.on('connect', send)
    socket.on('data', (data) => {
      const wrong = read(data)
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

function faultOf({ status, head, body, bytes, events }: Answer, expected: Expected): string | undefined {
  if ('check' in expected) return status === 200 ? expected.check(head, body) : `${head}\n\n${body}`
  if (status === 200 && bytes === expected.bytes && events === expected.events) return undefined
  return `got status ${status}, ${bytes} B, ${events} events; expected 200, ${expected.bytes} B, ${expected.events}`
}

type Answer = {
  readonly status: number
  readonly head: string
  /** '' where it is not kept. */
  readonly body: string
  readonly bytes: number
  readonly events: number
}

type AnswerHandlers = {
  readonly keepsBody: boolean
  readonly onEvent: (stampUs: bigint) => void
  readonly onEnd: (answer: Answer) => void
}

/** Takes reads of one connection and follows the framing of its answers; returns what is wrong with them. */
function createAnswerReader({ keepsBody, onEvent, onEnd }: AnswerHandlers): (data: Buffer) => string | undefined {
  let state: 'head' | 'length' | 'chunk-size' | 'chunk-data' | 'chunk-end' | 'last-line' = 'head'
  let carry: Buffer | undefined
  let head = ''
  let body = ''
  let bytesLeft = 0
  let bytes = 0
  let events = 0
  let lastByte = 0

  function payload(data: Buffer): void {
    bytes += data.length
    if (keepsBody) {
      body += data.toString('latin1')
      return
    }
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
    onEnd({ status: Number(head.slice(9, 12)), head, body, bytes, events })
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
          head = data.toString('latin1', 0, headEnd)
          data = data.subarray(headEnd + 4)
          body = ''
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
