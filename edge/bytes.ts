// Chunks of bytes made whole, within a limit.

/** All bytes of a stream, unless they are more than `bytesMax` or it breaks off. */
export async function readAtMost(
  stream: ReadableStream<Uint8Array> | null,
  bytesMax: number,
): Promise<Uint8Array | 'too-large' | 'lost'> {
  const chunks: Uint8Array[] = []
  let length = 0
  try {
    for await (const chunk of stream ?? []) {
      length += chunk.length
      // Leaving the loop cancels the stream.
      if (length > bytesMax) return 'too-large'
      chunks.push(chunk)
    }
  } catch {
    return 'lost'
  }
  return concat(chunks)
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
