// A fake vLLM on raw sockets, as cheap as Node allows so that it is not what gets measured.
// Usage: node engine.ts PORT TOKENS INTERVAL_MS. Ends when its stdin does.
import { createServer, type Socket } from 'node:net'
import { DONE_EVENT, JSON_ANSWER, MODEL, nowUs, tokenEvent, USAGE_EVENT } from './answers.ts'

const [port, tokens, intervalMs] = process.argv.slice(2).map(Number) as [number, number, number]

const MODELS = JSON.stringify({
  object: 'list',
  data: [{ id: MODEL, object: 'model', created: 1_795_376_839, owned_by: 'vllm', root: MODEL, max_model_len: 131_072 }],
})
const METRICS = `# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="${MODEL}"} 8.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="${MODEL}"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="${MODEL}"} 0.25
`
const ANSWERS: Readonly<Record<string, string>> = {
  'GET /health': answer('200 OK', 'text/plain', ''),
  'GET /v1/models': answer('200 OK', 'application/json', MODELS),
  'GET /metrics': answer('200 OK', 'text/plain; version=0.0.4; charset=utf-8', METRICS),
  'POST /v1/chat/completions': answer('200 OK', 'application/json', JSON_ANSWER),
}
const NOT_FOUND = answer('404 Not Found', 'application/json', '{"detail":"Not Found"}')
const STREAM_HEAD =
  'HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n'
const STREAM_END = `${frame(USAGE_EVENT)}${frame(DONE_EVENT)}0\r\n\r\n`

type Stream = { readonly socket: Socket; tokensLeft: number }

// Streams are spread over the interval: real engines do not send to all callers in one instant.
const streamsByPhase = Array.from({ length: Math.max(1, intervalMs) }, () => new Set<Stream>())
let nextPhase = 0
let tick = 0
setInterval(() => {
  const streams = streamsByPhase[tick++ % streamsByPhase.length] ?? []
  for (const stream of streams) sendToken(stream)
}, 1)

function sendToken(stream: Stream): void {
  stream.socket.write(frame(tokenEvent(nowUs())), 'latin1')
  stream.tokensLeft--
  if (stream.tokensLeft > 0) return
  stream.socket.write(STREAM_END, 'latin1')
  endStream(stream)
}

function endStream(stream: Stream): void {
  for (const streams of streamsByPhase) streams.delete(stream)
}

function startStream(socket: Socket): Stream {
  const stream = { socket, tokensLeft: tokens }
  socket.write(STREAM_HEAD, 'latin1')
  sendToken(stream)
  if (stream.tokensLeft > 0) streamsByPhase[nextPhase++ % streamsByPhase.length]?.add(stream)
  return stream
}

createServer({ noDelay: true }, (socket) => {
  let head: Buffer | undefined
  let route = ''
  let streaming = false
  let bodyBytesLeft = 0
  let stream: Stream | undefined
  socket.on('data', (received: Buffer) => {
    let data = head ? Buffer.concat([head, received]) : received
    head = undefined
    while (data.length > 0) {
      if (bodyBytesLeft === 0) {
        const headEnd = data.indexOf('\r\n\r\n')
        if (headEnd === -1) {
          head = data
          return
        }
        const text = data.toString('latin1', 0, headEnd)
        route = text.slice(0, text.indexOf(' HTTP/')).replace(/\?.*/, '')
        bodyBytesLeft = Number(/\ncontent-length: *([0-9]+)/i.exec(text)?.[1] ?? 0)
        if (/\ntransfer-encoding:/i.test(text)) {
          process.stderr.write(`${route}: this engine reads no chunked bodies\n`)
          socket.destroy()
          return
        }
        streaming = false
        data = data.subarray(headEnd + 4)
      }
      // The load generator writes it into the first bytes of a body.
      streaming ||= data.toString('latin1', 0, 256).includes('"stream":true')
      const taken = Math.min(bodyBytesLeft, data.length)
      bodyBytesLeft -= taken
      data = data.subarray(taken)
      if (bodyBytesLeft > 0) return
      if (streaming) stream = startStream(socket)
      else socket.write(ANSWERS[route] ?? NOT_FOUND, 'latin1')
    }
  })
  socket.on('error', () => socket.destroy())
  socket.on('close', () => stream && endStream(stream))
}).listen(port, '127.0.0.1')

process.stdin.on('end', () => process.exit()).resume()

function answer(status: string, type: string, body: string): string {
  return `HTTP/1.1 ${status}\r\nserver: uvicorn\r\ncontent-type: ${type}\r\ncontent-length: ${body.length}\r\n\r\n${body}`
}

function frame(payload: string): string {
  return `${payload.length.toString(16)}\r\n${payload}\r\n`
}
