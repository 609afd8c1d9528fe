// A model's tokenizer and chat templates from its directory: tokenizer.json, tokenizer_config.json, chat_template.jinja.
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { type ChatTemplate, createChatTemplate, type SpecialTokens } from './chat-template.ts'

/** The largest tokenizers have 35 MB. */
const FILE_BYTES_MAX = 128 * 1024 * 1024

export type ModelFiles = {
  /** `tokenizer.json`, parsed. */
  readonly tokenizer: unknown
  readonly config: TokenizerConfig
  readonly templates: ChatTemplates
}

export type ChatTemplates = {
  /** Undefined when the model has none. */
  readonly plain: ChatTemplate | undefined
  /** For conversations with tools, where the model has one of its own. */
  readonly withTools: ChatTemplate | undefined
}

export type TokenizerConfig = { readonly [member: string]: unknown }

type NamedTemplate = { readonly name: string; readonly template: string }

/** Rejects with an Error that names the file and what is wrong with it. */
export async function readModelDirectory(directory: string): Promise<ModelFiles> {
  const [tokenizer, config, jinja] = await Promise.all([
    readJson(join(directory, 'tokenizer.json')),
    readJson(join(directory, 'tokenizer_config.json')),
    readText(join(directory, 'chat_template.jinja')),
  ])
  if (tokenizer === undefined) throw new Error(`there is no ${join(directory, 'tokenizer.json')}`)
  const settings = isObject(config) ? config : {}
  return { tokenizer, config: settings, templates: templatesOf(settings, jinja, directory) }
}

function templatesOf(config: TokenizerConfig, jinja: string | undefined, directory: string): ChatTemplates {
  const { chat_template: given } = config
  const named = Array.isArray(given) ? given.filter(isNamed) : []
  const plain = jinja ?? (typeof given === 'string' ? given : named.find(({ name }) => name === 'default')?.template)
  const withTools = jinja === undefined ? named.find(({ name }) => name === 'tool_use')?.template : undefined
  const tokens = specialTokens(config)
  const parse = (source: string | undefined): ChatTemplate | undefined => {
    if (source === undefined) return undefined
    try {
      return createChatTemplate(source, tokens)
    } catch (error) {
      throw new Error(`the chat template in ${directory} cannot be read: ${(error as Error).message}`)
    }
  }
  return { plain: parse(plain), withTools: parse(withTools) }
}

function isNamed(entry: unknown): entry is NamedTemplate {
  return isObject(entry) && typeof entry.name === 'string' && typeof entry.template === 'string'
}

/** Each a text, or an object that has it. */
function specialTokens(config: TokenizerConfig): SpecialTokens {
  const tokens: Record<string, string> = {}
  for (const [name, value] of Object.entries(config)) {
    const text = isObject(value) ? value.content : value
    if (name.endsWith('_token') && typeof text === 'string') tokens[name] = text
  }
  return tokens
}

async function readJson(file: string): Promise<unknown> {
  const text = await readText(file)
  if (text === undefined) return undefined
  try {
    return JSON.parse(text)
  } catch {
    throw new Error(`${file} is not JSON: fetch the model's tokenizer again`)
  }
}

/** Undefined when there is no such file. */
async function readText(file: string): Promise<string | undefined> {
  try {
    if ((await stat(file)).size > FILE_BYTES_MAX) throw new Error(`${file} is larger than ${FILE_BYTES_MAX} bytes`)
    return await readFile(file, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
