// What a router and a KV-Cache Manager both know of prompts: their token ids, and what each pod's cache holds of them. Wires
// the tokenizer and the index to the endpoints, and follows those as they come, change and go.
import { askEngine } from '../endpoints/ask.ts'
import type { Connections } from '../endpoints/connections.ts'
import type { EndpointId } from '../endpoints/endpoint.ts'
import type { MonitorEvent } from '../endpoints/monitor.ts'
import type { EndpointSet } from '../endpoints/set.ts'
import { type Caches, type CachesEvent, startCaches } from '../kv/caches.ts'
import type { CacheListener } from '../kv/event-feed.ts'
import { PROMPT_WORKER } from '../prompts/prompt.ts'
import { createEngineTokenizer } from '../tokens/engine-tokenizer.ts'
import { findTokenizerDirectory, type TokenizerDirectories } from '../tokens/find-directory.ts'
import { createRouterTokenizer, type RouterTokenizer, type TokenizerEvent } from '../tokens/router-tokenizer.ts'

export type KnowledgeConfig = {
  readonly tokenizers: TokenizerDirectories
  readonly kv: KvConfig
}

export type KvConfig = {
  /** Where pods dial with their events, like `tcp://*:5555`. */
  readonly bind: string | undefined
  /** Of pods that dial and have gone silent. */
  readonly cacheTtlSeconds: number
  /** A replica to load the index from at the start. */
  readonly snapshotFrom: string | undefined
}

export type KnowledgeDeps = {
  readonly connections: Connections
  readonly endpoints: EndpointSet
  readonly nowMs: () => number
  readonly epochMs: () => number
  /** Longest wait for a prompt's token ids. */
  readonly budgetMs: () => number
  readonly listener?: CacheListener
  readonly onEvent: (event: CachesEvent | TokenizerEvent) => void
}

export type PromptKnowledge = {
  readonly tokenizer: RouterTokenizer
  readonly caches: Caches
  /** Looks for the events of every endpoint that has said what it serves. */
  readonly follow: () => Promise<void>
  /** Takes note of what the monitor has seen. */
  readonly heard: (event: MonitorEvent) => void
  readonly forget: (id: EndpointId) => void
  readonly adapterOf: (model: string) => string | undefined
  readonly close: () => Promise<void>
}

/** 128 k token ids are a megabyte of JSON. */
const TOKENS_BYTES_MAX = 32 * 1024 * 1024
/** For a probe of a few hundred tokens. */
const PROBE_TIMEOUT_MS = 10_000
const SOURCES_BYTES_MAX = 64 * 1024
const SOURCES_TIMEOUT_MS = 2_000

/** Rejects with a UserError when the address for events cannot be bound. */
export async function startPromptKnowledge(config: KnowledgeConfig, deps: KnowledgeDeps): Promise<PromptKnowledge> {
  const { connections, endpoints, nowMs, budgetMs, onEvent } = deps
  const askTokenize = (to: EndpointId, body: Buffer, timeoutMs: number) =>
    askEngine(connections, to, { path: '/tokenize', body }, { timeoutMs, bytesMax: TOKENS_BYTES_MAX })
  const sourcesLimits = { timeoutMs: SOURCES_TIMEOUT_MS, bytesMax: SOURCES_BYTES_MAX }
  const caches = await startCaches({
    ...config.kv,
    askSources: (id) => askEngine(connections, id, { path: '/kv_event_sources' }, sourcesLimits),
    lives: (id) => endpoints.ids().includes(id) && endpoints.answered(id) && endpoints.ejected(id) === undefined,
    nowMs,
    epochMs: deps.epochMs,
    ...(deps.listener && { listener: deps.listener }),
    onEvent,
  })
  const directories = tokenizerFinder(config, endpoints)
  const tokenizer = createRouterTokenizer({
    worker: PROMPT_WORKER,
    directoryOf: directories.directoryOf,
    baseOf: (model) => adapterOf(endpoints, model) ?? model,
    engine: createEngineTokenizer({
      askable: (model) => askableAbout(endpoints, model),
      ask: askTokenize,
      nowMs,
      budgetMs,
    }),
    ask: (to, body) => askTokenize(to, body, PROBE_TIMEOUT_MS),
    nowMs,
    random: Math.random,
    budgetMs,
    onEvent,
  })

  async function follow(): Promise<void> {
    const views = endpoints.snapshot()
    await Promise.all(views.map(({ endpoint, baseModel }) => baseModel && caches.follow(endpoint, baseModel)))
  }

  return {
    tokenizer,
    caches,
    follow,
    heard(event) {
      const view = endpoints.snapshot().find(({ endpoint }) => endpoint.id === event.endpoint)
      if (view === undefined) return
      if (event.type === 'ejected') {
        // Its memory is gone with it.
        if (view.availability.state === 'ejected' && view.availability.gone) caches.watch.restart(event.endpoint)
        return
      }
      if (event.type === 'models') {
        directories.lookAgain()
        void follow()
      }
      // After a restart it may have another template.
      if (view.baseModel !== undefined) void tokenizer.verify(event.endpoint, view.baseModel)
    },
    forget(id) {
      caches.watch.unfollow(id)
      tokenizer.forget(id)
    },
    adapterOf: (model) => adapterOf(endpoints, model),
    async close() {
      await Promise.all([caches.close(), tokenizer.close()])
    },
  }
}

type DirectoryFinder = { readonly directoryOf: (model: string) => string | undefined; readonly lookAgain: () => void }

/** Looked for once for each model, until an engine says something else of its models. */
function tokenizerFinder({ tokenizers }: KnowledgeConfig, endpoints: EndpointSet): DirectoryFinder {
  const found = new Map<string, string | undefined>()
  return {
    directoryOf(model) {
      if (found.has(model)) return found.get(model)
      const card = endpoints.modelList().find(({ id }) => id === model)
      if (card === undefined) return undefined
      const { root } = card
      const directory = findTokenizerDirectory(tokenizers, {
        id: model,
        root: typeof root === 'string' ? root : undefined,
      })
      found.set(model, directory)
      return directory
    },
    lookAgain: () => found.clear(),
  }
}

/** The base model of an adapter; undefined for what is none. */
function adapterOf(endpoints: EndpointSet, model: string): string | undefined {
  const view = endpoints.snapshot().find(({ models }) => models?.includes(model))
  return view?.adapters.includes(model) ? view.baseModel : undefined
}

/** Those first that are heard of, then the least busy: what is stale may be frozen, and looks idle. */
function askableAbout(endpoints: EndpointSet, model: string): readonly EndpointId[] {
  return endpoints
    .snapshot()
    .filter(({ models, availability }) => availability.state === 'available' && models?.includes(model))
    .sort((a, b) => Number(a.load.stale) - Number(b.load.stale) || a.load.activeRequests - b.load.activeRequests)
    .map(({ endpoint }) => endpoint.id)
}
