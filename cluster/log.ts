// Where the commands of the cluster write what they say of themselves.
import pino, { type Logger } from 'pino'

/** JSON lines on stdout, or into a file. */
export function createLog(level: string, file?: string): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: file ?? 1, sync: true }),
  )
}
