// Settings in YAML: read against a schema, with every error as one line that names file, line and what was expected there.
import * as v from 'valibot'
import { type Document, isNode, isScalar, LineCounter, parseDocument, visit } from 'yaml'
import { UserError } from './user-error.ts'

/** Settings that were read, and how to say where a fault of them stands. */
export type ReadSettings<T> = {
  readonly settings: T
  /** A UserError that names file, line, setting and fix. */
  readonly faultAt: (path: readonly (string | number)[], message: string) => UserError
}

/**
 * Parses the text of a YAML file; `file` only names it in errors. Where a `configMapKey` is given, the text may be a
 * ConfigMap that holds the file under that key of its data. Throws UserError.
 */
export function parseSettings<const Schema extends v.GenericSchema>(
  schema: Schema,
  text: string,
  file: string,
  configMapKey?: string,
): ReadSettings<v.InferOutput<Schema>> {
  return parseFrom(schema, text, file, configMapKey, 0)
}

/** @param linesBefore of the file, above this text. */
function parseFrom<const Schema extends v.GenericSchema>(
  schema: Schema,
  text: string,
  file: string,
  configMapKey: string | undefined,
  linesBefore: number,
): ReadSettings<v.InferOutput<Schema>> {
  const lines = new LineCounter()
  const document = parseDocument(text, { lineCounter: lines })
  const at = (line: number | undefined): string => `${file}:${(line ?? 1) + linesBefore}`
  const lineOf = (node: unknown): number | undefined => {
    const offset = isNode(node) ? node.range?.[0] : undefined
    return offset === undefined ? undefined : lines.linePos(offset).line
  }
  const [syntaxError] = document.errors
  if (syntaxError) {
    const what = firstLine(syntaxError.message).replace(/ at line \d+, column \d+:$/, '')
    throw new UserError(`${at(syntaxError.linePos?.[0].line)}: ${what}`)
  }
  let content: unknown
  try {
    content = document.toJS() ?? {}
  } catch (error) {
    throw new UserError(`${at(lineOf(unresolvedAlias(document)))}: ${firstLine((error as Error).message)}`)
  }
  if (Array.isArray(content) || typeof content !== 'object') {
    throw new UserError(`${at(1)}: the file: expected settings by name, like \`port: 8000\``)
  }
  if (configMapKey !== undefined && (content as { kind?: unknown }).kind === 'ConfigMap') {
    const inner = document.getIn(['data', configMapKey], true)
    const innerText: unknown = isScalar(inner) ? inner.value : undefined
    if (typeof innerText !== 'string') {
      throw new UserError(`${at(1)}: this ConfigMap has no \`${configMapKey}\` under data`)
    }
    // The text of a block scalar begins on the line after its `|`.
    return parseFrom(schema, innerText, file, undefined, lineOf(inner) ?? 0)
  }
  const faultAt = (path: readonly (string | number)[], message: string) => {
    // An unknown key has no value to point at: the object that holds it has.
    const node = document.getIn(path, true) ?? document.getIn(path.slice(0, -1), true)
    return new UserError(`${at(lineOf(node))}: ${pathInWords(path)}: ${message}`)
  }
  const parsed = v.safeParse(schema, content)
  if (parsed.success) return { settings: parsed.output, faultAt }
  const [issue] = parsed.issues
  throw faultAt(
    (issue.path ?? []).map((step) => step.key as string | number),
    expectation(issue),
  )
}

/** Parsing lets it pass: only a use of it fails. */
function unresolvedAlias(document: Document): unknown {
  let found: unknown
  visit(document, {
    Alias(_, alias) {
      if (alias.resolve(document) !== undefined) return undefined
      found = alias
      return visit.BREAK
    },
  })
  return found
}

function expectation(issue: v.BaseIssue<unknown>): string {
  if (issue.type === 'check' || issue.type === 'raw_check') return issue.message
  if (issue.type === 'strict_object' && issue.expected === 'never') return 'there is no such setting'
  if (issue.type === 'strict_object' && issue.received === 'undefined') return 'is missing'
  const expected = (issue.expected ?? issue.message).replaceAll(/[()"]/g, '').replaceAll(' | ', ', ')
  return `expected ${issue.type === 'picklist' ? `one of ${expected}` : expected}, got ${withoutCredentials(issue.received)}`
}

/** An URL may hold a password; the message goes to logs. */
function withoutCredentials(received: string): string {
  return received.replace(/:\/\/.*(?="$)/s, '://…')
}

function pathInWords(path: readonly (string | number)[]): string {
  if (path.length === 0) return 'the file'
  return path.map((step, depth) => (typeof step === 'number' ? `[${step}]` : depth === 0 ? step : `.${step}`)).join('')
}

function firstLine(text: string): string {
  return text.split('\n')[0] ?? text
}
