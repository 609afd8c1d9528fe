// Ways in which a pod can fail that its callers must survive, by the names that code, flags and the fault door share.
import * as v from 'valibot'
import { UserError } from '../user-error.ts'

export type Faults = {
  readonly hang?: boolean
  readonly slowFactor?: number
  readonly engineDead?: boolean
  readonly dead?: boolean
  readonly slowStartSeconds?: number
  readonly refuseStatus?: number
  readonly resetConnections?: boolean
  readonly dieAfterTokens?: number
  readonly errorAfterTokens?: number
  readonly dropEventsShare?: number
  readonly corruptEventsShare?: number
  readonly noReplay?: boolean
  readonly staleMetrics?: boolean
  readonly noMetrics?: boolean
}

/** Those that a running pod lives through: dying and coming back is its keeper's. */
export type LivingFaults = Omit<Faults, 'dead' | 'slowStartSeconds'>

type Kind = 'on' | 'factor' | 'status' | 'tokens' | 'share' | 'seconds'

/** What a value may be, how a flag names it, and what stands for it where a flag gives none. */
const KINDS = {
  on: { schema: v.boolean(), expected: 'true or false', value: '', bare: true },
  factor: {
    schema: numberFrom(0.01, 10_000),
    expected: 'a number from 0.01 to 10000',
    value: '=FACTOR',
    bare: undefined,
  },
  status: { schema: wholeFrom(400, 599), expected: 'a whole number from 400 to 599', value: '=STATUS', bare: 503 },
  tokens: { schema: wholeFrom(0, 1e9), expected: 'a whole number from 0 on', value: '=TOKENS', bare: 0 },
  share: { schema: numberFrom(0, 1), expected: 'a number from 0 to 1', value: '[=SHARE]', bare: 1 },
  seconds: { schema: numberFrom(0, 86_400), expected: 'a number from 0 to 86400', value: '=SECONDS', bare: undefined },
} as const satisfies Record<Kind, object>

const FAULTS = {
  hang: ['on', 'healthy to look at, but no step makes progress'],
  slowFactor: ['factor', 'each step takes so many times as long'],
  engineDead: ['on', '/health is 503, what is in flight and what comes fails with 500'],
  dead: [
    'on',
    'as after SIGKILL: port closed, connections cut, no events; when it ends the pod starts anew, with an empty cache',
  ],
  slowStartSeconds: ['seconds', 'from its next start on the port stays closed so long'],
  refuseStatus: ['status', 'every generation is refused; 503 in the words of a full queue'],
  resetConnections: ['on', 'connections are accepted and reset'],
  dieAfterTokens: ['tokens', 'the connection of an answer is cut after so many of its tokens'],
  errorAfterTokens: ['tokens', 'the engine fails an answer after so many of its tokens'],
  dropEventsShare: ['share', 'of KV events: numbered and kept, but not sent; a subscriber sees a gap'],
  corruptEventsShare: ['share', 'of KV events: sent with a payload that is cut or altered'],
  noReplay: ['on', 'who asks for events again gets no answer'],
  staleMetrics: ['on', '/metrics stays as it was'],
  noMetrics: ['on', '/metrics has no vllm: series'],
} as const satisfies Record<keyof Faults, readonly [Kind, string]>

export type FaultName = keyof Faults

export const FAULT_NAMES = Object.keys(FAULTS) as readonly FaultName[]

/** What they are for people: a line each. */
export function describeFaults(): string {
  const rows = FAULT_NAMES.map((name) => {
    const [kind, help] = FAULTS[name]
    return [`${flagOf(name)}${KINDS[kind].value}`, help] as const
  })
  const width = Math.max(...rows.map(([left]) => left.length))
  return rows.map(([left, help]) => `  ${left.padEnd(width)}  ${help}`).join('\n')
}

/** Faults of JSON, by their names; a fault that is false or null is not set. Throws a UserError that names the first mistake. */
export function parseFaults(given: unknown): Faults {
  if (typeof given !== 'object' || given === null || Array.isArray(given)) {
    throw new UserError('faults: expected an object like {"hang": true}')
  }
  const faults: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(FAULTS, name))
      throw new UserError(`there is no fault ${name}; there are ${FAULT_NAMES.join(', ')}`)
    if (value === false || value === null) continue
    const { schema, expected } = KINDS[FAULTS[name as FaultName][0]]
    if (!v.is(schema, value)) throw new UserError(`${name}: expected ${expected}, got ${JSON.stringify(value)}`)
    faults[name] = value
  }
  return faults
}

/** Faults of flags, each `name` or `name=value` with the name as flags are written. Throws a UserError. */
export function faultsOfFlags(flags: readonly string[]): Faults {
  const faults: Record<string, unknown> = {}
  for (const flag of flags) {
    const [, wanted = '', value] = /^([^=]*)(?:=(.*))?$/s.exec(flag) ?? []
    const name = FAULT_NAMES.find((one) => flagOf(one) === wanted)
    if (name === undefined) {
      throw new UserError(`--fault ${flag}: there is no such fault; there are ${FAULT_NAMES.map(flagOf).join(', ')}`)
    }
    const { expected, bare } = KINDS[FAULTS[name][0]]
    const parsed =
      value === undefined ? bare : value === 'true' ? true : value.trim() === '' ? undefined : Number(value)
    try {
      Object.assign(faults, parseFaults({ [name]: parsed ?? value ?? '' }))
    } catch {
      throw new UserError(`--fault ${flag}: expected ${wanted}=VALUE with ${expected}`)
    }
  }
  return faults
}

function flagOf(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}

function numberFrom(least: number, most: number) {
  return v.pipe(v.number(), v.minValue(least), v.maxValue(most))
}

function wholeFrom(least: number, most: number) {
  return v.pipe(v.number(), v.integer(), v.minValue(least), v.maxValue(most))
}
