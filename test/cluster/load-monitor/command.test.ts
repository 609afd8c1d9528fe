// `load-monitor` as a process of its own, before two simulated pods, as a cluster runs it.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { startSimulator } from '../../../cluster/simulator/server.ts'
import { type Program, run, start } from '../../e2e/program.ts'
import { eventually } from '../../eventually.ts'

async function startPods(count: number): Promise<readonly string[]> {
  const urls: string[] = []
  for (let index = 0; index < count; index++) {
    const pod = await startSimulator({ port: 0, models: ['m'], speed: 0 })
    onTestFinished(() => pod.close())
    urls.push(pod.url)
  }
  return urls
}

async function urlOf(program: Program): Promise<string> {
  await program.says('load monitor listens')
  const { host, port } = JSON.parse(program.said().split('\n')[0] ?? '') as { host: string; port: number }
  expect(host).toBe('127.0.0.1')
  return `http://127.0.0.1:${port}`
}

it('scrapes the pods it is told of, serves their load, and ends with 0 at SIGTERM', async () => {
  const pods = await startPods(2)
  const flags = pods.flatMap((url) => ['--endpoint', url])
  const program = start(['load-monitor', '-port=0', ...flags], { POD_IP: '127.0.0.1' })
  const url = await urlOf(program)
  await eventually(
    () => fetch(`${url}/readyz`),
    ({ status }) => status === 200,
  )
  const page = await (await fetch(`${url}/metrics`)).text()
  for (const pod of pods) expect(page).toContain(`vllm_queue_length{pod="${new URL(pod).host}",role="both"} 0\n`)
  program.child.kill('SIGTERM')
  expect(await program.ended).toBe(0)
  expect(program.complained()).toBe('')
})

it('reads its endpoints from the router’s configuration file, as they change, and not the router’s port', async () => {
  const [pod, added] = (await startPods(2)) as [string, string]
  const dir = mkdtempSync(join(tmpdir(), 'warmpath-test-'))
  onTestFinished(() => rmSync(dir, { recursive: true }))
  const file = join(dir, 'router.yaml')
  const first = `port: 1\nlogLevel: info\nendpoints:\n  - url: ${pod}\n    role: decode\n    apiKey: a-secret\n    labels: { zone: x }\n`
  writeFileSync(file, first)
  const program = start(['load-monitor', '--config', file, '--port', '0'])
  const url = await urlOf(program)
  const text = await (await fetch(`${url}/load`)).text()
  expect(JSON.parse(text).pods).toMatchObject([{ pod: new URL(pod).host, role: 'decode', labels: { zone: 'x' } }])
  expect(text + program.said()).not.toContain('a-secret')
  writeFileSync(file, `${first}  - url: ${added}\n`)
  await eventually(
    async () => (await (await fetch(`${url}/load`)).text()).includes(new URL(added).host),
    (listed) => listed,
  )
  writeFileSync(file, 'endpoints: 7\n')
  await program.says(`${file}:1`)
  expect(await (await fetch(`${url}/load`)).text()).toContain(new URL(added).host)
  program.child.kill('SIGTERM')
  expect(await program.ended).toBe(0)
})

it('says in one line what is missing', async () => {
  const { code, err } = await run(['load-monitor'])
  expect(code).toBe(1)
  expect(err).toMatch(/^warmpath: no endpoints: .*\n$/)
})
