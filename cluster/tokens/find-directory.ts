// Where a model's tokenizer lies: as configured, or below a directory where models are mounted, under the name that its
// engine gives it or as the Hugging Face hub lays out its cache.
import { existsSync, readdirSync } from 'node:fs'
import { basename, isAbsolute, join, relative } from 'node:path'

export type TokenizerDirectories = {
  /** Without a model: for all that have none of their own. */
  readonly named: readonly { readonly model?: string | undefined; readonly directory: string }[]
  readonly modelsDirectory: string | undefined
}

/** What an engine says of a model: its name, and the path or hub name that it was started with. */
export type ModelCard = { readonly id: string; readonly root?: string | null | undefined }

/** The directory that holds a model's `tokenizer.json`; undefined when none is known. Reads directories: remember it. */
export function findTokenizerDirectory(
  { named, modelsDirectory }: TokenizerDirectories,
  { id, root }: ModelCard,
): string | undefined {
  const own = named.find(({ model }) => model === id) ?? named.find(({ model }) => model === undefined)
  if (own !== undefined) return own.directory
  if (modelsDirectory === undefined) return undefined
  const names = [root, id].filter((name) => typeof name === 'string' && name !== '') as string[]
  const candidates = names.flatMap((name) => [
    ...(isAbsolute(name) ? [name] : [join(modelsDirectory, name)]),
    join(modelsDirectory, basename(name)),
    ...hubSnapshots(modelsDirectory, name),
  ])
  return candidates.find((path) => isBelow(modelsDirectory, path) && existsSync(join(path, 'tokenizer.json')))
}

/** `models--ORG--NAME/snapshots/REVISION`, the newest name last. */
function hubSnapshots(directory: string, name: string): string[] {
  if (!/^[\w.-]+\/[\w.-]+$/.test(name)) return []
  const snapshots = join(directory, `models--${name.replace('/', '--')}`, 'snapshots')
  try {
    return readdirSync(snapshots)
      .sort()
      .map((revision) => join(snapshots, revision))
  } catch {
    return []
  }
}

/** An engine's word leads nowhere else. */
function isBelow(directory: string, path: string): boolean {
  const way = relative(directory, path)
  return way !== '..' && !way.startsWith('../') && !isAbsolute(way)
}
