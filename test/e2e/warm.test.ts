// The warm walk over two simulated pods, each a process of its own.
import { type Program, start } from './program.ts'
import { describeWarmWalk, type WarmEngines } from './warm-walk.ts'

const MODEL = 'sim-8b'

async function startPod(seed: number): Promise<{ readonly program: Program; readonly url: string }> {
  const args = ['--port', '0', '--model', MODEL, '--speed', '4', '--seed', String(seed), '--responses-store']
  const program = start(['simulator', ...args], { POD_IP: '127.0.0.1' })
  await program.says(/listens on \S+/)
  return { program, url: /http:\S+/.exec(program.said())?.[0] ?? '' }
}

async function startEngines(): Promise<WarmEngines> {
  const pods = await Promise.all([startPod(1), startPod(2)])
  const end = async (program: Program | undefined, signal: NodeJS.Signals) => {
    program?.child.kill(signal)
    await program?.ended
  }
  const [one, two] = pods as [(typeof pods)[0], (typeof pods)[0]]
  return {
    urls: [one.url, two.url],
    kill: (index) => end(pods[index]?.program, 'SIGKILL'),
    stop: async () => {
      await Promise.all(pods.map(({ program }) => end(program, 'SIGTERM')))
    },
  }
}

describeWarmWalk('two simulated pods', { startEngines, model: MODEL, blockSizeTokens: 16 })
