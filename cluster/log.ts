// Where the commands of the cluster write what they say of themselves.
import pino, { type Logger } from 'pino'

/** JSON lines on stdout, or into a file. */
export function createLog(level: string, file?: string): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: file ?? 1, sync: true }),
  )
}

/** What an event is to a reader of the log: its level and its words. */
const TOLD = {
  models: ['info', 'endpoint lists its models'],
  ejected: ['warn', 'endpoint gets no new request until a probe succeeds'],
  recovered: ['info', 'endpoint is back'],
  'kv-source': ['info', 'follows KV events'],
  'kv-stream': ['info', 'KV event stream'],
  'kv-fault': ['warn', 'KV events that cannot be read'],
  'kv-none': ['info', 'no KV events: what this endpoint has cached is not known'],
  'kv-inaccurate': ['warn', 'cached tokens are predicted wrongly again and again; `warmpath doctor kv` finds out why'],
  'kv-accurate': ['info', 'cached tokens are predicted rightly again'],
  'kv-shedding': [
    'warn',
    'the KV index is full: blocks of this endpoint are not taken in, and it counts as incomplete',
  ],
  'kv-room-again': ['info', 'the KV index takes this endpoint’s blocks again'],
  'kv-bound-source': ['info', 'a pod dials with its KV events'],
  'kv-bound-silent': ['warn', 'a pod that dials has gone silent; its blocks are forgotten'],
  'kv-bound-fault': ['warn', 'KV events that were dropped'],
  'kv-snapshot-loaded': ['info', 'the index of another replica was taken over'],
  'kv-snapshot-lost': ['warn', 'the index of another replica could not be taken over whole'],
  'kv-manager-answers': ['info', 'the KV-Cache Manager is asked what pods hold'],
  'kv-manager-lost': ['warn', 'the KV-Cache Manager does not answer; the index in this process stands in'],
  'load-monitor-answers': ['info', 'the load monitor tells the pods’ load'],
  'load-monitor-lost': ['warn', 'the load monitor does not answer; the router scrapes the pods itself'],
  'redis-answers': ['info', 'Redis answers: stored answers are shared'],
  'redis-refuses-saves': ['warn', 'Redis answers, and refuses to save'],
  'redis-takes-saves': ['info', 'Redis saves again'],
  'redis-lost': ['warn', 'Redis does not answer; answers are stored in this process alone'],
  'tokenizer-loaded': ['info', 'a model’s tokenizer was read'],
  'tokenizer-unusable': ['warn', 'a model’s tokenizer cannot be used; the engines are asked for token ids'],
  'tokenizer-agrees': ['info', 'the tokenizer here and the engine agree'],
  'tokenizer-differs': ['warn', 'the tokenizer here and the engine do not agree; the engines are asked for token ids'],
  'tokenizer-unverified': ['warn', 'the engine did not tell whether it agrees with the tokenizer here'],
  'stand-ins-differ': [
    'warn',
    'a prompt came out otherwise when it was read in parts; prompts are read whole from now on',
  ],
  'encoder-fault': ['warn', 'the thread that tokenises ended; it is started again'],
  'load-monitor-lacks': ['info', 'the load monitor has no fresh word of these; the router scrapes them itself'],
} as const satisfies Record<string, readonly ['info' | 'warn', string]>

export function tell(log: Logger, event: { readonly type: string }): void {
  const [level, words] = TOLD[event.type as keyof typeof TOLD] ?? ['info', event.type]
  log[level](event, words)
}
