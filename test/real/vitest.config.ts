// Tests against real engines, apart from the others: they need what npm does not install. One file at a time.
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitest/config'

export default defineConfig({
  root: fileURLToPath(new URL('../..', import.meta.url)),
  test: {
    include: ['test/real/**/*.test.ts'],
    reporters: ['default', './test/reporter.ts'],
    fileParallelism: false,
    testTimeout: 120_000,
    // An engine takes a minute to start, and several on a busy machine.
    hookTimeout: 1_300_000,
  },
})
