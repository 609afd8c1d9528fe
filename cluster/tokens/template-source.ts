// What a parsed chat template does with the texts of a conversation: whether it wants them in parts, and whether it looks
// into them at all.
import type { Template } from '@huggingface/jinja'

type Program = Template['parsed']

/** Any node of the parsed template: statements and expressions have a `type` and members that are nodes or lists of them. */
type Node = { readonly type: string; readonly [member: string]: unknown }

/**
 * Whether the template walks over a message's content, so that vLLM gives it a list of parts; else it gives one text.
 * (`_iter_nodes_assign_content_item`, `vllm/renderers/hf.py`, 0.32)
 */
export function takesContentParts(program: Program): boolean {
  const nodes = [...nodesOf(program)]
  const loops = nodes.filter(({ type }) => type === 'For')
  const messages = ownAndAssigned(nodes, 'messages')
  const items = new Set(
    loops.filter(({ iterable }) => messages.has(nameOf(elementsOf(iterable)))).map(({ loopvar }) => nameOf(loopvar)),
  )
  const isContent = (node: unknown): boolean => {
    const { object, member } = memberOf(elementsOf(node))
    return member === 'content' && items.has(object)
  }
  const inMacros = new Set<Node>()
  for (const macro of nodes.filter(({ type }) => type === 'Macro')) {
    const parameters = listOf(macro.args).map((arg) => nameOf(arg) || nameOf((arg as Node).key))
    const given = new Set<string>()
    for (const call of nodes) {
      if (call.type !== 'CallExpression' || nameOf(call.callee) !== nameOf(macro.name)) continue
      listOf(call.args).forEach((arg, index) => {
        if (arg.type === 'KeywordArgumentExpression') {
          if (isContent(arg.value)) given.add(nameOf(arg.key))
        } else if (isContent(arg)) given.add(parameters[index] ?? '')
      })
    }
    for (const node of nodesOf(macro)) {
      if (node.type !== 'For') continue
      inMacros.add(node)
      if (given.has(nameOf(node.iterable))) return true
    }
  }
  return loops.some((loop) => isContent(loop.iterable) || (!inMacros.has(loop) && nameOf(loop.iterable) === 'content'))
}

/** A variable and those that are set to it or to a part of its elements. */
function ownAndAssigned(nodes: readonly Node[], name: string): ReadonlySet<string> {
  const names = new Set([name])
  // A set is walked in the order in which it grows.
  for (const known of names) {
    for (const node of nodes) {
      if (node.type === 'Set' && nameOf(elementsOf(node.value)) === known) names.add(nameOf(node.assignee))
    }
  }
  names.delete('')
  return names
}

/** What is left of `x | filter`, `x is test` and `x[a:b]`: the node of x. */
function elementsOf(node: unknown): unknown {
  const { type, operand, object, property } = (node ?? {}) as Node
  if (type === 'FilterExpression' || type === 'TestExpression') return elementsOf(operand)
  if (type === 'MemberExpression' && (property as Node).type === 'SliceExpression') return elementsOf(object)
  return node
}

function memberOf(node: unknown): { readonly object: string; readonly member: string } {
  const { type, object, property } = (node ?? {}) as Node
  if (type !== 'MemberExpression') return { object: '', member: '' }
  return { object: nameOf(object), member: wordOf(property) }
}

/** Of a variable; empty for anything else. */
function nameOf(node: unknown): string {
  const { type, value } = (node ?? {}) as Node
  return type === 'Identifier' ? String(value) : ''
}

/** Of a member, by its name or in brackets. */
function wordOf(node: unknown): string {
  const { type, value } = (node ?? {}) as Node
  return type === 'Identifier' || type === 'StringLiteral' ? String(value) : ''
}

function listOf(nodes: unknown): readonly Node[] {
  return Array.isArray(nodes) ? (nodes as Node[]) : []
}

function* nodesOf(node: unknown): Generator<Node> {
  if (Array.isArray(node)) {
    for (const each of node) yield* nodesOf(each)
  } else if (node instanceof Map) {
    for (const [key, value] of node) {
      yield* nodesOf(key)
      yield* nodesOf(value)
    }
  } else if (typeof node === 'object' && node !== null && typeof (node as Node).type === 'string') {
    yield node as Node
    for (const member of Object.values(node)) yield* nodesOf(member)
  }
}

/** Methods that look for their argument in a text. */
const SEARCHES = new Set([
  'split',
  'rsplit',
  'startswith',
  'endswith',
  'replace',
  'find',
  'rfind',
  'index',
  'count',
  'partition',
  'rpartition',
  'removeprefix',
  'removesuffix',
])
/** Methods that cut characters off its ends: white space where they name none. */
const STRIPS = new Set(['strip', 'lstrip', 'rstrip'])
/** Methods of other values, and one that only joins texts. */
const HARMLESS = new Set(['items', 'keys', 'values', 'get', 'append', 'join', 'format', 'update', 'pop', 'extend'])
/** Members that hold a conversation's texts, and variables that templates put them in. */
const TEXTS = new Set([
  'content',
  'text',
  'reasoning',
  'reasoning_content',
  'output',
  'system_message',
  'system_prompt',
])
/** Filters whose outcome depends on more of a text than that it is one. */
const MEASURES = new Set([
  'length',
  'count',
  'wordcount',
  'first',
  'last',
  'list',
  'int',
  'float',
  'sort',
  'reverse',
  'hash',
])

/**
 * The texts that the template looks for in a conversation: one that holds none of them, and has no white space at its
 * ends, can be stood in for by any other such text, and the template takes the same way. Undefined where it looks at texts
 * in a way that is not understood here.
 */
export function soughtTexts(program: Program): readonly string[] | undefined {
  const sought = new Set<string>()
  // What looks like a character of a text is a part of a list then.
  const hasParts = takesContentParts(program)
  for (const node of nodesOf(program)) if (!isUnderstood(node, sought, hasParts)) return undefined
  return [...sought]
}

function isUnderstood(node: Node, sought: Set<string>, hasParts: boolean): boolean {
  switch (node.type) {
    case 'BinaryExpression':
      return isUnderstoodOperation(node, sought)
    case 'CallExpression': {
      const { type, computed, property } = node.callee as Node
      return type !== 'MemberExpression' || (computed !== true && isUnderstoodMethod(wordOf(property), node, sought))
    }
    case 'FilterExpression':
      return isUnderstoodFilter(node, sought)
    case 'MemberExpression':
      // A character of a text, or some of them.
      return hasParts || node.computed !== true || wordOf(node.property) !== '' || !isText(node.object)
    default:
      return true
  }
}

function isUnderstoodOperation({ operator, left, right }: Node, sought: Set<string>): boolean {
  const { value } = operator as { readonly value: string }
  if (value !== 'in' && value !== 'not in') return true
  const { type, value: words } = left as Node
  if (type === 'StringLiteral') return seek(sought, words)
  // Whether it is one of several: no long text is.
  const list = (right as Node).type
  return list === 'ArrayLiteral' || list === 'TupleLiteral' || !isText(left)
}

function isUnderstoodMethod(name: string, { args }: Node, sought: Set<string>): boolean {
  if (HARMLESS.has(name)) return true
  const words = listOf(args)
  if (!words.every(({ type }) => type === 'StringLiteral' || type === 'IntegerLiteral')) return false
  const texts = words.filter(({ type }) => type === 'StringLiteral')
  if (STRIPS.has(name)) return texts.every(({ value }) => String(value).trim() === '')
  return SEARCHES.has(name) && texts.length > 0 && seek(sought, texts[0]?.value)
}

function isUnderstoodFilter({ filter, operand }: Node, sought: Set<string>): boolean {
  const { type, value, callee, args } = filter as Node
  const name = type === 'CallExpression' ? nameOf(callee) : String(value)
  if (MEASURES.has(name)) return !isText(operand)
  if (name === 'replace') {
    const [first] = listOf(args)
    return first?.type === 'StringLiteral' && seek(sought, first.value)
  }
  return true
}

/** White space is in every long text. */
function seek(sought: Set<string>, words: unknown): boolean {
  const text = String(words)
  if (text.trim() === '') return false
  sought.add(text)
  return true
}

/** Whether it is one of a conversation's texts, or a text made of one. */
function isText(node: unknown): boolean {
  const { type, operand, callee, property, left, right } = (node ?? {}) as Node
  switch (type) {
    case 'Identifier':
      return TEXTS.has(nameOf(node))
    case 'MemberExpression':
      return TEXTS.has(wordOf(property))
    case 'FilterExpression':
      return isText(operand)
    case 'BinaryExpression':
      return isText(left) || isText(right)
    case 'CallExpression': {
      const { type: of, object, property: method } = callee as Node
      return of === 'MemberExpression' && STRIPS.has(wordOf(method)) && isText(object)
    }
    default:
      return false
  }
}
