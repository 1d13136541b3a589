"""A `ControlSource` with fixed answers, for the control socket and the CLI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from mcd.cards import Check, ModelCard, PeerCard, RouteTerm
from mcd.errors import ModelNotFoundError
from mcd.ids import PeerId
from mcd.ports import DaemonStatus, EngineStatus
from tests.fakes.entry import DIGEST, MODEL, ScriptedEntry
from tests.fakes.gateway import daemon_status

ATLAS = PeerId("12D3KooWAtLas11111111111111111111111111111199fKq2mZa")
LUMEN = PeerId("12D3KooWLumen111111111111111111111111111111Qx7LpT3b")

ENGINE = EngineStatus(
    alias=MODEL,
    digest=DIGEST,
    state="ready",
    n_ctx=2048,
    n_slots=4,
    n_running=2,
    n_waiting=0,
    capabilities=("chat",),
    prefill_tokens_per_s=900.0,
    output_tokens_per_s=88.0,
    sealing=0,
    device="CPU 8 cores",
    restarts=0,
    load_ms=300,
)

PEERS = (
    PeerCard(
        peer_id=ATLAS,
        name="atlas",
        region="de-fra",
        path="direct tcp",
        rtt_s=0.0142,
        device="RTX 4090 24G",
        models=(MODEL, "b", "c"),
        n_running=1,
        n_slots=4,
        output_tokens_per_s=92.4,
        claimed_tokens_per_s=99.0,
        price_output=180_000,
        ok_fraction=0.999,
        seen_s=0.2,
        state="alive",
        address="/ip4/10.0.0.2/tcp/4101",
        agent="mcd/0.1.0",
        is_outbound=True,
    ),
    PeerCard(
        peer_id=LUMEN,
        name="",
        region="",
        path="-",
        rtt_s=None,
        device="",
        models=(),
        n_running=None,
        n_slots=0,
        output_tokens_per_s=None,
        claimed_tokens_per_s=None,
        price_output=None,
        ok_fraction=None,
        seen_s=11.0,
        state="suspect",
        address="/ip4/10.0.0.3/tcp/4101",
        agent="mcd/0.1.0",
        is_outbound=None,
    ),
)

ROUTE = (
    RouteTerm(ATLAS, "atlas", 1, 0.014, 0.0, 0.2, 2.7, 0.0, 2.914, 180_000, "measured"),
    RouteTerm(LUMEN, "", 2, 0.041, 1.0, 0.3, 6.5, 0.5, 8.341, 0, "claimed"),
)


@dataclass
class FixedSource:
    """Answers the same each time; tests replace what they need."""

    daemon: DaemonStatus = field(default_factory=lambda: msgspec.structs.replace(daemon_status(), engines=(ENGINE,)))
    cards: Sequence[PeerCard] = PEERS
    checks: Sequence[Check] = (
        Check("engine seccomp", "ok", "no sockets, no files"),
        Check("clock", "warn", "4 s behind the peers; run: timedatectl set-ntp true"),
    )

    def status(self) -> DaemonStatus:
        return self.daemon

    def peers(self) -> Sequence[PeerCard]:
        return self.cards

    def models(self) -> Sequence[ModelCard]:
        return ScriptedEntry().models()

    def route(self, model: str, n_prompt_tokens: int, n_output_tokens: int) -> Sequence[RouteTerm]:
        if model != MODEL:
            raise ModelNotFoundError("no peer serves this model now", param="model")
        return ROUTE

    def doctor(self) -> Sequence[Check]:
        return self.checks
