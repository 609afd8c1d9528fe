// Chunks of bytes made whole, within a limit.

/** All bytes of a stream, unless they are more than `bytesMax`, take longer than `timeoutMs`, or it breaks off. */
export async function readAtMost(
  stream: ReadableStream<Uint8Array> | null,
  bytesMax: number,
  timeoutMs: number,
): Promise<Uint8Array | 'too-large' | 'late' | 'lost'> {
  if (!stream) return new Uint8Array()
  const reader = stream.getReader()
  // The other end may be gone already.
  const drop = () => void reader.cancel().catch(() => {})
  let late = false
  const timer = setTimeout(() => {
    late = true
    drop()
  }, timeoutMs)
  const chunks: Uint8Array[] = []
  let length = 0
  try {
    while (true) {
      const { done, value } = await reader.read()
      if (late) return 'late'
      if (done) return concat(chunks)
      length += value.length
      if (length > bytesMax) {
        drop()
        return 'too-large'
      }
      chunks.push(value)
    }
  } catch {
    return late ? 'late' : 'lost'
  } finally {
    clearTimeout(timer)
  }
}

/** The chunks as one; a single chunk is not copied. */
export function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const [only] = chunks
  if (only && chunks.length === 1) return only
  const whole = new Uint8Array(chunks.reduce((length, chunk) => length + chunk.length, 0))
  let at = 0
  for (const chunk of chunks) {
    whole.set(chunk, at)
    at += chunk.length
  }
  return whole
}
