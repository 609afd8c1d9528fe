// The LoRA adapters that a pod serves beside its base model, and what vLLM 0.32 says when one is loaded or unloaded.
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ApiError, openAiError } from './errors.ts'
import { parseBody } from './schema.ts'
import type { Lora } from './sequence.ts'

/** Each stands in every answer of /v1/models. vLLM has no limit of its own. */
export const ADAPTERS_MAX = 1_000

/** Paths that vLLM shows to nobody (`serve/exception_handling/utils.py`). */
const PRIVATE_PATH = /\/(?:home|usr|opt|var|tmp|root|lib|mnt|srv)(?:\/[\w.-]+)+/g

/** A change that was made, in words, or why it was not. */
export type Change = string | ApiError

export type Adapters = {
  /** Those loaded, in the order in which they came. */
  readonly list: () => readonly Lora[]
  /** Where adapters can be loaded, vLLM numbers what it is asked for and does not have. */
  readonly of: (name: string) => Lora | undefined
  /** Whether they can be loaded and unloaded while the pod runs (`VLLM_ALLOW_RUNTIME_LORA_UPDATING`). */
  readonly canChange: boolean
  /** Takes the JSON text of a request. */
  readonly load: (text: string) => Change
  readonly unload: (text: string) => Change
}

export type AdaptersConfig = {
  readonly models: readonly string[]
  /** Whether the engine can compute with adapters (`--enable-lora`); then they can be loaded and unloaded too. */
  readonly enabled: boolean
}

/** An adapter by its name and where it lies. A path must hold one; anything else is the name of one on a hub. */
export type AdapterSource = { readonly name: string; readonly path: string }

/** @param initial are loaded from the start on. */
export function createAdapters({ models, enabled }: AdaptersConfig, initial: readonly AdapterSource[]): Adapters {
  const adapters = new Map<string, Lora>()
  let lastId = 0

  for (const { name, path } of initial) adapters.set(name, { id: ++lastId, name, path })

  return {
    list: () => [...adapters.values()],
    canChange: enabled,
    of: (name) => {
      const adapter = adapters.get(name)
      if (!adapter && enabled && name !== '' && !models.includes(name)) lastId++
      return adapter
    },
    load: (text) => {
      const members = { lora_name: 'string', lora_path: 'string', load_inplace: 'boolean' } as const
      const body = parseBody(text, members, ['lora_name', 'lora_path'])
      if (body instanceof ApiError) return body
      const { lora_name: name, lora_path: path } = body as { readonly lora_name: string; readonly lora_path: string }
      if (name === '' || path === '') return wrongInput("Both 'lora_name' and 'lora_path' must be provided.")
      if (models.includes(name)) return wrongInput(`The lora adapter '${name}' conflicts with a served base model.`)
      if (adapters.has(name) && body.load_inplace !== true) {
        return wrongInput(
          `The lora adapter '${name}' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True.`,
        )
      }
      // A new name takes a number whatever comes of it; one that is loaded keeps its own.
      const id = adapters.get(name)?.id ?? ++lastId
      if (isMissing(path)) {
        const where = path.replace(PRIVATE_PATH, '<path>')
        return openAiError(404, 'NotFoundError', `Loading lora ${name} failed: No adapter found for ${where}`)
      }
      if (!adapters.has(name) && adapters.size >= ADAPTERS_MAX) {
        return wrongInput(`A simulated pod holds at most ${ADAPTERS_MAX} adapters: unload one first.`)
      }
      adapters.set(name, { id, name, path })
      return `Success: LoRA adapter '${name}' added successfully.`
    },
    unload: (text) => {
      const body = parseBody(text, { lora_name: 'string', lora_int_id: 'integer' }, ['lora_name'])
      if (body instanceof ApiError) return body
      const name = body.lora_name as string
      if (name === '') return wrongInput("'lora_name' needs to be provided to unload a LoRA adapter.")
      if (!adapters.delete(name)) {
        return openAiError(404, 'NotFoundError', `The lora adapter '${name}' cannot be found.`)
      }
      return `Success: LoRA adapter '${name}' removed successfully.`
    },
  }
}

/** Whether a path is that of a folder on this machine, and no adapter is there. */
export function isMissing(path: string): boolean {
  return /^(\/|\.\.?\/|~)/.test(path) && !existsSync(join(path, 'adapter_config.json'))
}

function wrongInput(message: string): ApiError {
  return openAiError(400, 'InvalidUserInput', message)
}
