"""The messages of the exchange and info protocols and the provider record, with their bounds.

Each message is a MessagePack array whose first element is its type number. Receivers ignore elements beyond
the ones they know; senders only ever append. The tables in specs/ are the law; `protocol/messages.toml` is
extracted from them and a conformance test proves these structs equal to it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec
from msgspec import Meta

CAPABILITY_VERSION = 5
"""2026-11-24: version 1, the first. 2026-11-25: version 2, request kinds besides chat; version 3, loads. 2026-11-28:
version 4, when a request was asked; version 5, completions and `repeat_penalty`."""

EXCHANGE_PROTOCOL = "/modelcloud/exchange/1.0.0"
INFO_PROTOCOL = "/modelcloud/info/1.0.0"

HEADER_BYTES = 136
"""MCS/1 header H, fixed layout (specs/06)."""
MAX_BODY_BYTES = 8 * 1024 * 1024
"""Largest request body before sealing, bytes; OpenAI-style requests with inlined images stay below it."""
MAX_SEALED_BYTES = MAX_BODY_BYTES + 1024 * 1024
"""Largest sealed request: body, Padme padding (at most 12 %) and the HPKE overhead."""
MAX_QUOTE_BYTES = 512
MAX_VOUCHER_BYTES = 512
MAX_RECEIPT_BYTES = 512
MAX_SEALED_FRAME_BYTES = 65_536 + 5 + 16
"""Largest sealed response frame: 64 KiB of padded data, the 5-byte frame head and the AEAD tag."""
MAX_FRAME_BYTES = MAX_SEALED_FRAME_BYTES + 4096
"""Largest message frame other than Request."""
MAX_REQUEST_FRAME_BYTES = MAX_SEALED_BYTES + 4096
MAX_OUTPUT_TOKENS = 1_048_576
MAX_TOKENS_PER_CHUNK = 4096
MAX_QUEUE_MS = 600_000
MAX_RETRY_AFTER_MS = 3_600_000
MAX_QUOTE_VALID_MS = 60_000

MAX_RECORD_BYTES = 4096
MAX_RECORD_LIFETIME_MS = 120_000
MAX_CLOCK_SKEW_MS = 60_000
MAX_ADDRESSES = 8
MAX_ADDRESS_CHARS = 192
"""Through a relay an IPv6 address holds two peer ids: 180."""
MAX_MODELS = 16
MAX_CAPABILITIES = 16
MAX_NAME_CHARS = 32
MAX_NETWORK_CHARS = 32
MAX_KEY_CONFIG_BYTES = 2048
MAX_KEY_CONFIGS = 4
MAX_CERT_BYTES = 256

U8 = Annotated[int, Meta(ge=0, le=255)]
U16 = Annotated[int, Meta(ge=0, le=65_535)]
U32 = Annotated[int, Meta(ge=0, le=4_294_967_295)]
U63 = Annotated[int, Meta(ge=0, le=9_223_372_036_854_775_807)]
Digest32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Key32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Kid8 = Annotated[bytes, Meta(min_length=8, max_length=8)]
TokenLimit = Annotated[int, Meta(ge=0, le=MAX_OUTPUT_TOKENS)]
QueueMs = Annotated[int, Meta(ge=0, le=MAX_QUEUE_MS)]
Alias = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._:/-]{0,95}\Z")]
Capability = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,24}\Z")]
PlainName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._()+-]{0,31}\Z|^\Z")]
"""A name people read in a table: no control, markup or look-alike characters; may be empty."""
NetworkName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}\Z")]
Address = Annotated[str, Meta(min_length=1, max_length=MAX_ADDRESS_CHARS, pattern=r"^/[A-Za-z0-9./:_-]+\Z")]


class RefuseReason(IntEnum):
    """Why a provider says no before any work."""

    BUSY = 1
    """Every slot and queue place is taken."""
    MODEL_UNKNOWN = 2
    """No engine serves this digest (any more)."""
    KEY_UNKNOWN = 3
    """The seal key id is not, or no longer, known: fetch the key configs again."""
    EXPIRED = 4
    """issued_ms + ttl_ms has passed, or the clock differs by more than the allowed skew."""
    TOO_LARGE = 5
    """Sealed body or output limit exceed what this provider serves."""
    PRICE = 6
    """The quote is unknown, expired or for another exchange."""
    CREDIT = 7
    """The voucher does not cover the first credit window."""
    LOADING = 8
    """The model is being loaded; retry_after_ms estimates when."""
    PEER_LIMIT = 9
    """This entry has too many exchanges open here."""
    REPLAY = 10
    """This request was seen before."""
    SHUTTING_DOWN = 11


class AbortCode(IntEnum):
    """Why a side broke off after work had begun."""

    INTERNAL = 1
    ENGINE_DIED = 2
    PROTOCOL = 3
    TIMEOUT = 4
    ENVELOPE = 5
    """The envelope did not open; nothing more is said."""
    CREDIT_TIMEOUT = 6
    SHUTTING_DOWN = 7


class Message(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Base of every message on a stream; the concrete type carries its number as the MessagePack tag."""


class Request(Message, frozen=True, array_like=True, tag=1):
    """Entry -> provider: the sealed request, the price it was quoted and the first promise to pay."""

    header: Annotated[bytes, Meta(min_length=HEADER_BYTES, max_length=HEADER_BYTES)]
    sealed: Annotated[bytes, Meta(min_length=1, max_length=MAX_SEALED_BYTES)]
    max_output_tokens: TokenLimit
    """0 means up to the model's context."""
    resume_from: TokenLimit = 0
    """How many output tokens an earlier provider delivered; their ids are inside the sealed body."""
    quote: Annotated[bytes, Meta(max_length=MAX_QUOTE_BYTES)] = b""
    """The provider's signed quote; empty on the free rail."""
    voucher: Annotated[bytes, Meta(max_length=MAX_VOUCHER_BYTES)] = b""


class Accepted(Message, frozen=True, array_like=True, tag=2):
    """Provider -> entry: admitted; work begins after about ``queue_ms``."""

    position: U16
    queue_ms: QueueMs


class Refused(Message, frozen=True, array_like=True, tag=3):
    """Provider -> entry: no, before any work."""

    reason: Annotated[int, Meta(ge=1, le=255)]
    retry_after_ms: Annotated[int, Meta(ge=0, le=MAX_RETRY_AFTER_MS)]


class Started(Message, frozen=True, array_like=True, tag=4):
    """Provider -> entry: the engine opened the envelope; its ephemeral response key Y."""

    response_key: Key32
    n_prompt_tokens: U32


class Chunk(Message, frozen=True, array_like=True, tag=5):
    """Provider -> entry: one sealed response frame and how many output tokens it delivers."""

    frame: Annotated[bytes, Meta(min_length=1, max_length=MAX_SEALED_FRAME_BYTES)]
    n_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS_PER_CHUNK)]


class Finished(Message, frozen=True, array_like=True, tag=6):
    """Provider -> entry: the sealed final frame and the engine's receipt."""

    frame: Annotated[bytes, Meta(min_length=1, max_length=MAX_SEALED_FRAME_BYTES)]
    receipt: Annotated[bytes, Meta(max_length=MAX_RECEIPT_BYTES)]


class Waiting(Message, frozen=True, array_like=True, tag=7):
    """Provider -> entry: still queued or prefilling; proves life, at most one a second."""

    position: U16
    queue_ms: QueueMs


class Voucher(Message, frozen=True, array_like=True, tag=8):
    """Entry -> provider: a newer cumulative promise."""

    voucher: Annotated[bytes, Meta(min_length=1, max_length=MAX_VOUCHER_BYTES)]


class Paused(Message, frozen=True, array_like=True, tag=9):
    """Provider -> entry: the credit window is used up; goes on after a voucher of at least this amount."""

    needed: U63


class Cancel(Message, frozen=True, array_like=True, tag=10):
    """Entry -> provider: stop now; what was delivered so far is owed."""


class Abort(Message, frozen=True, array_like=True, tag=11):
    """Either side: broken off; nothing follows."""

    code: U8


class QuoteRequest(Message, frozen=True, array_like=True, tag=12):
    """Entry -> provider: what would this cost, and will you hold a place for it?"""

    model_digest: Digest32
    n_prompt_bytes: U32
    """Size of the sealed body the entry is about to send; the provider estimates prefill from it."""
    max_output_tokens: TokenLimit


class Quote(Message, frozen=True, array_like=True, tag=13):
    """Provider -> entry: a price it commits to and a place held until ``valid_ms`` from now."""

    quote: Annotated[bytes, Meta(max_length=MAX_QUOTE_BYTES)]
    queue_ms: QueueMs
    valid_ms: Annotated[int, Meta(ge=0, le=MAX_QUOTE_VALID_MS)]


ExchangeMessage = (
    Request
    | Accepted
    | Refused
    | Started
    | Chunk
    | Finished
    | Waiting
    | Voucher
    | Paused
    | Cancel
    | Abort
    | QuoteRequest
    | Quote
)


# --- the info protocol: one question, one answer, then the stream closes -------------------------------------


class InfoRequest(Message, frozen=True, array_like=True, tag=32):
    """Anyone -> peer: your record and the seal keys of your engines."""

    capability_version: U16
    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]


class EngineKeys(msgspec.Struct, frozen=True, array_like=True):
    """The key material of one engine (specs/06): certificate by the peer key, configs signed by the engine."""

    model_digest: Digest32
    certificate: Annotated[bytes, Meta(max_length=MAX_CERT_BYTES)]
    configs: Annotated[
        tuple[Annotated[bytes, Meta(max_length=MAX_KEY_CONFIG_BYTES)], ...], Meta(max_length=MAX_KEY_CONFIGS)
    ]


class EngineLoad(msgspec.Struct, frozen=True, array_like=True):
    """How busy one engine is now; a claim."""

    model_digest: Digest32
    n_running: U16
    n_waiting: U16


class InfoReply(Message, frozen=True, array_like=True, tag=33):
    """Peer -> anyone: its newest record (signed bytes) and engine keys; the nonce is echoed."""

    nonce: Annotated[bytes, Meta(min_length=16, max_length=16)]
    record: Annotated[bytes, Meta(max_length=MAX_RECORD_BYTES)]
    engines: Annotated[tuple[EngineKeys, ...], Meta(max_length=MAX_MODELS)]
    loads: Annotated[tuple[EngineLoad, ...], Meta(max_length=MAX_MODELS)] = ()


InfoMessage = InfoRequest | InfoReply


# --- the provider record -------------------------------------------------------------------------------------


class ModelOffer(msgspec.Struct, frozen=True, array_like=True):
    """One model a provider serves."""

    alias: Alias
    digest: Digest32
    n_ctx: U32
    n_slots: U16
    capabilities: Annotated[tuple[Capability, ...], Meta(max_length=MAX_CAPABILITIES)]
    """e.g. ``chat``, ``tools``, ``json-schema``, ``embeddings``, ``vision``."""
    price_prompt: U63
    """Token base units per 1M prompt tokens."""
    price_output: U63
    prefill_tokens_per_s: U32
    """Measured by the provider at start; a prior only, corrected by what the entry sees."""
    output_tokens_per_s: U32
    """One stream alone."""
    engine_key: Key32
    """Ed25519 identity of the inference process."""
    key_id: Kid8
    """Newest seal key; the full config comes from the info protocol."""
    load_ms: U32 = 0
    """0 when the model is loaded, else the expected load time."""
    sealing: U8 = 0
    """Where the envelope opens: 0 the llama.cpp process itself, 1 an adapter beside another server, 2 scripted."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What a peer states about itself: signed, numbered, expiring.   [REC-01]"""

    version: U16
    network: NetworkName
    seq: U63
    """Strictly increasing per peer, also across restarts (starts at the unix time in ms)."""
    issued_ms: U63
    expires_ms: U63
    """Equal to ``issued_ms`` in a goodbye: the peer leaves at once."""
    name: PlainName
    agent: PlainName
    addresses: Annotated[tuple[Address, ...], Meta(max_length=MAX_ADDRESSES)]
    models: Annotated[tuple[ModelOffer, ...], Meta(max_length=MAX_MODELS)]
    device: PlainName = ""
    """What computes, e.g. ``RTX 4090 24G`` or ``CPU 8 cores``; empty for an entry without models."""
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{0,16}\Z")] = ""
    coordinate: Annotated[tuple[float, ...], Meta(max_length=10)] = ()
    """Vivaldi coordinate, empty until measured."""
