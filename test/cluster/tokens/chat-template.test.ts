// What a chat template is given: a conversation as vLLM prepares it. And what is found in a template's source.
import { Template } from '@huggingface/jinja'
import { describe, expect, it } from 'vitest'
import { createChatTemplate } from '../../../cluster/tokens/chat-template.ts'
import { soughtTexts, takesContentParts } from '../../../cluster/tokens/template-source.ts'
import type { Chat, JsonObject } from '../../../cluster/tokens/tokenizer.ts'

/** Prints what it is given. */
const PRINTS = createChatTemplate('{{ messages | tojson }}|{{ tools | tojson }}|{{ extra }}|{{ bos_token }}', {
  bos_token: '<s>',
})
const PRINTS_PARTS = createChatTemplate(
  "{% for m in messages %}{% if m.role == 'user' %}{% for p in m.content %}{% endfor %}{% endif %}{% endfor %}{{ messages | tojson }}|",
  {},
)

function chatOf(messages: readonly JsonObject[], more: Partial<Chat> = {}): Chat {
  return {
    messages,
    tools: undefined,
    templateArguments: undefined,
    addGenerationPrompt: true,
    continueFinalMessage: false,
    ...more,
  }
}

function given(messages: readonly JsonObject[], template = PRINTS, more: Partial<Chat> = {}): unknown {
  const rendered = template.render(chatOf(messages, more))
  return rendered.ok ? JSON.parse(rendered.text.slice(0, rendered.text.indexOf('|'))) : rendered.because
}

const call = (args: unknown) => ({ id: 'c', type: 'function', function: { name: 'f', arguments: args } })

describe('a conversation as the template gets it', () => {
  const rows: readonly (readonly [string, JsonObject, unknown])[] = [
    ['nothing else than what templates know', { role: 'user', content: 'a', audio: 1 }, { role: 'user', content: 'a' }],
    ['no content is an empty text', { role: 'assistant', content: null }, { role: 'assistant', content: '' }],
    [
      'parts are joined line by line',
      { role: 'user', content: ['a', { type: 'text', text: 'b' }] },
      { role: 'user', content: 'a\nb' },
    ],
    [
      'the arguments of a call are an object',
      { role: 'assistant', content: 'x', tool_calls: [call('{"a": [1, 0.5]}')] },
      { role: 'assistant', content: 'x', tool_calls: [call({ a: [1, 0.5] })] },
    ],
    [
      'what is no object is an empty one',
      { role: 'assistant', content: 'x', tool_calls: [call('[1]'), call('{'), call('')] },
      { role: 'assistant', content: 'x', tool_calls: [call({}), call({}), call({})] },
    ],
    ['no calls are none', { role: 'assistant', content: 'x', tool_calls: [] }, { role: 'assistant', content: 'x' }],
    [
      'reasoning stands under both of its names',
      { role: 'assistant', content: 'x', reasoning_content: 'r' },
      { role: 'assistant', content: 'x', reasoning: 'r', reasoning_content: 'r' },
    ],
    [
      'a result keeps its call',
      { role: 'tool', tool_call_id: 'c', content: [{ type: 'text', text: 'r' }] },
      { role: 'tool', content: 'r', tool_call_id: 'c' },
    ],
    [
      'a billing line of the system is left out',
      { role: 'system', content: 'x-anthropic-billing-header: cch=1\nBe kind.' },
      { role: 'system', content: 'Be kind.' },
    ],
    [
      'a developer is the system to a template that knows none',
      { role: 'developer', content: 'd' },
      { role: 'system', content: 'd' },
    ],
  ]
  it.each(rows)('%s', (_, message, prepared) => {
    expect(given([message])).toEqual([prepared])
  })

  it('what developers say later is moved to the front', () => {
    const messages = [
      { role: 'system', content: 's' },
      { role: 'user', content: 'u' },
      { role: 'developer', content: 'd' },
    ]
    expect(given(messages)).toEqual([
      { role: 'system', content: 's\n\nd' },
      { role: 'user', content: 'u' },
    ])
  })

  it('comes in parts where the template walks over them, results of tools as text', () => {
    expect(
      given(
        [
          { role: 'user', content: 'a' },
          { role: 'tool', content: 'r' },
        ],
        PRINTS_PARTS,
      ),
    ).toEqual([
      { role: 'user', content: [{ type: 'text', text: 'a' }] },
      { role: 'tool', content: 'r' },
    ])
  })

  it('tools have the members that vLLM prints, in its order, and arguments of the request are variables', () => {
    const tools = [{ function: { parameters: { type: 'object' }, name: 'f', other: 1 } }]
    const rendered = PRINTS.render(chatOf([], { tools, templateArguments: { extra: 'more' } }))
    const printed =
      '{"type": "function", "function": {"name": "f", "description": null, "parameters": {"type": "object"}}}'
    expect(rendered).toEqual({ ok: true, text: `[]|[${printed}]|more|<s>` })
  })

  it('a message that goes on ends with its own words', () => {
    const template = createChatTemplate('{% for m in messages %}[{{ m.content | trim }}]{% endfor %}', {})
    const rendered = template.render(chatOf([{ role: 'assistant', content: 'It is ' }], { continueFinalMessage: true }))
    expect(rendered).toEqual({ ok: true, text: '[It is' })
  })

  const REFUSED: readonly (readonly [JsonObject, string])[] = [
    [{ content: 'x' }, 'a message has no role'],
    [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }, 'a part of a message is not text'],
    [{ role: 'user', content: 5 }, 'the content of a message is neither text nor a list'],
    [{ role: 'user', content: '\ufeffx' }, 'a text begins or ends with rare white space'],
    ...['{"a": 1.0}', '{"a": 1e3}', '{"a": 0.00001}', '{"1": 2}', '{"\\u0061": 2}', '{"a": 12345678901234567890}'].map(
      (args) =>
        [
          { role: 'assistant', tool_calls: [call(args)] },
          'a number or a name in the prompt would be written otherwise by the engine',
        ] as const,
    ),
  ]
  it.each(REFUSED)('is left to the engine where it would be guessed: %j', (message, because) => {
    expect(given([message])).toBe(because)
  })

  it('says what the template itself objects to', () => {
    const template = createChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    expect(template.render(chatOf([]))).toEqual({ ok: false, because: 'the chat template: roles must alternate' })
  })
})

describe('whether a template wants texts in parts', () => {
  const rows: readonly (readonly [string, boolean])[] = [
    ['{% for m in messages %}{{ m.content }}{% endfor %}', false],
    ["{% for m in messages %}{% for p in m['content'] %}{{ p.text }}{% endfor %}{% endfor %}", true],
    ['{% set rest = messages[1:] %}{% for m in rest %}{% for p in m.content %}{% endfor %}{% endfor %}', true],
    ['{% for m in messages %}{% set content = m.content %}{% for p in content %}{% endfor %}{% endfor %}', true],
    [
      '{% macro show(c) %}{% for p in c %}{% endfor %}{% endmacro %}{% for m in messages %}{{ show(m.content) }}{% endfor %}',
      true,
    ],
    ['{% macro show(content) %}{% for p in content %}{% endfor %}{% endmacro %}{{ show([1]) }}', false],
    ['{% for t in tools %}{% for p in t.content %}{% endfor %}{% endfor %}', false],
  ]
  it.each(rows)('%s', (source, parts) => {
    expect(takesContentParts(new Template(source).parsed)).toBe(parts)
  })
})

describe('what a template looks for in texts', () => {
  const rows: readonly (readonly [string, readonly string[] | undefined])[] = [
    ["{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% endif %}", ['</think>']],
    ["{{ m.content.startswith('<r>') and m.content.endswith('</r>') }}{{ x | trim }}", ['<r>', '</r>']],
    ["{% if m.role in ['user', 'tool'] %}{{ m.content }}{% endif %}{% if 'tools' in m %}{% endif %}", ['tools']],
    ["{{ m.content | replace('<image>', '') }}", ['<image>']],
    ['{{ messages | length }}{{ messages[0].role }}{{ messages[1:] }}', []],
    // Not understood, or in any text.
    ['{{ m.content | length }}', undefined],
    ['{{ m.content[0] }}', undefined],
    ["{{ m.content.split('\\n') }}", undefined],
    ["{{ m.content.strip('\"') }}", undefined],
    ['{{ m.content.upper() }}', undefined],
    ['{{ m.content in seen }}', undefined],
    ['{{ m.content.split(sep) }}', undefined],
  ]
  it.each(rows)('%s', (source, sought) => {
    expect(soughtTexts(new Template(source).parsed)).toEqual(sought)
  })
})
