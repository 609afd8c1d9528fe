// `npm run test:real`: makes sure that a real vLLM and a real Redis can run here, installs them where need be, and runs
// their tests.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { cacheDir } from './cache.ts'
import { installRedis } from './install-redis.ts'
import { findVllm, installVllm } from './install-vllm.ts'
import { lookAtMachine, objectionsTo } from './requirements.ts'
import { makeTinyModel } from './tiny-model.ts'
import { LOG_DIR } from './vllm.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

function print(line: string): void {
  process.stdout.write(`${line}\n`)
}

async function main(args: readonly string[]): Promise<number> {
  if (process.env.WARMPATH_SKIP_REAL === '1') {
    print(
      'SKIPPED: the tests against a real vLLM and a real Redis, because WARMPATH_SKIP_REAL is 1. Nothing of them was run.',
    )
    return 0
  }
  const objections = objectionsTo(await lookAtMachine(cacheDir()), findVllm() !== undefined)
  if (objections.length > 0) return refuse(objections)
  try {
    await installRedis(print)
    await installVllm(print)
    await makeTinyModel('qwen3', print)
    await makeTinyModel('llama3_1', print)
  } catch (error) {
    return refuse([
      `${(error as Error).message}\nIf the network was the reason, run this again: what was downloaded is kept.`,
    ])
  }
  rmSync(LOG_DIR, { recursive: true, force: true })
  return runVitest(args)
}

async function runVitest(args: readonly string[]): Promise<number> {
  const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs')
  const run = [vitest, 'run', '--config', 'test/real/vitest.config.ts', ...args]
  const child = spawn(process.execPath, run, { cwd: ROOT, stdio: 'inherit' })
  // A terminal sends its Ctrl-C to both.
  process.on('SIGINT', () => {})
  for (const name of ['SIGTERM', 'SIGHUP'] as const) process.on(name, () => child.kill(name))
  const [code] = (await once(child, 'exit')) as [number | null]
  return code ?? 1
}

function refuse(reasons: readonly string[]): number {
  print('\nThe tests against a real vLLM and a real Redis cannot run here:')
  for (const reason of reasons) print(`  - ${reason}`)
  print('To do without them, set WARMPATH_SKIP_REAL=1.\n')
  print('0 passed, 1 failed')
  return 1
}

process.exitCode = await main(process.argv.slice(2))
