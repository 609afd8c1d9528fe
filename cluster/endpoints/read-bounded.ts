// Reads the whole of an answer that has no right to be large.

/** Undefined when it is longer than `bytesMax`; the rest is not read then. Throws what the stream throws. */
export async function readBounded(stream: AsyncIterable<Buffer>, bytesMax: number): Promise<Buffer | undefined> {
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of stream) {
    bytes += chunk.length
    if (bytes > bytesMax) return undefined
    chunks.push(chunk)
  }
  return Buffer.concat(chunks, bytes)
}
