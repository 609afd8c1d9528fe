// The steps of an engine whose cache is full, one frame each, between the process that publishes them and the one that is told.

/** Each stores so many blocks, and takes as many away again after so many further frames. */
export type Steps = {
  readonly frames: number
  readonly blocks: number
  readonly spacingMs: number
  readonly heldFrames: number
}

/** The number of a frame's prompt: none that another part of the benchmark uses. */
export function chainOf(frame: number): number {
  return 1_000_000 + frame
}

/** Of a clock that all processes of a machine share; the others' zero differs by up to milliseconds. */
export function nowSeconds(): number {
  return Number(process.hrtime.bigint()) / 1e9
}

/** In a batch's payload: behind the array's head and the float's. */
export const SENT_AT = 2
