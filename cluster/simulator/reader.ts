// What a pod does about those who read its streams slower than it writes them.
import type { ServerResponse } from 'node:http'
import type { EventLog } from './event-log.ts'

/**
 * Bytes that may wait for the reader of one connection. vLLM makes fewer and larger chunks for a slow reader instead; a
 * reader of ours that keeps up has less than 0.1 MB waiting.
 */
export const UNREAD_BYTES_MAX = 16 * 1024 * 1024

/** Writes; a reader with more than UNREAD_BYTES_MAX waiting loses its connection, as if it had left. */
export function writeOrDrop(res: ServerResponse, bytes: string): void {
  const { socket } = res.req
  if (socket.destroyed) return
  res.write(bytes)
  // Not the answer alone: one that waits for its turn behind another on the same connection has no socket yet.
  if (res.writableLength > UNREAD_BYTES_MAX) socket.destroy()
}

/**
 * Sends the events after the one of that number, or all, and those to come as they come, as fast as the reader takes them;
 * ends the answer, whose head was sent, with the last event. As vLLM 0.32 does (`responses_background_stream_generator`):
 * a number below -1 counts from the end, one that no event reaches is waited for, even when there will be none, and an
 * event that is not to be had ends the connection in the middle of the answer.
 */
export function followEvents(log: EventLog, startingAfter: number | undefined, res: ServerResponse): void {
  let index = startingAfter === undefined ? 0 : startingAfter + 1
  const stopListening = log.listen(send)
  const stop = () => {
    stopListening()
    res.off('drain', send)
  }
  res.on('drain', send)
  res.on('close', stop)
  send()

  function send(): void {
    while (!res.writableNeedDrain && !res.writableEnded) {
      const event = log.at(index)
      if (log.isForgotten || (!event && index < log.length)) {
        stop()
        return cutOff(res)
      }
      if (!event) return
      res.write(event.text)
      if (event.isLast) res.end()
      index++
    }
  }
}

/** Ends the connection: what was written still reaches the client, the end that its framing promised does not. */
export function cutOff(res: ServerResponse): void {
  res.req.socket.destroySoon()
}
