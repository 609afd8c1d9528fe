// GPU utilisation from an exporter on a real socket, and from its page.
import { once } from 'node:events'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, it, onTestFinished } from 'vitest'
import type { EndpointId } from '../../../cluster/endpoints/endpoint.ts'
import { createEndpointSet } from '../../../cluster/endpoints/set.ts'
import { meanGpuUtilization, watchGpus } from '../../../cluster/load-monitor/gpu-utilization.ts'
import { endpoint } from '../views.ts'

const PAGE = `# HELP DCGM_FI_DEV_GPU_UTIL GPU utilization (in %).
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-1",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 90
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-2",modelName="NVIDIA H100 80GB HBM3",Hostname="n1"} 40
DCGM_FI_DEV_MEM_COPY_UTIL{gpu="0",UUID="GPU-1"} 7
`

it.each([
  ['the mean over the GPUs of the host', PAGE, 65],
  ['an idle GPU is not an unknown one', 'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 0\n', 0],
  ['a GPU without a usable number does not blank the others', `${PAGE}DCGM_FI_DEV_GPU_UTIL{gpu="2"} NaN\n`, 65],
  ['no GPU, no number', '# TYPE DCGM_FI_DEV_GPU_UTIL gauge\n', undefined],
  ['another series is none', 'DCGM_FI_DEV_GPU_UTIL_MAX{gpu="0"} 5\nX DCGM_FI_DEV_GPU_UTIL 5\n', undefined],
  ['more than all is none', 'DCGM_FI_DEV_GPU_UTIL{gpu="0"} 101\nDCGM_FI_DEV_GPU_UTIL{gpu="1"} -1\n', undefined],
])('%s', (_, page, percent) => {
  expect(meanGpuUtilization(page)).toBe(percent)
})

async function startExporter(onRequest: http.RequestListener): Promise<number> {
  const server = http.createServer(onRequest)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

async function watch(port: number, nowMs: () => number) {
  const pool = [endpoint('127.0.0.1:8000'), endpoint('127.0.0.1:8001'), endpoint('127.0.0.2:8000')]
  const gpus = watchGpus({ endpoints: createEndpointSet(pool, nowMs), port, nowMs })
  onTestFinished(() => gpus.stop())
  await gpus.firstRound
  return pool.map(({ id }) => gpus.percentOf(id)).concat(gpus.percentOf('127.0.0.9:1' as EndpointId))
}

it('one exporter is asked once for all pods of its host; pods of hosts without one stay unknown', async () => {
  let asked = 0
  const port = await startExporter((_, res) => {
    asked++
    res.end(PAGE)
  })
  expect(await watch(port, () => 0)).toEqual([65, 65, undefined, undefined])
  expect(asked).toBe(1)
})

it('an exporter that answers an error is no idle GPU', async () => {
  const port = await startExporter((_, res) => res.writeHead(500).end(PAGE))
  expect(await watch(port, () => 0)).toEqual([undefined, undefined, undefined, undefined])
})

it('what an exporter said is not believed for ever', async () => {
  let nowMs = 0
  const port = await startExporter((_, res) => res.end(PAGE))
  const pool = [endpoint('127.0.0.1:8000')]
  const gpus = watchGpus({ endpoints: createEndpointSet(pool, () => nowMs), port, nowMs: () => nowMs })
  onTestFinished(() => gpus.stop())
  await gpus.firstRound
  nowMs = 10_000
  expect(gpus.percentOf('127.0.0.1:8000' as EndpointId)).toBe(65)
  nowMs = 20_000
  expect(gpus.percentOf('127.0.0.1:8000' as EndpointId)).toBeUndefined()
})
