// The commands of the program, as they describe themselves: what --help prints, and which flags they take.
import { ADMIN_PORT_DEFAULT } from './config.ts'
import type { Flag } from './flags.ts'
import { describeFaults } from './simulator/faults.ts'
import { faultFlags, PRESETS_MORE, presetFlag, SIMULATOR_FLAGS, SIMULATOR_MORE } from './simulator-command.ts'

export type CommandHelp = {
  readonly summary: string
  readonly usage: string
  readonly flags: Readonly<Record<string, Flag>>
  /** Text below the flags in --help. */
  readonly more?: string
  readonly positionals?: boolean
}

export const ADMIN_URL = `http://127.0.0.1:${ADMIN_PORT_DEFAULT}`

const listenFlags = {
  host: { type: 'string', value: 'ADDRESS', help: 'listen there (default: POD_IP, else 127.0.0.1)' },
  port: { type: 'string', value: 'N', help: 'listen on this port' },
} as const satisfies Record<string, Flag>

/** Where a configuration file may say it too. */
const configuredHost = {
  ...listenFlags.host,
  help: 'listen there (default: as configured, else POD_IP, else 127.0.0.1)',
}

const redisFlag = {
  type: 'string',
  value: 'URL',
  help: 'keeps answers in this Redis too, for all routers (default: REDIS_URL, else in memory alone)',
} as const satisfies Flag

/** What a router and a KV-Cache Manager both take. */
const kvFlags = {
  tokenizer: {
    type: 'string',
    multiple: true,
    value: '[MODEL=]DIR',
    help: "the model's tokenizer.json and chat template: prompts are read here (default: the engines are asked); may repeat",
  },
  'models-dir': {
    type: 'string',
    value: 'DIR',
    help: 'where models are mounted: their tokenizers are looked for there',
  },
  'zmq-bind': {
    type: 'string',
    value: 'ADDRESS',
    help: 'let pods dial with their KV events, like tcp://*:5555 (default: ZMQ_BIND_ADDRESS, else they are dialled)',
  },
  'cache-ttl-seconds': {
    type: 'string',
    value: 'N',
    help: 'what a silent pod had cached counts no longer (default: CACHE_TTL_SECONDS, else 3600)',
  },
  'snapshot-from': {
    type: 'string',
    value: 'URL',
    help: 'load the index from this replica at the start (its admin door, or its port for /score)',
  },
} as const satisfies Record<string, Flag>

export const HELP = {
  up: {
    summary: 'everything on this machine: edge, router and simulated pods, with a key to try them',
    usage: 'up [--pods N | --engine URL …] [--port N]',
    flags: {
      pods: { type: 'string', value: 'N', help: 'simulated vLLM pods (default 3)' },
      engine: {
        type: 'string',
        multiple: true,
        value: 'URL',
        help: 'a real vLLM server in the pods’ place; may repeat',
      },
      config: {
        type: 'string',
        value: 'FILE',
        help: "the router's configuration (YAML); its endpoints stand in the pods’ place",
      },
      port: { type: 'string', value: 'N', help: 'port of the edge (default 8787)' },
      'router-port': { type: 'string', value: 'N', help: 'port of the router (default 8000)' },
      'admin-port': { type: 'string', value: 'N', help: "port of the router's admin door (default 8081)" },
      'pod-port': { type: 'string', value: 'N', help: 'port of the first simulated pod (default 8101; 0: any)' },
      model: { type: 'string', value: 'NAME', help: 'model that the simulated pods serve (default sim-8b)' },
      preset: presetFlag,
      ...faultFlags,
      speed: {
        type: 'string',
        value: 'X',
        help: 'simulated pods X times as fast as real ones (default 1; 0: no waiting)',
      },
      redis: redisFlag,
    },
    more: `${PRESETS_MORE}\n\nFaults:\n${describeFaults()}`,
  },
  router: {
    summary: 'places each request on an engine and streams the answer back',
    usage: 'router --endpoint URL … | --config FILE',
    flags: {
      config: { type: 'string', value: 'FILE', help: 'configuration (YAML); flags stand above it' },
      endpoint: { type: 'string', multiple: true, value: 'URL', help: 'a vLLM server; may repeat' },
      'vllm-port': { type: 'string', value: 'N', help: 'short for --endpoint http://127.0.0.1:N' },
      host: configuredHost,
      port: listenFlags.port,
      'admin-host': { type: 'string', value: 'ADDRESS', help: 'admin door: metrics, decisions (default 127.0.0.1)' },
      'admin-port': { type: 'string', value: 'N', help: 'its port (default 8081)' },
      'kv-manager': {
        type: 'string',
        value: 'URL',
        help: 'a KV-Cache Manager to ask what pods hold (default: KV_CACHE_MANAGER_URL, else the index in this process)',
      },
      'load-monitor': {
        type: 'string',
        value: 'URL',
        help: 'a load monitor to ask for the pods’ load (default: scrape them)',
      },
      ...kvFlags,
      'score-port': {
        type: 'string',
        value: 'N',
        help: 'serve /score, /events and /snapshot there too (default: at the admin door alone)',
      },
      redis: redisFlag,
      'allow-unsigned': { type: 'boolean', help: 'take requests that the edge did not sign' },
      'log-level': { type: 'string', value: 'LEVEL', help: 'trace, debug, info, warn, error or silent (default info)' },
      seed: { type: 'string', value: 'N', help: 'seed of the randomness that breaks ties' },
    },
    more: 'Environment: EDGE_SIGNING_KEYS  id:secret[,id:secret…], the keys that the edge signs with\n             POD_IP             listened on when no host is given\n             CACHE_ENABLED      false: no answer is kept (default true)',
  },
  'load-monitor': {
    summary: 'scrapes the pods and tells their load, to Prometheus and to routers',
    usage: 'load-monitor --endpoint URL … | --config FILE',
    flags: {
      config: {
        type: 'string',
        value: 'FILE',
        help: "the router's configuration (YAML): its endpoints are watched, as they change",
      },
      endpoint: { type: 'string', multiple: true, value: 'URL', help: 'a vLLM server; may repeat' },
      host: configuredHost,
      port: { type: 'string', value: 'N', help: 'listen on this port (default 9090)' },
      'dcgm-port': {
        type: 'string',
        value: 'N',
        help: 'port of the DCGM exporter on every pod’s host; without one, KV-cache usage stands for GPU utilisation',
      },
      'log-level': { type: 'string', value: 'LEVEL', help: 'trace, debug, info, warn, error or silent (default info)' },
    },
    more: 'GET /load, /load/<pod> (host:port), /metrics, /healthz, /readyz.\nEnvironment: POD_IP  listened on when no host is given',
  },
  'kv-manager': {
    summary: 'follows the pods’ KV events and tells what each holds of a prompt',
    usage: 'kv-manager --endpoint URL … | --config FILE | --zmq-bind ADDRESS',
    flags: {
      config: {
        type: 'string',
        value: 'FILE',
        help: "the router's configuration (YAML): its endpoints are followed, as they change",
      },
      endpoint: { type: 'string', multiple: true, value: 'URL', help: 'a vLLM server; may repeat' },
      host: configuredHost,
      port: { type: 'string', value: 'N', help: 'listen on this port (default: HTTP_PORT, else 8080)' },
      ...kvFlags,
      'log-level': { type: 'string', value: 'LEVEL', help: 'trace, debug, info, warn, error or silent (default info)' },
    },
    more: 'GET /score?prompt=…[&model=…], POST /score (model; prompt, messages or token_ids; lora, cache_salt),\nGET /events[?endpoint=…][&type=…], /snapshot, /metrics, /healthz, /readyz.\nEnvironment: POD_IP  listened on when no host is given',
  },
  events: {
    summary: 'what happens in the pods’ KV caches, live',
    usage: 'events [--endpoint HOST:PORT …] [--type TYPE …]',
    flags: {
      admin: {
        type: 'string',
        value: 'URL',
        help: `a router's admin door, or a kv-manager (default ${ADMIN_URL})`,
      },
      endpoint: { type: 'string', multiple: true, value: 'HOST:PORT', help: 'of this pod alone; may repeat' },
      type: {
        type: 'string',
        multiple: true,
        value: 'TYPE',
        help: 'kv_alloc, kv_free, kv_swap_in or kv_swap_out alone; may repeat',
      },
      json: { type: 'boolean', help: 'as they come: one JSON object a line' },
    },
  },
  doctor: {
    summary: 'finds out why routing by KV cache goes wrong with an engine, and names the flag that mends it',
    usage: 'doctor kv --engine URL',
    flags: {
      engine: { type: 'string', value: 'URL', help: 'the vLLM server; it is asked a few small prompts' },
      model: { type: 'string', value: 'NAME', help: 'the model to ask (default: the first that it lists)' },
      'api-key': { type: 'string', value: 'KEY', help: 'what it was started with (vllm serve --api-key)' },
      events: {
        type: 'string',
        value: 'ADDRESS',
        help: 'where it publishes KV events, if it does not say so itself: tcp://host:port',
      },
      replay: { type: 'string', value: 'ADDRESS', help: 'where it sends them again' },
      tokenizer: {
        type: 'string',
        value: 'DIR',
        help: "a model's directory: whether its tokenizer and template are the engine's",
      },
      json: { type: 'boolean', help: 'one JSON object a line' },
    },
    more: 'Ends with 1 when it finds a fault.',
    positionals: true,
  },
  simulator: {
    summary: 'a vLLM look-alike for machines without GPUs',
    usage: 'simulator [--port N] [--preset NAME] [--model NAME …]',
    flags: { ...listenFlags, ...SIMULATOR_FLAGS },
    more: SIMULATOR_MORE,
    positionals: true,
  },
  why: {
    summary: 'one routing decision, in words',
    usage: 'why [DECISION-ID]',
    flags: {
      admin: { type: 'string', value: 'URL', help: `the router's admin door (default ${ADMIN_URL})` },
      last: { type: 'string', value: 'N', help: 'without an id: the newest N decisions (default 1)' },
    },
    more: 'The id is the answer’s x-warmpath-decision header, or the answer’s own id (chatcmpl-…, cmpl-…, resp_…).',
    positionals: true,
  },
  key: {
    summary: 'API keys of the edge on this machine',
    usage: 'key create --tenant NAME',
    flags: {
      tenant: { type: 'string', value: 'NAME', help: 'who the key belongs to' },
      name: { type: 'string', value: 'TEXT', help: 'a note to know the key by' },
      model: {
        type: 'string',
        multiple: true,
        value: 'NAME',
        help: 'a model that the key may use (default: all); may repeat',
      },
      expires: { type: 'string', value: 'DATE', help: 'when it stops working, like 2027-01-31' },
    },
    positionals: true,
  },
} as const satisfies Readonly<Record<string, CommandHelp>>
