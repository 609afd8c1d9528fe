import { describe, expect, it } from 'vitest'
import { readAtMost } from '../../edge/bytes.ts'

const TEXT = new TextEncoder().encode('body')
const never = () => new ReadableStream<Uint8Array>({ start: (controller) => controller.enqueue(TEXT) })
const whole = () => new Blob([TEXT]).stream()
const broken = () => new ReadableStream<Uint8Array>({ pull: (controller) => controller.error(new Error('reset')) })

describe('a body', () => {
  it('is read whole', async () => expect(await readAtMost(whole(), 4, 1_000)).toEqual(TEXT))
  it('may be absent', async () => expect(await readAtMost(null, 4, 1_000)).toEqual(new Uint8Array()))
  it('larger than allowed is not kept', async () => expect(await readAtMost(whole(), 3, 1_000)).toBe('too-large'))
  it('that breaks off is known as lost', async () => expect(await readAtMost(broken(), 4, 1_000)).toBe('lost'))
  it('that never ends holds no request for ever', async () => expect(await readAtMost(never(), 99, 20)).toBe('late'))
})
