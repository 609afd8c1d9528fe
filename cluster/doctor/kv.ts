// Finds out why KV-aware routing goes wrong with one engine: asks it what a router asks, sends it prompts that nobody has sent
// before, and compares what it announces and reports with what the index and the tokenizer make of it.
import { randomBytes, randomInt } from 'node:crypto'
import { readTopic } from '../kv/bound-publishers.ts'
import { type EventSource, readEventSources, sourceOfConfiguration } from '../kv/sources.ts'
import type { RouterTokenizer } from '../tokens/router-tokenizer.ts'
import { type Finding, fault, note, ok } from './finding.ts'
import { type Answer, createEngine, type Engine, type Listener, listenTo, PROBE_TOKENS_MAX } from './kv-engine.ts'
import { kvEventsFlag, PREFIX_CACHING_FLAG, SCALE_OUT_FLAG, TOKEN_DETAILS_FLAG } from './kv-flags.ts'

export type KvDoctorOptions = {
  /** Scheme and authority of the engine. */
  readonly origin: string
  readonly apiKey?: string | undefined
  /** Without it the first that is no adapter. */
  readonly model?: string | undefined
  /** Where it publishes, when it does not say so itself: `tcp://host:port`. */
  readonly events?: string | undefined
  readonly replay?: string | undefined
  /** Compares the tokenizer in a directory with this engine's; undefined when none is given. */
  readonly compareTokenizer?: ((model: string) => Promise<Finding>) | undefined
  /** Told of each finding as it is made. */
  readonly onFinding: (finding: Finding) => void
}

/** Whole blocks of a probe: enough for a chain. */
const PROBE_BLOCKS = 4
const BLOCK_TOKENS_DEFAULT = 128
/** Ids that every vocabulary has, and that are no special ones. */
const ID_MIN = 1_000
const ID_MAX = 30_000

/** Never rejects. In the order in which they were made; ends early where nothing more can be found out. */
export async function examineKv(options: KvDoctorOptions): Promise<readonly Finding[]> {
  const findings: Finding[] = []
  const tell = (finding: Finding): Finding => {
    findings.push(finding)
    options.onFinding(finding)
    return finding
  }
  const engine = createEngine(options.origin, options.apiKey)
  const model = await findModel(engine, options, tell)
  if (model === undefined) return findings
  const config = await findCacheConfig(engine, tell)
  if (options.compareTokenizer) tell(await options.compareTokenizer(model))
  tell(await examineRender(engine, model))
  const source = await findSource(engine, model, options, tell)
  if (source === undefined) return findings
  const listener = listenTo(source)
  try {
    await examineStream(engine, model, source, listener, config, tell)
  } finally {
    await listener.close()
  }
  return findings
}

type Tell = (finding: Finding) => Finding

async function findModel(engine: Engine, options: KvDoctorOptions, tell: Tell): Promise<string | undefined> {
  const [models, version] = await Promise.all([engine.ask('/v1/models'), engine.ask('/version')])
  if (models.status === 0) {
    tell(
      fault(
        'engine',
        `${options.origin} does not answer: ${models.text}`,
        'check the address, and that the engine runs',
      ),
    )
    return undefined
  }
  if (models.status === 401 || models.status === 403) {
    tell(
      fault(
        'engine',
        `it wants an API key (${models.status})`,
        'give the doctor --api-key, and the router apiKey for this endpoint',
      ),
    )
    return undefined
  }
  const cards: readonly { readonly id?: string; readonly parent?: string | null }[] = models.json?.data ?? []
  const names = cards.flatMap(({ id, parent }) => (typeof id === 'string' && !parent ? [id] : []))
  const [first] = names
  const model = options.model ?? first
  if (model === undefined || (options.model !== undefined && !cards.some(({ id }) => id === options.model))) {
    tell(
      fault(
        'engine',
        `it does not serve ${options.model ?? 'any model'}: /v1/models lists ${names.join(', ') || 'none'}`,
      ),
    )
    return undefined
  }
  tell(ok('engine', `vLLM ${version.json?.version ?? 'of a version that it does not tell'}, model ${model}`))
  return model
}

type CacheConfig = { readonly blockSizeTokens: number | undefined }

async function findCacheConfig(engine: Engine, tell: Tell): Promise<CacheConfig> {
  const { status, text } = await engine.ask('/metrics')
  const labels = /^vllm:cache_config_info\{(.*)\} /m.exec(text)?.[1] ?? ''
  const label = (name: string): string | undefined => new RegExp(`(?:^|,)${name}="([^"]*)"`).exec(labels)?.[1]
  const blockSize = Number(label('block_size'))
  const blockSizeTokens = Number.isInteger(blockSize) && blockSize > 0 ? blockSize : undefined
  if (status !== 200 || labels === '') {
    tell(note('prefix cache', `/metrics (${status}) does not tell how its cache is configured`))
  } else if (label('enable_prefix_caching') === 'False') {
    tell(fault('prefix cache', 'it is off: nothing is ever reused, and no events are sent', PREFIX_CACHING_FLAG))
  } else {
    tell(
      ok(
        'prefix cache',
        `on, ${blockSizeTokens ?? 'unknown'} tokens a block, ${label('num_gpu_blocks') ?? 'an unknown number of'} blocks`,
      ),
    )
  }
  return { blockSizeTokens }
}

async function examineRender(engine: Engine, model: string): Promise<Finding> {
  const { status } = await engine.ask('/v1/chat/completions/render', {
    model,
    messages: [{ role: 'user', content: 'Hi' }],
  })
  if (status === 200) return ok('render', 'the engine renders prompts for others')
  if (status === 403) {
    return note(
      'render',
      'switched off; the router does not need it: it reads prompts itself, or asks /tokenize',
      SCALE_OUT_FLAG,
    )
  }
  return note('render', `it answers ${status} to /v1/chat/completions/render`)
}

async function findSource(
  engine: Engine,
  model: string,
  options: KvDoctorOptions,
  tell: Tell,
): Promise<EventSource | undefined> {
  const { status, json } = await engine.ask('/kv_event_sources')
  if (options.events !== undefined) {
    tell(ok('events', `read from ${options.events}, as given`))
    return sourceOfConfiguration(options.events, options.replay, engine.host)
  }
  if (status !== 200) {
    tell(
      fault(
        'events',
        `it answers ${status} to /kv_event_sources: an older vLLM does not say where they are`,
        'give the doctor --events tcp://host:port (and --replay), and the router `events` and `replay` for this endpoint',
      ),
    )
    return undefined
  }
  const { sources, skipped } = readEventSources(json, engine.host, { allowForeignHosts: true })
  const [source] = sources
  if (source === undefined) {
    tell(fault('events', skipped.join('; ') || 'it publishes none', kvEventsFlag(model)))
    return undefined
  }
  tell(
    ok('events', `published at ${source.events}${sources.length > 1 ? `, and ${sources.length - 1} more ranks` : ''}`),
  )
  if (source.replay === undefined) {
    tell(
      fault(
        'replay',
        'none is offered: what happens before a router listens, or while it is cut off, stays unknown',
        kvEventsFlag(model),
      ),
    )
  }
  tell(examineTopic(json?.[source.rank]?.topic, model))
  return source
}

/** Only for pods that dial: those that are dialled are known by their sockets. */
function examineTopic(topic: unknown, model: string): Finding {
  const text = typeof topic === 'string' ? topic : ''
  const identity = readTopic(Buffer.from(text))
  if (identity === undefined) {
    return note(
      'topic',
      `${JSON.stringify(text)} does not say whose events they are: pods that dial (--zmq-bind) need it`,
      kvEventsFlag(model),
    )
  }
  if (identity.model !== model) {
    return fault(
      'topic',
      `it names the model ${identity.model}, and the engine serves ${model}: bound events would be another model’s`,
      kvEventsFlag(model),
    )
  }
  return ok('topic', text)
}

async function examineStream(
  engine: Engine,
  model: string,
  source: EventSource,
  listener: Listener,
  { blockSizeTokens }: CacheConfig,
  tell: Tell,
): Promise<void> {
  if (!(await listener.live())) {
    const because = listener.faults()[0] ?? `the stream is ${listener.state().state}`
    tell(
      fault(
        'stream',
        `nothing can be read from ${source.events}: ${because}`,
        'open the port to the router (NetworkPolicy, container port), and let vLLM bind tcp://*:PORT',
      ),
    )
    return
  }
  const ids = await probeIds(engine, model, blockSizeTokens)
  const complete = (tokenIds: readonly number[], more: object = {}) =>
    engine.ask('/v1/completions', { model, prompt: tokenIds, max_tokens: 1, temperature: 0, ...more })
  const first = await complete(ids)
  if (first.status !== 200) {
    tell(
      fault('stream', `it answers ${first.status} to a prompt of ${ids.length} token ids: ${first.text.slice(0, 200)}`),
    )
    return
  }
  const stored = await listener.storedFor(ids)
  if (stored === undefined) {
    const heard = listener.faults()[0]
    const because = heard === undefined ? '' : `; what came could not be read: ${heard}`
    tell(
      fault(
        'stream',
        `it computed ${ids.length} new tokens and announced none of their blocks${because}`,
        kvEventsFlag(model),
      ),
    )
    return
  }
  tell(
    ok(
      'stream',
      `blocks are announced as they are computed${listener.state().complete ? ', and none is missing' : ''}`,
    ),
  )
  if (!listener.state().complete) {
    tell(
      note(
        'history',
        'older events are gone: blocks that were stored before are not known until they are stored again',
      ),
    )
  }
  if (blockSizeTokens !== undefined && stored.blockSizeTokens !== blockSizeTokens) {
    tell(
      note(
        'block size',
        `events have ${stored.blockSizeTokens} tokens a block, the configuration says ${blockSizeTokens}: the index goes by the events`,
      ),
    )
  } else tell(ok('block size', `${stored.blockSizeTokens} tokens, in events as configured`))

  const predicted = listener.predicted(ids)
  const again = await complete(ids)
  tell(examineCached(again, predicted, ids.length))
  tell(await examineChat(engine, model, listener))
  tell(await examineSalt(complete, listener, await probeIds(engine, model, blockSizeTokens)))
}

/** Of fresh words: nobody has computed them before. Where the engine does not tokenise, any ids do. */
async function probeIds(engine: Engine, model: string, blockSizeTokens = BLOCK_TOKENS_DEFAULT): Promise<number[]> {
  const length = Math.min(PROBE_BLOCKS * blockSizeTokens + 3, PROBE_TOKENS_MAX)
  // A token is no longer than a dozen digits, whatever the vocabulary.
  const prompt = randomBytes(6 * length).toString('hex')
  const { json } = await engine.ask('/tokenize', { model, prompt })
  const tokens: unknown = json?.tokens
  if (Array.isArray(tokens) && tokens.length >= length && tokens.every(Number.isInteger)) return tokens.slice(0, length)
  return Array.from({ length }, () => randomInt(ID_MIN, ID_MAX))
}

function cachedOf({ json }: Answer): number | undefined {
  const cached = json?.usage?.prompt_tokens_details?.cached_tokens
  return typeof cached === 'number' ? cached : undefined
}

function examineCached(answer: Answer, predicted: number, promptTokens: number): Finding {
  const cached = cachedOf(answer)
  if (cached === undefined) {
    return fault('cached tokens', 'its usage does not tell them: predictions cannot be checked', TOKEN_DETAILS_FLAG)
  }
  if (cached === predicted) return ok('cached tokens', `${cached} of ${promptTokens}, as predicted`)
  const words = `it reports ${cached} of ${promptTokens}, and its events say ${predicted}`
  return fault(
    'cached tokens',
    words,
    'ask again; if it stays so, its events are not all of this engine, or not of this model',
  )
}

/** A chat as the engine renders it for /tokenize and for itself; and the tokens that its blocks are of. */
async function examineChat(engine: Engine, model: string, listener: Listener): Promise<Finding> {
  const messages = [
    { role: 'system', content: `Be brief. ${randomBytes(200).toString('hex')}` },
    { role: 'user', content: 'Rain in Köln?' },
  ]
  const tokenized = await engine.ask('/tokenize', { model, messages })
  const ids: unknown = tokenized.json?.tokens
  if (tokenized.status !== 200 || !Array.isArray(ids)) {
    return note(
      'chat',
      `it answers ${tokenized.status} to /tokenize: without --tokenizer the router does not know the tokens of chats`,
    )
  }
  const answer = await engine.ask('/v1/chat/completions', { model, messages, max_tokens: 1, temperature: 0 })
  if (answer.status !== 200) return note('chat', `it answers ${answer.status} to a chat: ${answer.text.slice(0, 200)}`)
  const counted = answer.json?.usage?.prompt_tokens
  if (counted !== ids.length) {
    return fault(
      'chat',
      `a chat has ${counted} tokens, and /tokenize says ${ids.length}: another template renders it`,
      'set the same --chat-template, and --default-chat-template-kwargs, for both; or give the router --tokenizer',
    )
  }
  const stored = await listener.storedFor(ids as number[])
  if (stored === undefined)
    return fault(
      'chat',
      'the blocks of a chat are of other tokens than /tokenize gives',
      'give the router --tokenizer with the model’s own template',
    )
  return ok('chat', `${ids.length} tokens, in /tokenize, usage and events`)
}

async function examineSalt(
  complete: (ids: readonly number[], more?: object) => Promise<Answer>,
  listener: Listener,
  ids: readonly number[],
): Promise<Finding> {
  const salt = randomBytes(8).toString('hex')
  const salted = await complete(ids, { cache_salt: salt })
  if (salted.status !== 200)
    return note('salt', `it answers ${salted.status} to a prompt with cache_salt: tenants share its cache`)
  const stored = await listener.storedFor(ids)
  if (stored?.extraKeys?.[0]?.salt !== salt) {
    return fault(
      'salt',
      'events do not tell the salt of a salted prompt: tenants’ blocks cannot be told apart',
      'use vLLM 0.12 or newer',
    )
  }
  const unsalted = cachedOf(await complete(ids))
  const predicted = listener.predicted(ids, salt)
  if (unsalted !== undefined && unsalted > 0) return fault('salt', 'a salted prompt was found again without its salt')
  return ok('salt', `a tenant’s ${predicted} tokens are its own`)
}

/** What a router's tokenizer says of itself beside this engine. */
export function tokenizerFinding(model: string, states: ReturnType<RouterTokenizer['states']>): Finding {
  const state = states.get(model)
  if (state?.state === 'exact') return ok('tokenizer', 'the one in the directory says what the engine says')
  if (state?.state === 'differs') {
    return fault(
      'tokenizer',
      `not the engine’s: ${state.because}`,
      'copy tokenizer.json, tokenizer_config.json and chat_template.jinja from the model that the engine serves',
    )
  }
  if (state?.state === 'unusable')
    return fault('tokenizer', state.because, 'give a directory with the model’s tokenizer.json')
  return note('tokenizer', 'the engine did not tell whether it agrees')
}
