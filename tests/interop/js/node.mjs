// A js-libp2p node driven by lines of JSON: one command in, one reply out, events in between.
// It shares no code with mcd; what the two agree on is libp2p's wire and our protocol ids.

import { createInterface } from 'node:readline'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'

const ECHO = '/modelcloud/test/echo/1.0.0'
const KAD = '/modelcloud/kad/1.0.0'
const QUERY_MS = 5000

const say = (value) => process.stdout.write(JSON.stringify(value) + '\n')

const node = await createLibp2p({
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({
      protocol: KAD,
      clientMode: false,
      allowQueryWithZeroPeers: true,
      peerInfoMapper: passthroughMapper
    }),
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, emitSelf: false })
  }
})

// Not `for await`: js-libp2p's iterator waits for ever when the other side had closed its half before the handler ran,
// which is usual with us because the first bytes ride along with the negotiation.
await node.handle(ECHO, (stream) => {
  const finish = () => {
    if (stream.remoteWriteStatus === 'closed' && stream.readBufferLength === 0) stream.close().catch(() => {})
  }
  stream.addEventListener('remoteCloseWrite', finish)
  stream.addEventListener('message', async ({ data }) => {
    if (!stream.send(data)) {
      stream.pause()
      await stream.onDrain()
      stream.resume()
    }
    finish()
  })
})

node.services.pubsub.addEventListener('message', ({ detail }) => {
  say({ event: 'message', topic: detail.topic, from: detail.from.toString(), data: Buffer.from(detail.data).toString('hex') })
})

const peersOf = async (events) => {
  const found = new Set()
  for await (const event of events) {
    if (event.name === 'PROVIDER') event.providers.forEach((provider) => found.add(provider.id.toString()))
  }
  return [...found]
}

const echo = async (stream, size) => {
  const sent = Buffer.alloc(size, 'modelcloud')
  let received = Buffer.alloc(0)
  const reading = (async () => {
    for await (const data of stream) received = Buffer.concat([received, Buffer.from(data.subarray())])
  })()
  for (let at = 0; at < size; at += 16384) {
    if (!stream.send(sent.subarray(at, at + 16384))) await stream.onDrain()
  }
  await stream.close()
  await reading
  return received.equals(sent)
}

const connectionTo = (peer) => node.getConnections().find((connection) => connection.remotePeer.toString() === peer)

const commands = {
  dial: async ({ address }) => (await node.dial(multiaddr(address))).remotePeer.toString(),
  connection: async ({ peer }) => {
    const connection = connectionTo(peer)
    return { encryption: connection.encryption, multiplexer: connection.multiplexer, direction: connection.direction }
  },
  identify: async ({ peer }) => {
    const id = connectionTo(peer).remotePeer
    const known = await node.peerStore.has(id) ? await node.peerStore.get(id) : undefined
    return {
      protocols: known?.protocols ?? [],
      agent: Buffer.from(known?.metadata.get('AgentVersion') ?? '').toString()
    }
  },
  ping: async ({ peer }) => node.services.ping.ping(connectionTo(peer).remotePeer),
  echo: async ({ peer, size }) => echo(await connectionTo(peer).newStream(ECHO), size),
  echoes: async ({ peer, size, count }) => {
    const results = await Promise.all(Array.from({ length: count }, async () => {
      return echo(await connectionTo(peer).newStream(ECHO, { maxOutboundStreams: count }), size)
    }))
    return results.filter(Boolean).length
  },
  subscribe: async ({ topic }) => { node.services.pubsub.subscribe(topic) },
  subscribers: async ({ topic }) => node.services.pubsub.getSubscribers(topic).map(String),
  mesh: async ({ topic }) => node.services.pubsub.getMeshPeers(topic),
  publish: async ({ topic, data }) => {
    const { recipients } = await node.services.pubsub.publish(topic, Buffer.from(data, 'hex'))
    return recipients.map(String)
  },
  provide: async ({ cid }) => {
    for await (const event of node.services.dht.provide(CID.parse(cid), { signal: AbortSignal.timeout(QUERY_MS) })) void event
  },
  find: async ({ cid }) => {
    return peersOf(node.services.dht.findProviders(CID.parse(cid), { signal: AbortSignal.timeout(QUERY_MS) }))
  },
  stop: async () => { await node.stop() }
}

say({ event: 'listening', peer: node.peerId.toString(), addresses: node.getMultiaddrs().map(String) })

for await (const line of createInterface({ input: process.stdin })) {
  const { id, command, ...args } = JSON.parse(line)
  try {
    say({ id, result: (await commands[command](args)) ?? null })
  } catch (error) {
    say({ id, error: `${error.name}: ${error.message}` })
  }
  if (command === 'stop') break
}
process.exit(0)
