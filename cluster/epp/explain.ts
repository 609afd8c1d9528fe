// A decision in words: the answer to "why did this request go there?".
import type { EndpointView } from '../endpoints/endpoint.ts'
import type { Candidate, ProfileRun } from '../scheduling/types.ts'
import type { DecisionRecord } from './decision-log.ts'

/** Plain text, a few lines, for a person at a terminal. */
export function explain(record: DecisionRecord): string {
  return [...heading(record), ...choice(record), ...journey(record)].join('\n')
}

function heading(record: DecisionRecord): string[] {
  const { id, atEpochMs, requestId, tenant, dialect, model, stream, promptTokensEstimate } = record
  const kind = stream ? `${dialect}, streamed` : dialect
  return [
    `decision ${id} at ${new Date(atEpochMs).toISOString()}`,
    `request  ${requestId}: ${kind}, model ${model}, about ${promptTokensEstimate} prompt tokens, ${tenant === undefined ? 'no tenant' : `tenant ${tenant}`}`,
  ]
}

function choice({ run, rejection, candidatesTotal, waitedMs, decideMs }: DecisionRecord): string[] {
  const lines: string[] = []
  if (waitedMs >= 1) lines.push(`waited   ${milliseconds(waitedMs)} for a place`)
  if (run?.chosen) {
    const scored = run.candidates.filter(({ filtered }) => !filtered).length
    const { name } = run.profile.picker
    lines.push(
      `chosen   ${run.chosen.endpoint.id}, by ${name} among ${scored} of ${candidatesTotal} endpoints, in ${milliseconds(decideMs)}`,
    )
  }
  if (rejection) lines.push(`refused  ${rejection.reason}: ${rejection.message}`)
  if (run) lines.push(...run.candidates.map((candidate) => describe(candidate, run)))
  const untold = candidatesTotal - (run?.candidates.length ?? 0)
  if (untold > 0) lines.push(`  and ${untold} more that scored lower or were filtered`)
  return lines
}

function describe(candidate: Candidate, run: ProfileRun): string {
  const { view, filtered, scores, total } = candidate
  const mark = view === run.chosen ? '*' : ' '
  const name = `${mark} ${view.endpoint.id}`
  if (filtered) return `${name}  filtered by ${filtered.by}: ${filtered.because}`
  const terms = run.profile.scorers.map(({ name: scorer, weight }, column) => {
    const score = scores[column]
    return `${scorer} ${score === undefined ? 'not known' : score.toFixed(2)} × ${weight}`
  })
  return `${name}  ${total.toFixed(3)} = ${terms.join(' + ')}  (${loadInWords(view)})`
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
  const { attempts, startedAtMs, firstByteAtMs, endedAtMs, outcome, usage } = record
  const lines = attempts.map(({ endpoint, outcome, startedAtMs, endedAtMs }, index) => {
    const took = endedAtMs === undefined ? '' : `, over after ${milliseconds(endedAtMs - startedAtMs)}`
    return `${index === 0 ? 'sent to ' : 'then to '} ${endpoint}: ${outcome}${took}`
  })
  if (firstByteAtMs !== undefined) lines.push(`first byte after ${milliseconds(firstByteAtMs - startedAtMs)}`)
  if (usage) {
    const cached = usage.cachedTokens === undefined ? 'cached not told' : `${usage.cachedTokens} cached`
    lines.push(`usage    ${usage.promptTokens} prompt tokens (${cached}), ${usage.completionTokens} completion tokens`)
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
