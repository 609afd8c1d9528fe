// Reads the configuration file again when it has changed. A bad file keeps what was read before, and says where it is
// wrong. The content is compared, not a time stamp: Kubernetes swaps the links of a mounted ConfigMap. It counts once two
// looks have found the same: a file that is being written is empty for a moment, and an empty one may be valid.
import { readFile } from 'node:fs/promises'

const INTERVAL_MS = 1_000
/** A file that is being replaced is away for a moment. */
const MISSED_LOOKS_MAX = 3

export type ConfigWatch = { readonly close: () => void }

/**
 * @param changed is given the content at first and every other one later; it throws when that is wrong.
 * @param refused is told why, once; and once when the file cannot be read any more.
 */
export function watchConfig(
  file: string,
  changed: (text: string) => void,
  refused: (message: string) => void,
  intervalMs = INTERVAL_MS,
): ConfigWatch {
  let seen: string | undefined
  let lastLook: string | undefined
  let missed = 0
  let closed = false
  let timer: NodeJS.Timeout | undefined

  async function look(): Promise<void> {
    let text: string | undefined
    try {
      text = await readFile(file, 'utf8')
      missed = 0
    } catch (error) {
      if (!closed && ++missed === MISSED_LOOKS_MAX) {
        // Whatever it holds when it is back is news.
        seen = undefined
        refused(`${file} cannot be read: ${(error as NodeJS.ErrnoException).code}`)
      }
    }
    if (closed) return
    const settled = text === lastLook
    lastLook = text
    if (text !== undefined && text !== seen && settled) {
      seen = text
      try {
        changed(text)
      } catch (error) {
        refused((error as Error).message)
      }
    }
    timer = setTimeout(() => void look(), intervalMs)
  }
  void look()

  return {
    close() {
      closed = true
      clearTimeout(timer)
    },
  }
}
