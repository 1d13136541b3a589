"""A scripted `mcd.ports.Entry`: plays events at a pace, stalls, fails, and remembers what was cancelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from mcd.api.events import AnswerEvent, Answering, Waiting
from mcd.api.tasks import AnyRequest
from mcd.cards import ModelCard, PeerCard, RouteTerm
from mcd.errors import McdError, ModelNotFoundError
from mcd.ids import ModelDigest, PeerId
from mcd.ports import Put
from mcd.wire.payload import Delta, Final, ToolCallDelta, Usage

PEER = PeerId("12D3KooWFakePeer1111111111111111111111111111111111")
DIGEST = ModelDigest(bytes(range(32)))
MODEL = "modelcloud-nano"

Step = AnswerEvent | float | McdError | Exception
"""An event to play, seconds to sleep, or an error to raise."""


def answering(peer_id: PeerId = PEER) -> Answering:
    return Answering(
        peer_id=peer_id,
        peer_name="fake",
        model=MODEL,
        n_prompt_tokens=5,
        price_prompt=0,
        price_output=0,
        model_digest=DIGEST,
    )


def final(n_tokens: int, reasons: tuple[str, ...] = ("stop",)) -> Final:
    return Final(reasons, Usage(5, n_tokens, 2, 1), b"\0" * 32)


def script(*texts: str) -> list[Step]:
    """An ordinary answer of these deltas."""
    return [
        Waiting(queue_s=0.0),
        answering(),
        *(Delta(0, text, (i,)) for i, text in enumerate(texts)),
        final(len(texts)),
    ]


def tool_script() -> list[Step]:
    return [
        answering(),
        Delta(0, "", (1,), tool_calls=(ToolCallDelta(0, "call_a", "get_weather", ""),)),
        Delta(0, "", (2,), tool_calls=(ToolCallDelta(0, "", "", '{"city":'),)),
        Delta(0, "", (3,), tool_calls=(ToolCallDelta(0, "", "", '"Bern"}'), ToolCallDelta(1, "call_b", "now", "{}"))),
        final(3, ("tool_calls",)),
    ]


@dataclass
class ScriptedEntry:
    """Plays ``steps`` for every request; ``steps`` may also be chosen by the request."""

    steps: Sequence[Step] | Callable[[Any], Sequence[Step]] = field(default_factory=lambda: script("Hello", "!"))
    requests: list[Any] = field(default_factory=list)
    n_played: int = 0
    n_cancelled: int = 0
    n_running: int = 0

    async def answer(self, request: AnyRequest, put: Put) -> None:
        self.requests.append(request)
        if request.model != MODEL:
            raise ModelNotFoundError("no peer serves this model", param="model")
        self.n_running += 1
        try:
            await self._play(self.steps(request) if callable(self.steps) else self.steps, put)
        except trio.Cancelled:
            self.n_cancelled += 1
            raise
        finally:
            self.n_running -= 1

    async def _play(self, steps: Sequence[Step], put: Put) -> None:
        for step in steps:
            if isinstance(step, float):
                await trio.sleep(step)
            elif isinstance(step, Exception):
                raise step
            else:
                if self.n_played % 10 == 0:  # a read from the network brings several frames at once
                    await trio.lowlevel.checkpoint()
                self.n_played += 1
                await put((step,))

    def models(self) -> Sequence[ModelCard]:
        return [
            ModelCard(
                alias=MODEL,
                digest=DIGEST,
                n_ctx=2048,
                capabilities=("chat", "tools"),
                n_providers=2,
                n_loaded=1,
                load_s=0.0,
                n_slots=8,
                best_rtt_s=0.014,
                price_prompt=20_000,
                price_output=180_000,
                is_local=True,
                seen_unix_s=1_790_000_000,
            )
        ]

    def model(self, name: str) -> ModelCard:
        if name not in {MODEL, f"{MODEL}@sha256:{DIGEST.hex()}"}:
            raise ModelNotFoundError("no peer serves this model", param="model")
        return self.models()[0]

    def peers(self) -> Sequence[PeerCard]:
        return []

    def route(self, model: str, n_prompt_tokens: int, n_output_tokens: int) -> Sequence[RouteTerm]:
        raise ModelNotFoundError("no peer serves this model", param="model")
