import { createHash, createHmac } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { createIdentifyCaller } from '../../../cluster/proxy/caller.ts'
import { HEADER } from '../../../shared/headers.ts'
import { formatSignature, parseKeyRing, signingInput } from '../../../shared/signature.ts'

const OLD = 'o'.repeat(32)
const NEW = 'n'.repeat(32)
const keys = parseKeyRing(`new:${NEW},old:${OLD}`)
const NOW_SECONDS = 1_800_000_000
const body = Buffer.from('{"model":"m"}')
let nonces = 0

type Forged = Partial<{
  keyId: string
  secret: string
  ts: number
  nonce: string
  tenant: string
  pin: string
  path: string
  method: string
  body: Buffer
}>

function signed(forged: Forged = {}) {
  const fields = {
    method: forged.method ?? 'POST',
    path: forged.path ?? '/v1/chat/completions?a=1',
    timestampSeconds: forged.ts ?? NOW_SECONDS,
    nonce: forged.nonce ?? `nonce-${String(nonces++).padStart(16, '0')}`,
    tenant: 'acme',
    pin: forged.pin ?? '',
    bodyDigest: createHash('sha256')
      .update(forged.body ?? body)
      .digest('hex'),
  }
  const mac = createHmac('sha256', forged.secret ?? NEW)
    .update(signingInput(fields))
    .digest('base64url')
  const { timestampSeconds, nonce } = fields
  return {
    [HEADER.signature]: formatSignature({ keyId: forged.keyId ?? 'new', timestampSeconds, nonce, mac }),
    [HEADER.tenant]: forged.tenant ?? 'acme',
  }
}

const identify = (
  headers: Record<string, string>,
  options: { keys?: typeof keys | undefined; allowUnsigned?: boolean } = { keys },
) =>
  createIdentifyCaller(options.keys, options.allowUnsigned ?? false, () => NOW_SECONDS * 1_000)(
    'POST',
    '/v1/chat/completions?a=1',
    headers,
    body,
  )

describe("the edge's signature", () => {
  it.each([
    ['with the current key', {}],
    ['with the one before it: keys are rotated without an outage', { keyId: 'old', secret: OLD }],
    ['59 s late', { ts: NOW_SECONDS - 59 }],
  ] as const)('%s is trusted, and names the tenant', (_, forged) => {
    expect(identify(signed(forged))).toEqual({ ok: true, caller: { trusted: true, tenant: 'acme', pin: undefined } })
  })

  it.each([
    ['of another body', { body: Buffer.from('{"model":"x"}') }],
    ['of another path', { path: '/v1/completions' }],
    ['of another method', { method: 'GET' }],
    ['of another tenant', { tenant: 'globex' }],
    ['by an unknown key', { keyId: 'k9' }],
    ['with a wrong secret', { secret: 'x'.repeat(32) }],
    ['61 s old', { ts: NOW_SECONDS - 61 }],
    ['61 s ahead', { ts: NOW_SECONDS + 61 }],
    ['for a tenant that is no name', { tenant: 'a\tb' }],
  ] as const)('%s is refused', (_, forged) => {
    expect(identify(signed(forged))).toMatchObject({ ok: false, rejection: { reason: 'invalid-signature' } })
  })

  it('works once: a request cannot be replayed', () => {
    const once = createIdentifyCaller(keys, false, () => NOW_SECONDS * 1_000)
    const headers = signed()
    expect(once('POST', '/v1/chat/completions?a=1', headers, body).ok).toBe(true)
    expect(once('POST', '/v1/chat/completions?a=1', headers, body).ok).toBe(false)
  })

  it.each(['', 'v2', 'v2;kid=new;ts=1;nonce=aaaaaaaaaaaaaaaa;mac=x', `v2;kid=new;ts=${'9'.repeat(40)};nonce=a;mac=b`])(
    '%j is no signature',
    (header) => {
      expect(identify({ ...signed(), [HEADER.signature]: header }).ok).toBe(false)
    },
  )
})

describe('a pin', () => {
  const withPin = (pin: string, forged: Forged = {}) => identify({ ...signed(forged), [HEADER.pin]: pin })

  it('below a signature that covers it is believed', () => {
    expect(withPin('pin-1', { pin: 'pin-1' })).toMatchObject({ ok: true, caller: { pin: 'pin-1' } })
  })

  it.each([
    ['put into a signed request', 'pin-1', {}],
    ['changed on the way', 'pin-2', { pin: 'pin-1' }],
    ['doubled on the way', 'pin-1, pin-1', { pin: 'pin-1' }],
  ])('%s is refused with the request: no caller chooses a pod', (_, pin, forged) => {
    expect(withPin(pin, forged)).toMatchObject({ ok: false, rejection: { reason: 'invalid-signature' } })
  })

  it('taken out of a signed request is missed', () => {
    expect(identify(signed({ pin: 'pin-1' })).ok).toBe(false)
  })

  it.each(['', 'a b', 'ä', '10.0.0.1:8000', 'x'.repeat(65)])('that is none, like %j, counts as none', (pin) => {
    expect(withPin(pin)).toMatchObject({ ok: true, caller: { trusted: true, pin: undefined } })
  })

  it('of a stranger is not looked at', () => {
    expect(identify({ [HEADER.pin]: 'pin-1' }, { keys, allowUnsigned: true })).toMatchObject({
      caller: { trusted: false, pin: undefined },
    })
  })
})

it('a signature of the version before is refused: it covers no pin', () => {
  const headers = signed()
  const older = (headers[HEADER.signature] ?? '').replace(/^v2;/, 'v1;')
  expect(identify({ ...headers, [HEADER.signature]: older }).ok).toBe(false)
})

describe('a request without a signature', () => {
  it('is refused where there are keys', () => expect(identify({}).ok).toBe(false))
  it('is a stranger’s where unsigned ones are allowed, whatever tenant it claims', () => {
    expect(identify({ [HEADER.tenant]: 'acme' }, { keys, allowUnsigned: true })).toEqual({
      ok: true,
      caller: { trusted: false, tenant: undefined, pin: undefined },
    })
  })
  it('is a stranger’s where there are no keys', () => {
    const headers = { ...signed({ pin: 'pin-1' }), [HEADER.pin]: 'pin-1' }
    const caller = { trusted: false, tenant: undefined, pin: undefined }
    expect(identify(headers, { keys: undefined })).toEqual({ ok: true, caller })
  })
})
