// The list of models as a caller with a limited key may see it.

/** The list less the models that are not named. What is not a list of models becomes an empty one. */
export function limitModelList(list: string, models: readonly string[]): string {
  return JSON.stringify({ object: 'list', data: entriesOf(list).filter(({ id }) => models.includes(id)) })
}

type ModelEntry = { readonly id: string }

function entriesOf(list: string): ModelEntry[] {
  try {
    const { data } = JSON.parse(list)
    return Array.isArray(data) ? data.filter((entry) => typeof entry?.id === 'string') : []
  } catch {
    return []
  }
}
