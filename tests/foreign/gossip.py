"""Publishing over GossipSub, as far as a ModelCloud peer needs it: signed messages on a stream of our own.   [03]"""

from __future__ import annotations

import secrets

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.foreign.transport import Stream, multihash

MESHSUB = "/meshsub/1.1.0"
SUBSCRIPTIONS, PUBLISH = 1, 2
FROM, DATA, SEQNO, TOPIC, SIGNATURE = range(1, 6)
"""Fields of pubsub's protobuf: of an RPC, and of a message in it."""


def varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def field(number: int, data: bytes) -> bytes:
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def topic_of(network: str, digest: bytes) -> str:
    """Where the records of a model are told.   [DISC-11]"""
    return f"/modelcloud/{network}/records/{digest[0] & 15:02x}"


async def publish(stream: Stream, identity: Ed25519PrivateKey, topic: str, data: bytes) -> None:
    """Say one thing to the peer at the other end of a MESHSUB stream, which tells the rest.   [DISC-10]"""
    sender = multihash(identity.public_key().public_bytes_raw())
    message = (
        field(FROM, sender) + field(DATA, data) + field(SEQNO, secrets.token_bytes(8)) + field(TOPIC, topic.encode())
    )
    message += field(SIGNATURE, identity.sign(b"libp2p-pubsub:" + message))
    rpc = field(PUBLISH, message)
    await stream.write(varint(len(rpc)) + rpc)
