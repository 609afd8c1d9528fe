// What a process that publishes KV events is told, and where it writes when it did.

export type Steps = { readonly frames: number; readonly blocks: number; readonly spacingMs: number }

/** In a batch's payload: behind the array's head and the float's. */
export const SENT_AT = 2
