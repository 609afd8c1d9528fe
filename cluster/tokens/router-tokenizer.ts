// Which tokenizer a model's prompts go to: the one in this process where it is there and every engine agrees with it, else
// an engine's own.
import type { EndpointId } from '../endpoints/endpoint.ts'
import { createEncoder } from './encoder.ts'
import { createLocalTokenizer, type LocalTokenizer } from './local-tokenizer.ts'
import { type ChatTemplates, readModelDirectory } from './model-directory.ts'
import { compareProbe, type ProbeAnswer, probesOf, type Verdict } from './probe.ts'
import { soughtTexts } from './template-source.ts'
import { loadTextTokenizer } from './text-tokenizer.ts'
import type { Prompt, Tokenize, Tokens } from './tokenizer.ts'

/** What the dialects' conversions look for in a text. */
export const SOUGHT_BY_DIALECTS = ['x-anthropic-billing-header']

/** In this thread, which has small texts alone: what it holds, the collector has to look at while streams wait. */
const WORD_CACHE_BYTES = 4 * 1024 * 1024

export type TokenizerState =
  | { readonly state: 'loading' }
  /** `unverified`: no engine has told yet whether it agrees. */
  | { readonly state: 'exact' | 'unverified' }
  /** The engine is asked for every prompt. */
  | { readonly state: 'differs' | 'unusable'; readonly because: string }

export type TokenizerEvent =
  | { readonly type: 'tokenizer-loaded'; readonly directory: string; readonly library: string | undefined }
  | { readonly type: 'tokenizer-unusable'; readonly directory: string; readonly because: string }
  | { readonly type: 'tokenizer-agrees'; readonly model: string; readonly endpoint: EndpointId }
  | {
      readonly type: 'tokenizer-differs'
      readonly model: string
      readonly endpoint: EndpointId
      readonly suspect: string
      readonly because: string
    }
  | {
      readonly type: 'tokenizer-unverified'
      readonly model: string
      readonly endpoint: EndpointId
      readonly because: string
    }
  | { readonly type: 'stand-ins-differ'; readonly directory: string }
  | { readonly type: 'encoder-fault'; readonly directory: string; readonly message: string }

export type RouterTokenizerDeps = {
  /** The program of the worker thread; see `EncoderOptions`. */
  readonly worker: URL
  /** Where a model's tokenizer is: undefined when there is none here. */
  readonly directoryOf: (model: string) => string | undefined
  /** The model that an adapter's name stands for; the name itself for all others. */
  readonly baseOf: (model: string) => string
  readonly engine: Tokenize
  /** `POST /tokenize`; undefined when it gave no answer in time. */
  readonly ask: (to: EndpointId, body: Buffer) => Promise<ProbeAnswer | undefined>
  readonly nowMs: () => number
  /** Uniform in [0, 1). */
  readonly random: () => number
  /** Longest wait for a prompt's ids. */
  readonly budgetMs: () => number
  readonly onEvent: (event: TokenizerEvent) => void
}

export type RouterTokenizer = {
  readonly tokenize: Tokenize
  /** Puts the probes for a model to an engine that says it serves it. Never rejects. */
  readonly verify: (endpoint: EndpointId, model: string) => Promise<void>
  /** What an engine said counts no more: it is gone. */
  readonly forget: (endpoint: EndpointId) => void
  /** By model; those alone that have a directory and were asked about. */
  readonly states: () => ReadonlyMap<string, TokenizerState>
  /** Prompts by who told their ids. */
  readonly counts: () => Readonly<Record<'local' | 'engine' | 'unknown', number>>
  readonly close: () => Promise<void>
}

type Loaded =
  | { readonly ok: true; readonly tokenizer: LocalTokenizer; readonly close: () => Promise<void> }
  | { readonly ok: false; readonly because: string }

type Directory = { readonly loading: Promise<Loaded>; loaded: Loaded | undefined }

export function createRouterTokenizer(deps: RouterTokenizerDeps): RouterTokenizer {
  const { onEvent } = deps
  const directories = new Map<string, Directory>()
  /** By model, then engine. */
  const verdicts = new Map<string, Map<EndpointId, Verdict>>()
  const counts = { local: 0, engine: 0, unknown: 0 }

  function directoryFor(model: string): Directory | undefined {
    const path = deps.directoryOf(deps.baseOf(model))
    if (path === undefined) return undefined
    const known = directories.get(path)
    if (known !== undefined) return known
    const directory: Directory = { loading: load(path), loaded: undefined }
    void directory.loading.then((loaded) => {
      directory.loaded = loaded
    })
    directories.set(path, directory)
    return directory
  }

  async function load(directory: string): Promise<Loaded> {
    try {
      const { tokenizer: json, config, templates } = await readModelDirectory(directory)
      const { tokenizer, notOurs } = loadTextTokenizer(json, config, WORD_CACHE_BYTES)
      const sought = soughtByAll(templates)
      const encoder = createEncoder({
        worker: deps.worker,
        directory,
        tokenizer,
        sought: sought ?? [],
        nowMs: deps.nowMs,
        onFault: (message) => onEvent({ type: 'encoder-fault', directory, message }),
      })
      onEvent({ type: 'tokenizer-loaded', directory, library: notOurs })
      const local = createLocalTokenizer({
        tokenizer,
        templates,
        standsIn: sought !== undefined && notOurs === undefined && !looksAtNeighbours(json),
        encoder,
        random: deps.random,
        onStandInsDiffer: () => onEvent({ type: 'stand-ins-differ', directory }),
      })
      return { ok: true, tokenizer: local, close: encoder.close }
    } catch (error) {
      const because = (error as Error).message
      onEvent({ type: 'tokenizer-unusable', directory, because })
      return { ok: false, because }
    }
  }

  function stateOf(model: string, directory: Directory): TokenizerState {
    const { loaded } = directory
    if (loaded === undefined) return { state: 'loading' }
    if (!loaded.ok) return { state: 'unusable', because: loaded.because }
    const said = [...(verdicts.get(deps.baseOf(model))?.values() ?? [])]
    const differing = said.find((verdict) => verdict.kind === 'differs')
    if (differing?.kind === 'differs')
      return { state: 'differs', because: `${differing.suspect}: ${differing.because}` }
    return { state: said.some(({ kind }) => kind === 'same') ? 'exact' : 'unverified' }
  }

  async function verdictOf(endpoint: EndpointId, model: string, { tokenizer }: { tokenizer: LocalTokenizer }) {
    for (const probe of probesOf(model)) {
      const [ours, theirs] = await Promise.all([tokenizer.tokenize(probe.prompt), deps.ask(endpoint, probe.body)])
      const verdict = compareProbe(probe, ours, theirs)
      if (verdict.kind !== 'same') return verdict
    }
    return { kind: 'same' } as const
  }

  async function tokenize(model: string, prompt: Prompt): Promise<Tokens> {
    if (prompt.kind === 'unknown') {
      counts.unknown++
      return { ok: false, because: prompt.because }
    }
    if (prompt.kind === 'ids') return { ok: true, ids: prompt.ids }
    const directory = directoryFor(model)
    const state = directory && stateOf(model, directory).state
    if (directory?.loaded?.ok && (state === 'exact' || state === 'unverified')) {
      const tokens = await withinBudget(directory.loaded.tokenizer.tokenize(prompt), deps.budgetMs())
      if (tokens === undefined) {
        counts.unknown++
        return { ok: false, because: 'the tokenizer of this router is behind with its work' }
      }
      if (tokens.ok) {
        counts.local++
        return tokens
      }
    }
    const tokens = await deps.engine(model, prompt)
    counts[tokens.ok ? 'engine' : 'unknown']++
    return tokens
  }

  return {
    tokenize,
    async verify(endpoint, model) {
      const base = deps.baseOf(model)
      const directory = directoryFor(base)
      if (directory === undefined) return
      const known = verdicts.get(base) ?? new Map<EndpointId, Verdict>()
      verdicts.set(base, known)
      const loaded = await directory.loading
      if (!loaded.ok) return
      const verdict = await verdictOf(endpoint, base, loaded)
      known.set(endpoint, verdict)
      if (verdict.kind === 'same') onEvent({ type: 'tokenizer-agrees', model: base, endpoint })
      else if (verdict.kind === 'unknown') {
        onEvent({ type: 'tokenizer-unverified', model: base, endpoint, because: verdict.because })
      } else {
        const { suspect, because } = verdict
        onEvent({ type: 'tokenizer-differs', model: base, endpoint, suspect, because })
      }
    },
    forget(endpoint) {
      for (const known of verdicts.values()) known.delete(endpoint)
    },
    states() {
      const models = [...verdicts.keys()]
      return new Map(
        models.flatMap((model) => {
          const directory = directoryFor(model)
          return directory === undefined ? [] : [[model, stateOf(model, directory)] as const]
        }),
      )
    },
    counts: () => counts,
    async close() {
      const loaded = await Promise.all([...directories.values()].map(({ loading }) => loading))
      await Promise.all(loaded.map((each) => each.ok && each.close()))
    },
  }
}

/** Undefined where a template looks at texts in a way that is not understood. */
function soughtByAll({ plain, withTools }: ChatTemplates): readonly string[] | undefined {
  const each = [plain, withTools].flatMap((template) => (template === undefined ? [] : [soughtTexts(template.parsed)]))
  if (each.some((sought) => sought === undefined)) return undefined
  return [...SOUGHT_BY_DIALECTS, ...each.flatMap((sought) => sought ?? [])]
}

/** Whether an added token is one only beside certain characters: a stand-in has others. */
function looksAtNeighbours(tokenizerJson: unknown): boolean {
  const { added_tokens: tokens } = tokenizerJson as { readonly added_tokens?: unknown }
  return Array.isArray(tokens) && tokens.some((token) => token?.single_word === true)
}

async function withinBudget<Value>(promise: Promise<Value>, budgetMs: number): Promise<Value | undefined> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<undefined>((resolve) => {
    timer = setTimeout(() => resolve(undefined), budgetMs)
  })
  const first = await Promise.race([promise, late])
  clearTimeout(timer)
  return first
}
