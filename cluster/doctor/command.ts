// The command `doctor kv`: an examination, printed as it goes on.
import { originOf } from '../config-file.ts'
import type { EndpointId } from '../endpoints/endpoint.ts'
import { isEventsAddress } from '../kv/sources.ts'
import { PROMPT_WORKER } from '../prompts/prompt.ts'
import { createRouterTokenizer } from '../tokens/router-tokenizer.ts'
import { UserError } from '../user-error.ts'
import { describeFinding, type Finding } from './finding.ts'
import { examineKv, tokenizerFinding } from './kv.ts'
import { createEngine } from './kv-engine.ts'

export type KvDoctorCommand = {
  readonly engine: string
  readonly apiKey: string | undefined
  readonly model: string | undefined
  readonly events: string | undefined
  readonly replay: string | undefined
  /** A model's directory. */
  readonly tokenizer: string | undefined
  readonly json: boolean
  readonly print: (line: string) => void
}

/** Whether no fault was found. Throws UserError at flags that are none. */
export async function runKvDoctor(command: KvDoctorCommand): Promise<boolean> {
  const { engine, apiKey, model, events, replay, tokenizer, json, print } = command
  const url = originOf(engine)
  if (!url) throw new UserError(`--engine ${engine}: expected an URL like http://10.0.0.7:8000, without a path`)
  for (const [flag, address] of [
    ['--events', events],
    ['--replay', replay],
  ] as const) {
    if (address !== undefined && !isEventsAddress(address)) {
      throw new UserError(`${flag} ${address}: expected an address like tcp://10.0.0.7:5557`)
    }
  }
  const { origin } = url
  const findings = await examineKv({
    origin,
    apiKey,
    model,
    events,
    replay,
    compareTokenizer: tokenizer === undefined ? undefined : (name) => compareTokenizer(origin, apiKey, tokenizer, name),
    onFinding: (finding) => print(json ? JSON.stringify(finding) : describeFinding(finding)),
  })
  const faults = findings.filter(({ verdict }) => verdict === 'fault').length
  if (!json) print(faults === 0 ? 'No fault found.' : `${faults} ${faults === 1 ? 'fault' : 'faults'} found.`)
  return faults === 0
}

async function compareTokenizer(
  origin: string,
  apiKey: string | undefined,
  directory: string,
  model: string,
): Promise<Finding> {
  const { ask } = createEngine(origin, apiKey)
  const tokenizer = createRouterTokenizer({
    worker: PROMPT_WORKER,
    directoryOf: () => directory,
    baseOf: (name) => name,
    engine: async () => ({ ok: false, because: 'not asked' }),
    async ask(_, body) {
      const { status, text } = await ask('/tokenize', JSON.parse(body.toString()))
      return status === 0 ? undefined : { status, body: Buffer.from(text) }
    },
    nowMs: () => performance.now(),
    random: Math.random,
    budgetMs: () => COMPARE_TIMEOUT_MS,
    onEvent: () => undefined,
  })
  try {
    await tokenizer.verify(origin as EndpointId, model)
    const states = tokenizer.states()
    return tokenizerFinding(model, states)
  } finally {
    await tokenizer.close()
  }
}

const COMPARE_TIMEOUT_MS = 30_000
