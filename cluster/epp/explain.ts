// A decision in words: the answer to "why did this request go there?".
import type { EndpointView } from '../endpoints/endpoint.ts'
import type { Candidate, ProfileRun } from '../scheduling/types.ts'
import type { CacheNote, DecisionRecord } from './decision-log.ts'

/** Plain text, a few lines, for a person at a terminal. */
export function explain(record: DecisionRecord): string {
  return [...heading(record), ...choice(record), ...journey(record)].join('\n')
}

function heading(record: DecisionRecord): string[] {
  const { id, atEpochMs, requestId, tenant, dialect, model, stream, stored } = record
  const kind = stream ? `${dialect}, streamed` : dialect
  const what = stored ? `a response that was made before is ${stored}` : `${kind}, model ${model}`
  const whose = tenant === undefined ? 'no tenant' : `tenant ${tenant}`
  return [
    `decision ${id} at ${new Date(atEpochMs).toISOString()}`,
    `request  ${requestId}: ${what}, ${whose}`,
    ...(record.cache ? [`cache    ${cache(record.cache)}`] : []),
    ...(record.run ? [`prompt   ${prompt(record)}`] : []),
  ]
}

/** Words for every outcome: a new one does not compile without. */
const CACHE_WORDS: Readonly<Record<CacheNote['outcome'], string>> = {
  memory: 'answered from this router’s memory',
  redis: 'answered from Redis',
  joined: 'answered with what an equal request was waiting for',
  miss: 'no answer stored',
  stale: 'the stored answer was too old',
  request: 'not read: the caller sent no-cache',
  off: 'switched off',
  'no-store': 'not used: the caller sent no-store',
  dialect: 'not used for this route',
  scope: 'not used: the caller sent no credentials, so its answers are nobody’s',
  sampled: 'not used: neither temperature 0 nor a seed, and no max-age asked for',
  'several-answers': 'not used: several answers or log probabilities, and no max-age asked for',
  'server-state': 'not used: the engine keeps the answer, or goes on from an earlier one',
  'server-tools': 'not used: tools that run on the server answer differently each time',
  'linked-media': 'not used: what stands behind a link may change',
  'stream-options': 'not used: the stream is to be another than the usual one',
  'not-canonical': 'not used: the body has a name twice, or text that is none',
  'model-version': 'not used: no endpoint says what this model is',
}

function cache({ outcome, ageSeconds }: CacheNote): string {
  const age = ageSeconds === undefined || outcome === 'joined' ? '' : `, ${ageSeconds} s after it was stored`
  return `${CACHE_WORDS[outcome]}${age}`
}

function prompt({ promptTokens, tokensUnknown, lookedUpBy, gatherMs }: DecisionRecord): string {
  if (tokensUnknown !== undefined) {
    return `about ${promptTokens} tokens; what pods hold of it is guessed at most: ${tokensUnknown}`
  }
  return `${promptTokens} tokens, looked up in ${milliseconds(gatherMs)}${lookedUpBy ? ` by ${lookedUpBy}` : ''}`
}

function choice(record: DecisionRecord): string[] {
  const { run, rejection, candidatesTotal, waitedMs, decideMs } = record
  const lines: string[] = []
  if (waitedMs >= 1) lines.push(`waited   ${milliseconds(waitedMs)} for a place`)
  lines.push(...session(record))
  if (record.stored && record.attempts[0]) lines.push(`chosen   ${record.attempts[0].endpoint}, which made it`)
  if (run?.chosen) {
    const scored = run.candidates.filter(({ filtered }) => !filtered).length
    const preferred = run.profile.prefersSession && run.session?.kind === 'kept'
    const by = preferred ? 'for its session' : `by ${run.profile.picker.name}`
    lines.push(
      `chosen   ${run.chosen.endpoint.id}, ${by} among ${scored} of ${candidatesTotal} endpoints, in ${milliseconds(decideMs)}`,
    )
    if (!run.candidates.some(({ view }) => view.endpoint.role === 'prefill')) lines.push(...withoutRoles(run))
  }
  if (rejection) lines.push(`refused  ${rejection.reason}: ${rejection.message}`)
  if (run) lines.push(...run.candidates.map((candidate) => describe(candidate, run)))
  const untold = candidatesTotal - (run?.candidates.length ?? 0)
  if (untold > 0) lines.push(`  and ${untold} more that scored lower or were filtered`)
  return lines
}

/** What named the session, and why it does not stay where it was. */
function session({ session: source, run }: DecisionRecord): string[] {
  if (source === undefined) return []
  const outcome = run?.session
  if (outcome === undefined) return [`session  by ${source}: not seen before, or its endpoint is gone`]
  if (outcome.kind === 'left') return [`session  by ${source}, but ${outcome.because}`]
  return [`session  by ${source}: stays with its endpoint${run?.profile.prefersSession ? '' : ', which weighed in'}`]
}

function withoutRoles({ profile }: ProfileRun): string[] {
  const byRole = profile.filters.some(({ name }) => name === 'decode' || name === 'prefill')
  return byRole ? ['roles    no endpoint is for prefill alone: the role filter keeps all'] : []
}

function describe(candidate: Candidate, run: ProfileRun): string {
  const { view, prefix, filtered, scores, total } = candidate
  const mark = view === run.chosen ? '*' : ' '
  const name = `${mark} ${view.endpoint.id}`
  if (filtered) return `${name}  filtered by ${filtered.by}: ${filtered.because}`
  const weightSum = run.profile.scorers.reduce((sum, { weight }) => sum + weight, 0)
  const terms = run.profile.scorers.map(({ name: scorer, weight }, column) => {
    const share = Number((weightSum > 0 ? weight / weightSum : 0).toFixed(3))
    return `${scorer} ${score(scores[column], run.means[column])} × ${share}`
  })
  return `${name}  ${total.toFixed(3)} = ${terms.join(' + ')}  (${prefixInWords(prefix)}, ${loadInWords(view)})`
}

/** What is not known is written as what stood in for it. */
function score(value: number | undefined, mean: number | undefined): string {
  if (value !== undefined) return value.toFixed(2)
  return mean === undefined ? 'not known, 0' : `not known, ${mean.toFixed(2)}`
}

/** Nothing to speak of. */
const CONFIDENT_FROM = 0.995

function prefixInWords(prefix: Candidate['prefix']): string {
  if (prefix === undefined) return 'cache not known'
  const { matchedTokens, gpuTokens, rank, ranks, complete } = prefix
  const { confidence = 1, approximate, comingTokens } = prefix
  const facts = [
    approximate ? `about ${matchedTokens} cached, guessed from what was sent there` : `${matchedTokens} cached`,
  ]
  if (comingTokens !== undefined) facts.push(`${comingTokens} being computed for another prompt`)
  if (confidence < CONFIDENT_FROM) facts.push(`believed ${Math.round(confidence * 100)} %`)
  if (gpuTokens < matchedTokens) facts.push(`${matchedTokens - gpuTokens} of them off the GPU`)
  if (ranks.length > 1) facts.push(`at most, by rank ${rank} of ${ranks.length}`)
  if (!complete && !approximate) facts.push('some events missing')
  return facts.join(', ')
}

function loadInWords({ load }: EndpointView): string {
  const facts = [`${load.activeRequests} active`]
  facts.push(load.queuedRequests === undefined ? 'queue not known' : `${load.queuedRequests} waiting`)
  facts.push(load.kvUsage === undefined ? 'KV usage not known' : `KV ${Math.round(load.kvUsage * 100)} %`)
  if (load.scrapeAgeMs === undefined) facts.push('never scraped')
  else facts.push(`metrics ${load.stale ? 'stale, ' : ''}${milliseconds(load.scrapeAgeMs)} old`)
  return facts.join(', ')
}

function journey(record: DecisionRecord): string[] {
  const { attempts, startedAtMs, firstByteAtMs, endedAtMs, outcome, usage, predictedCachedTokens: predicted } = record
  const lines = attempts.map(({ endpoint, outcome, startedAtMs, endedAtMs }, index) => {
    const took = endedAtMs === undefined ? '' : `, over after ${milliseconds(endedAtMs - startedAtMs)}`
    return `${index === 0 ? 'sent to ' : 'then to '} ${endpoint}: ${outcome}${took}`
  })
  if (firstByteAtMs !== undefined) lines.push(`first byte after ${milliseconds(firstByteAtMs - startedAtMs)}`)
  if (usage) {
    const actual = usage.cachedTokens === undefined ? 'cached not told' : `${usage.cachedTokens} cached`
    const cached = predicted === undefined ? actual : `${actual}, ${predicted} predicted`
    const whose = record.stored ? 'when it was made: ' : ''
    lines.push(
      `usage    ${whose}${usage.promptTokens} prompt tokens (${cached}), ${usage.completionTokens} completion tokens`,
    )
  }
  if (outcome !== undefined && endedAtMs !== undefined) {
    lines.push(`ended    ${outcome} after ${milliseconds(endedAtMs - startedAtMs)}`)
  } else if (!record.rejection) {
    lines.push('still going on')
  }
  return lines
}

function milliseconds(value: number): string {
  if (value >= 10_000) return `${(value / 1_000).toFixed(1)} s`
  return value >= 10 ? `${Math.round(value)} ms` : `${value.toFixed(value >= 1 ? 1 : 2)} ms`
}
