// JSON.parse as an oracle that can be trusted.
import { runInNewContext } from 'node:vm'

/**
 * V8 13.6 guesses an object's next name from objects it has read before, and compares the guess with the text before its
 * escapes are decoded: once `{"a":1,"\\":2}` was read, `{"a":1,"\u0071":2}` gets a name `\` instead of `q`. A realm of its
 * own has read nothing before. Throws a SyntaxError of that realm for what is no JSON.
 */
export function parseJson(text: string): unknown {
  return text.includes('"\\') ? runInNewContext('JSON.parse(text)', { text }) : JSON.parse(text)
}
