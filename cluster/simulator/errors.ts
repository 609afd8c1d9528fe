// vLLM's refusals: the bodies of its own errors, of FastAPI's validation and of Starlette's routing, which all differ.

/** An answer that is not a generation. It is a value, not an exception. */
export class ApiError {
  readonly status: number
  readonly body: unknown
  constructor(status: number, body: unknown) {
    this.status = status
    this.body = body
  }
}

/** Of schema validation, unlike vLLM's own BadRequestError. */
const VALIDATION_TYPE = 'Bad Request'

export const NOT_FOUND = new ApiError(404, { detail: 'Not Found' })
export const METHOD_NOT_ALLOWED = new ApiError(405, { detail: 'Method Not Allowed' })
/** The one body whose `error` is a string. */
export const UNAUTHORIZED = new ApiError(401, { error: 'Unauthorized' })
export const SCALE_OUT_DISABLED = openAiError(
  403,
  'PermissionDeniedError',
  'Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them.',
)
/** What an engine's failure looks like to a client, before the first byte and after it. */
export const ENGINE_FAILED = openAiError(500, 'InternalServerError', 'Internal server error')
/** The same of an engine that will not work again. */
export const ENGINE_DEAD = openAiError(
  500,
  'InternalServerError',
  'EngineCore encountered an issue. See stack trace (above) for the root cause.',
)
/** A queue limit of the server was met; load balancers try another one. */
export const QUEUE_FULL = openAiError(
  503,
  'Service Unavailable',
  'The engine is currently busy and cannot accept new requests. Please try again later or on a different instance.',
)
export const BACKLOG_FULL = openAiError(
  503,
  'Service Unavailable',
  'The engine has reached its prefill token backlog limit. Please try again later or on a different instance.',
)

/** A refusal in the shape that all but FastAPI's and Starlette's own have. */
export function openAiError(status: number, type: string, message: string, param: string | null = null): ApiError {
  return new ApiError(status, { error: { message, type, param, code: status } })
}

/** A request that was understood and refused. `value` shows how Python prints it. */
export function badRequest(message: string, param?: string, value?: string): ApiError {
  if (param === undefined) return openAiError(400, 'BadRequestError', message)
  const suffix = value === undefined ? `(parameter=${param})` : `(parameter=${param}, value=${value})`
  return openAiError(400, 'BadRequestError', `${message} ${suffix}`, param)
}

/** Without `models`, as servers of embeddings say it. */
export function modelNotFound(model: string, models?: readonly string[]): ApiError {
  if (!models) return openAiError(404, 'NotFoundError', `The model \`${model}\` does not exist.`)
  const message = `The model \`${model}\` does not exist. Valid aliases: ${models.join(', ')}.`
  return openAiError(404, 'NotFoundError', message, 'model')
}

/** Refusals of /v1/responses that name their type as OpenAI does. */
export function invalidRequest(status: number, message: string, param: string): ApiError {
  return openAiError(status, 'invalid_request_error', message, param)
}

export function responseNotFound(id: string): ApiError {
  return invalidRequest(404, `Response with id '${id}' not found.`, 'response_id')
}

/** A refusal with any status, for tests of those who call an engine. */
export function refusalWithStatus(status: number): ApiError {
  if (status === QUEUE_FULL.status) return QUEUE_FULL
  const types: Readonly<Record<number, string>> = {
    400: 'BadRequestError',
    404: 'NotFoundError',
    429: 'RateLimitError',
    500: 'InternalServerError',
    501: 'NotImplementedError',
  }
  return openAiError(status, types[status] ?? 'InternalServerError', 'The engine refuses requests at the moment.')
}

/** One finding of the schema validation in front of vLLM. */
export type Issue = {
  readonly type: string
  readonly loc: string
  readonly msg: string
  readonly input: unknown
  readonly ctx?: string
  /** What would have been right, where only some values are. */
  readonly expected?: string
  /** The context as Python prints it, where it is neither of the two. */
  readonly context?: string
}

/** Findings told of one body: each takes more room than what it was found in. */
const ISSUES_MAX = 256

/** The findings in a list's items, as long as there are not too many. `place` tells of an item's index. */
export function issuesIn(
  items: readonly unknown[],
  place: (index: number) => string,
  find: (item: unknown, loc: string) => readonly Issue[],
): readonly Issue[] {
  const issues: Issue[] = []
  for (const [index, item] of items.entries()) {
    if (issues.length >= ISSUES_MAX) break
    issues.push(...find(item, place(index)))
  }
  return issues
}

/** All findings as the one message that vLLM makes of them; `param` is the first place. */
export function validationError(issues: readonly Issue[]): ApiError {
  const lines = issues.slice(0, ISSUES_MAX).map(({ type, loc, msg, input, ctx, expected, context: printed }) => {
    const told = contextOf('error', ctx) + contextOf('expected', expected)
    const context = printed === undefined ? told : `, 'ctx': {${printed}}`
    return `  {'type': '${type}', 'loc': '${loc}', 'msg': ${pythonText(msg)}, 'input': ${pythonText(summary(input))}${context}}`
  })
  const count = `${issues.length} validation error${issues.length === 1 ? '' : 's'}`
  return openAiError(400, VALIDATION_TYPE, `${count}:\n${lines.join('\n')}`, issues[0]?.loc ?? null)
}

/** The finding that a value is none of those allowed. */
export function literalIssue(loc: string, input: unknown, allowed: readonly string[]): Issue {
  const quoted = allowed.map((one) => `'${one}'`)
  const expected = `${quoted.slice(0, -1).join(', ')} or ${quoted.at(-1)}`
  return { type: 'literal_error', loc, msg: `Input should be ${expected}`, input, expected }
}

/** The finding of a rule of vLLM's own. */
export function valueIssue(loc: string, message: string, input: unknown): Issue {
  const context = `'error': ValueError(${pythonText(message)})`
  return { type: 'value_error', loc, msg: `Value error, ${message}`, input, context }
}

/** A refusal as the Anthropic dialect words it; what schema validation finds keeps its own words there too. */
export function anthropicError({ status, body }: ApiError): ApiError {
  const { error } = body as { readonly error: { readonly type: string; readonly message: string } }
  if (error.type === VALIDATION_TYPE) return new ApiError(status, body)
  return new ApiError(status, { type: 'error', error: { type: error.type, message: error.message } })
}

function contextOf(name: string, text: string | undefined): string {
  return text === undefined ? '' : `, 'ctx': {'${name}': ${pythonText(text)}}`
}

export function unsupportedMediaType(): ApiError {
  const message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
  return openAiError(400, VALIDATION_TYPE, message)
}

function summary(input: unknown): string {
  if (input === null || input === undefined) return 'None'
  if (Array.isArray(input)) return `<list of ${input.length} items>`
  if (typeof input === 'object') return `<dict of ${Object.keys(input).length} items>`
  if (typeof input === 'boolean') return input ? 'True' : 'False'
  return String(input)
}

/** Python's repr of a string, quotes chosen as it chooses them. */
export function pythonText(text: string): string {
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'"
  const escaped = text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('\t', '\\t')
  return quote === "'" ? `'${escaped.replaceAll("'", "\\'")}'` : `"${escaped}"`
}

/** A number as Python's float prints it: a whole one keeps its point. */
export function pythonFloat(value: number): string {
  return Number.isInteger(value) && Math.abs(value) < 1e16 ? `${value}.0` : String(value)
}
