// The URL of a Redis: what is wrong with one is said in a line that never holds its password.
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { readRedisUrl, redisUrlFault } from '../../../cluster/cache/redis-url.ts'

it.each([
  ['redis://10.0.0.7', { host: '10.0.0.7', port: 6_379, tls: false, database: 0, name: 'redis://10.0.0.7:6379/0' }],
  ['rediss://cache.svc:6380/', { host: 'cache.svc', port: 6_380, tls: true, database: 0 }],
  ['redis://:p%40ss%2Fword@h/3', { password: 'p@ss/word', username: undefined, database: 3, name: 'redis://h:6379/3' }],
  ['redis://warm:secret@h:1', { username: 'warm', password: 'secret', port: 1 }],
  ['redis://[::1]:7/1', { host: '::1', port: 7, name: 'redis://[::1]:7/1' }],
])('%s', (text, target) => {
  expect(redisUrlFault(text)).toBeUndefined()
  expect(readRedisUrl(text)).toMatchObject(target)
})

it.each([
  ['', /^expected an URL like redis:\/\//],
  ['10.0.0.7:6379', /^expected an URL/],
  ['http://:secret@h', /^expected an URL/],
  ['redis:', /no host/],
  ['redis://:secret@', /expected an URL|no host/],
  ['redis:///tmp/redis.sock', /no host/],
  ['redis://h:0', /port is 0/],
  ['redis://h:70000', /^expected an URL/],
  ['redis://h/first', /number of a database/],
  ['redis://h/0/1', /number of a database/],
  ['redis://h/99999', /number of a database/],
  ['redis://:secret@h/0?family=6', /behind \? or #/],
  ['redis://:se#cret@h', /expected an URL|behind \? or #|no host/],
  ['redis://:secret%zz@h', /write %25/],
  ['redis://warm@h', /a user and no password/],
  ['redis://:secret@a,b', /its host is none/],
])('%s is refused', (text, words) => {
  const fault = redisUrlFault(text)
  expect(fault).toMatch(words)
  expect(fault).not.toMatch(/secret|cret/)
  expect(fault).not.toContain('\n')
})

it('property: any text is read or refused, and a refusal repeats nothing of it', () => {
  const marked = fc.string().map((text) => `redis://user:Zx9Q7${text}`)
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.webUrl(), marked), (text) => {
      const fault = redisUrlFault(text)
      expect(fault ?? '').not.toContain('Zx9Q7')
    }),
  )
})
