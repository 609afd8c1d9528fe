// A process that publishes steps of KV events over a PUB on loopback, each with the time at which it was handed over.
import { Publisher } from 'zeromq'
import { hashesOf, promptOf } from './kv-prompts.ts'
import { chainOf, nowSeconds, SENT_AT, type Steps } from './kv-steps.ts'
import { EventWriter } from './kv-writer.ts'

const { frames, blocks, spacingMs, heldFrames } = JSON.parse(process.argv[2] ?? '') as Steps
// Written before the first is sent: the machine is to be idle in between.
const payloads = Array.from({ length: frames }, (_, frame) => {
  const evicted = frame < heldFrames ? 0 : blocks
  const writer = new EventWriter(evicted + 1)
  for (let block = evicted - 1; block >= 0; block--) {
    writer.removed(hashesOf(chainOf(frame - heldFrames), block, block + 1))
  }
  writer.stored(hashesOf(chainOf(frame), 0, blocks), undefined, promptOf(chainOf(frame), blocks).subarray(0, -1))
  return writer.payload()
})
const socket = new Publisher({ linger: 0 })
await socket.bind('tcp://127.0.0.1:0')
process.send?.(socket.lastEndpoint)
await new Promise((resolve) => process.once('message', resolve))
for (const [frame, payload] of payloads.entries()) {
  await new Promise((resolve) => setTimeout(resolve, spacingMs))
  const seq = Buffer.alloc(8)
  seq.writeUInt32BE(frame, 4)
  payload.writeDoubleBE(nowSeconds(), SENT_AT)
  await socket.send(['kv@pod', seq, payload])
}
process.once('message', () => process.exit())
