// Writes an answer's body to the caller. Node frames each chunk of a chunked answer as three buffers; a streamed token is
// a few hundred bytes, so one small copy into one buffer costs the socket less.
import type { ServerResponse } from 'node:http'

const CRLF = '\r\n'
/** A larger piece goes through Node, which does not copy it. */
const FRAME_BYTES_MAX = 16 * 1024

/** Sends the head and chooses how the body goes. The caller ends `res` itself, which writes the terminating chunk. */
export function beginAnswer(res: ServerResponse, status: number): (bytes: Buffer) => boolean {
  res.writeHead(status)
  // Not chunked: a length is known, or the caller speaks HTTP/1.0. No socket: an earlier answer of a pipeline has it.
  if (!res.chunkedEncoding || !res.socket) return (bytes) => res.write(bytes)
  res.flushHeaders()
  const { socket } = res
  return (bytes) => {
    if (bytes.length === 0) return true
    if (bytes.length > FRAME_BYTES_MAX) return res.write(bytes)
    const size = bytes.length.toString(16)
    const frame = Buffer.allocUnsafe(size.length + bytes.length + 2 * CRLF.length)
    let at = frame.write(size, 'latin1')
    at += frame.write(CRLF, at, 'latin1')
    at += bytes.copy(frame, at)
    frame.write(CRLF, at, 'latin1')
    return socket.write(frame)
  }
}
