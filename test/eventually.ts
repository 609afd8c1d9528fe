// Waiting for what another process or loop does in its own time.

const WITHIN_MS = 10_000
const LOOK_EVERY_MS = 50

/** What was seen when it fits; throws with the last when none does in time. */
export async function eventually<T>(look: () => Promise<T>, fits: (seen: T) => boolean): Promise<T> {
  const deadlineMs = performance.now() + WITHIN_MS
  for (;;) {
    const seen = await look()
    if (fits(seen)) return seen
    if (performance.now() > deadlineMs) throw new Error(`not within ${WITHIN_MS} ms; last: ${JSON.stringify(seen)}`)
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS))
  }
}
