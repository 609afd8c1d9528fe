// Reads the URL of a Redis. What it says of a wrong one never repeats it: most hold a password.
import { isIP } from 'node:net'

export type RedisTarget = {
  readonly host: string
  readonly port: number
  readonly tls: boolean
  readonly username: string | undefined
  readonly password: string | undefined
  readonly database: number
  /** For people: without user and password. */
  readonly name: string
}

const PORT_DEFAULT = 6_379
const DATABASE_MAX = 65_535
const FORM = 'expected an URL like redis://:password@10.0.0.7:6379/0, or rediss:// for TLS'

/** What is wrong with the text as the URL of a Redis, in one line and without its password; undefined when nothing is. */
export function redisUrlFault(text: string): string | undefined {
  const target = readRedisUrl(text)
  return typeof target === 'string' ? target : undefined
}

/** The Redis that the URL names, or what is wrong with it. */
export function readRedisUrl(text: string): RedisTarget | string {
  const url = URL.parse(text)
  if (!url || (url.protocol !== 'redis:' && url.protocol !== 'rediss:')) return FORM
  if (url.hostname === '') return `it names no host: ${FORM}`
  // For a protocol that it does not know, WHATWG's parser lets a host be almost anything.
  if (!/^(\[[\da-f:.]+\]|[\w.-]{1,253})$/i.test(url.hostname)) return `its host is none: ${FORM}`
  if (url.port === '0') return 'its port is 0: give the one that Redis listens on'
  if (url.search !== '' || url.hash !== '') {
    return 'it has something behind ? or #: percent-encode these in a password, and leave options away'
  }
  const [, database, more] = /^\/?(\d{0,5})(.*)$/s.exec(url.pathname) ?? []
  if (more !== '' || Number(database) > DATABASE_MAX)
    return 'behind the host it may have the number of a database, like /0'
  const username = decoded(url.username)
  const password = decoded(url.password)
  if (username === undefined || password === undefined)
    return 'its user or password has a % that encodes nothing: write %25'
  if (username !== '' && password === '')
    return 'it has a user and no password: a password alone is written redis://:password@host'
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1')
  const port = url.port === '' ? PORT_DEFAULT : Number(url.port)
  return {
    host,
    port,
    tls: url.protocol === 'rediss:',
    username: username || undefined,
    password: password || undefined,
    database: Number(database),
    name: `${url.protocol}//${isIP(host) === 6 ? `[${host}]` : host}:${port}/${Number(database)}`,
  }
}

function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text)
  } catch {
    return undefined
  }
}
