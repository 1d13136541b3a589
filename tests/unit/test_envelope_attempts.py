"""The entry seals each attempt anew: what two providers hold cannot be matched, nor replayed on one another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from mcd.api.events import AnswerEvent
from mcd.api.request import ChatMessage, ChatRequest
from mcd.entry.session import REQUEST_TTL_MS, Asked, Session
from mcd.errors import StreamBrokenError
from mcd.wire.codec import decode_exchange
from mcd.wire.header import FLAG_STREAM, decode_header
from mcd.wire.messages import Request
from tests.unit.envelope_kit import CONFIGS, MODEL, NOW_MS, PEER


class Unreachable:
    """A mesh on which every stream breaks after its first bytes were taken."""

    def __init__(self) -> None:
        self.first: list[bytes] = []

    async def open_stream(self, peer_id: str, protocol: str, first: bytes) -> Any:
        self.first.append(first)
        raise StreamBrokenError("gone")


async def put(events: Sequence[AnswerEvent]) -> None:
    pytest.fail("nobody answers")


class Keys:
    async def config(self, candidate: Any) -> Any:
        return CONFIGS[2]


@pytest.mark.spec("ENV-01", "ENV-03")
async def test_two_attempts_share_neither_request_id_nor_sealed_bytes() -> None:
    mesh = Unreachable()
    clock = SimpleNamespace(now=lambda: 0.0, unix_ms=lambda: NOW_MS)
    session = Session(mesh, Keys(), clock)  # type: ignore[arg-type]  # what one attempt touches
    model = SimpleNamespace(digest=MODEL, alias="m", n_ctx=4096, capabilities=("chat",))
    prediction = SimpleNamespace(load_s=0.0, prefill_s=0.1)
    candidate = SimpleNamespace(peer_id="peer", name="", model=model, prediction=prediction)
    for is_stream in (False, True):
        asked = Asked(ChatRequest(model="m", messages=(ChatMessage("user", "hello"),), stream=is_stream))
        with pytest.raises(StreamBrokenError):
            await session.attempt(candidate, asked, put, lambda _: None)  # type: ignore[arg-type]
    requests = [decode_exchange(first[4:]) for first in mesh.first]
    headers = []
    for request in requests:
        assert isinstance(request, Request)
        headers.append(decode_header(request.header))
    assert headers[0].request_id != headers[1].request_id
    assert (headers[0].provider, headers[0].model_digest) == (PEER.public_key, MODEL)
    assert (headers[0].issued_ms, headers[0].ttl_ms, headers[0].flags) == (NOW_MS, REQUEST_TTL_MS, 0)
    assert (headers[0].suite, headers[0].key_id) == (2, CONFIGS[2].key_id)
    assert headers[0].quote_hash == hashlib.sha256(b"").digest()
    assert headers[1].flags == FLAG_STREAM
    assert requests[0].sealed[:1120] != requests[1].sealed[:1120]  # type: ignore[union-attr]
