// Two projects in one command: everything that runs in Node, and the edge inside workerd.
import { fileURLToPath } from 'node:url'
import { cloudflareTest } from '@cloudflare/vitest-plugin'
import { defineConfig } from 'vitest/config'

// wrangler warns of secrets that the bindings below do supply.
process.env.WRANGLER_LOG ??= 'error'

const root = fileURLToPath(new URL('..', import.meta.url))

export default defineConfig({
  root,
  test: {
    reporters: ['default', './test/reporter.ts'],
    projects: [
      {
        test: {
          name: 'node',
          include: ['test/{shared,cluster,contract,e2e}/**/*.test.ts'],
          testTimeout: 20_000,
          hookTimeout: 60_000,
        },
      },
      {
        plugins: [
          cloudflareTest({
            wrangler: { configPath: './wrangler.toml' },
            miniflare: {
              bindings: {
                KEY_PEPPER: 'a pepper for tests and for nothing else',
                EDGE_SIGNING_KEYS:
                  'new:the-signing-secret-of-these-tests-32,old:a-secret-that-no-longer-signs-anything',
              },
            },
          }),
        ],
        test: { name: 'workerd', include: ['test/edge/**/*.test.ts'], testTimeout: 20_000 },
      },
    ],
  },
})
