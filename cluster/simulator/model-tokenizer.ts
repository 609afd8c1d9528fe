// A real model's tokenizer and chat template from its directory, with messages prepared as vLLM prepares them.
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { Tokenizer as HuggingFaceTokenizer } from '@huggingface/tokenizers'
import { UserError } from '../user-error.ts'
import {
  type ChatEncoding,
  type ChatMessage,
  callArguments,
  contentText,
  TemplateError,
  type Tokenizer,
} from './tokenizer.ts'

type TokenizerConfig = {
  readonly chat_template?: string | readonly { readonly name: string; readonly template: string }[]
  readonly [member: string]: unknown
}

/** What a byte-level tokenizer says for half a character. */
const INCOMPLETE = '\ufffd'

/** Reads tokenizer.json, tokenizer_config.json and chat_template.jinja. Throws an Error that names the wrong file. */
export function loadTokenizer(directory: string): Tokenizer {
  const config = readJson(join(directory, 'tokenizer_config.json')) as TokenizerConfig
  const inner = new HuggingFaceTokenizer(readJson(join(directory, 'tokenizer.json')) as object, config)
  const encode = (text: string, addSpecialTokens: boolean): number[] =>
    text === '' && !addSpecialTokens
      ? []
      : Array.from<number>(inner.encode(text, { add_special_tokens: addSpecialTokens }).ids)
  const isId = (id: number) => inner.id_to_token(id) !== undefined
  const decode = (ids: readonly number[]) => {
    // The decoders trip over an id that the vocabulary does not have.
    const known = ids.filter(isId)
    return known.length === 0
      ? ''
      : inner.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: false })
  }
  const render = createRenderer(directory, config)
  return {
    encode,
    decode,
    encodeChat: (messages, tools, options) => encode(render(messages, tools, options), options.addSpecialTokens),
    isId,
    spelling: (id) => inner.id_to_token(id) ?? '',
    endOfTextId: inner.token_to_id(specialToken(config, 'eos_token')) ?? 0,
    createDecoder: () => createDecoder(decode),
  }
}

function readJson(file: string): unknown {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch {
    throw new UserError(`cannot read ${file}: give the directory of a model's tokenizer`)
  }
  try {
    return JSON.parse(text)
  } catch {
    throw new UserError(`${file} is not JSON: fetch the model's tokenizer again`)
  }
}

/** Given as a text, or as an object that has it. */
function specialToken(config: TokenizerConfig, name: string): string {
  const token = config[name]
  if (typeof token === 'string') return token
  const content = (token as { readonly content?: unknown } | null | undefined)?.content
  return typeof content === 'string' ? content : ''
}

type Render = (messages: readonly ChatMessage[], tools: readonly unknown[] | undefined, options: ChatEncoding) => string

function createRenderer(directory: string, config: TokenizerConfig): Render {
  const source = templateSource(directory, config)
  if (source === undefined) {
    return () => {
      throw new TemplateError('The tokenizer has no chat template; use /v1/completions, or give it one.')
    }
  }
  const template = new Template(source)
  // A template that walks `content` wants its parts; any other one wants a text.
  const walksContent = /\bfor\s+\w+\s+in\s+\w+(\.content|\[\s*['"]content['"]\s*\])/.test(source)
  return (messages, tools, { addGenerationPrompt, continueFinalMessage, templateVariables }) => {
    const prepared = messages.map((message) => prepare(message, walksContent))
    let text: string
    try {
      text = template.render({
        ...Object.fromEntries(
          ['bos_token', 'eos_token', 'pad_token', 'unk_token'].map((name) => [name, specialToken(config, name)]),
        ),
        ...templateVariables,
        messages: prepared,
        tools: tools ?? null,
        add_generation_prompt: addGenerationPrompt,
      })
    } catch (error) {
      throw new TemplateError(error instanceof Error ? error.message : 'The chat template failed.')
    }
    return continueFinalMessage ? withoutEndOfTurn(text, contentText(prepared.at(-1)?.content)) : text
  }
}

function templateSource(directory: string, { chat_template: given }: TokenizerConfig): string | undefined {
  const file = join(directory, 'chat_template.jinja')
  if (existsSync(file)) return readFileSync(file, 'utf8')
  if (given === undefined || typeof given === 'string') return given
  return (given.find(({ name }) => name === 'default') ?? given[0])?.template
}

function prepare(message: ChatMessage, walksContent: boolean): ChatMessage {
  const { role, content, tool_calls: calls } = message
  return {
    ...message,
    role: role === 'developer' ? 'system' : role,
    content: walksContent && Array.isArray(content) ? content : contentText(content),
    ...(Array.isArray(calls) ? { tool_calls: calls.map(withParsedArguments) } : {}),
  }
}

/** Templates print a call's arguments as an object. */
function withParsedArguments(call: unknown): unknown {
  const called = (call as { readonly function?: { readonly arguments?: unknown } | null } | null)?.function
  if (typeof called?.arguments !== 'string') return call
  return { ...(call as object), function: { ...called, arguments: callArguments(called.arguments) } }
}

/** What the template put after the final message's text would end the turn that is to go on. */
function withoutEndOfTurn(text: string, finalText: string): string {
  const trimmed = finalText.trim()
  const at = text.lastIndexOf(trimmed)
  return at < 0 ? text : text.slice(0, at + trimmed.length)
}

/** Decodes a few tokens back, because what a token adds can depend on its neighbour, and waits for whole characters. */
function createDecoder(decode: (ids: readonly number[]) => string): (id: number) => string {
  let window: number[] = []
  let said = 0
  return (id) => {
    window.push(id)
    const text = decode(window)
    if (text.endsWith(INCOMPLETE) && window.length - said < 8) return ''
    const before = decode(window.slice(0, said))
    const added = text.slice(before.length)
    window = window.slice(said)
    said = window.length
    return added
  }
}
