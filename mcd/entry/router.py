"""Which provider next, and what its answer taught us: the shell around `mcd.routing` and its only writer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from random import Random

from mcd.api.request import ChatRequest, CompletionRequest
from mcd.api.tasks import CAPABILITIES, AnyRequest, EmbeddingsRequest, RerankRequest, TaskRequest
from mcd.cards import RouteTerm
from mcd.errors import ClaimedFaultError, McdError, PeerTimeoutError, RefusedError
from mcd.ids import PeerId
from mcd.ports import Clock, Mesh
from mcd.routing.directory import Directory
from mcd.routing.estimate import Estimates
from mcd.routing.health import Health
from mcd.routing.plan import Candidate, Known, Want, candidates, plan
from mcd.units import Seconds
from mcd.wire.messages import ModelOffer, RefuseReason

CHARS_PER_TOKEN = 4
"""For predicting prefill, and for learning from it: who counts a longer prompt than it had would seem faster. English
text."""
TOKENS_PER_IMAGE = 512
"""The same for a picture: projectors make 64 to 1024 of one."""
EXPECTED_OUTPUT_TOKENS = 256
"""When the request sets no limit: the median of public traces is 211."""
MAX_TTFT_SAMPLES = 512
LINKS_AGE_S = 0.25
"""How long a list of links is believed: pings are seconds apart, and listing 64 links for each request adds up."""
STALL_S = 15.0
"""Without one token for so long, beyond what was predicted, a user who gives up has a reason: the provider failed."""
PREDICTION_SLACK = 4.0
"""How many times its predicted time to first token a provider may take before that."""
_STALE = frozenset({RefuseReason.MODEL_UNKNOWN, RefuseReason.KEY_UNKNOWN, RefuseReason.EXPIRED, RefuseReason.REPLAY})
"""Refusals of what its own record offers. All others, those of later versions included, are about now.   [EX-09]"""


class Trial:
    """One attempt's measurements. Owner: the attempt; ends exactly once."""

    def __init__(self, router: Router, candidate: Candidate, n_prompt_tokens: int) -> None:
        self.candidate = candidate
        self._router = router
        self._n_prompt_tokens = n_prompt_tokens
        self._sent_at = router.clock.now()
        self._first_at: Seconds | None = None
        self._queue_s: Seconds = 0.0
        self._waited_s: Seconds = 0.0
        """From sending to the engine's start, as far as it was announced."""
        self._n_tokens = 0
        self._is_judged = False
        self._idle_since = self._sent_at
        """Newest instant at which the provider moved on or we did not listen."""
        self._has_moved = False
        """Tokens came since the last event was handed on."""
        self._is_listening = True
        self._left_at = self._sent_at
        router.estimates.sent(candidate.peer_id, candidate.digest)
        router.health.asked(candidate.peer_id, self._sent_at)

    def queued(self, queue_s: Seconds) -> None:
        """The provider announced its queue."""
        self._queue_s = max(self._queue_s, queue_s)
        now = self._router.clock.now()
        self._router.estimates.queue_reported(self.candidate.peer_id, self.candidate.digest, queue_s, now)

    def started(self) -> None:
        """The engine has begun: a queue announced beyond that was none."""
        self._waited_s = min(self._queue_s, self._router.clock.now() - self._sent_at)

    def tokens_came(self, n_tokens: int) -> None:
        """Output tokens arrived."""
        self._has_moved = self._has_moved or n_tokens > 0
        if n_tokens and self._first_at is None:
            self._first_at = self._router.clock.now()
            ttft_s = self._first_at - self._sent_at
            self._router.first_token(self.candidate, self._n_prompt_tokens, ttft_s, self._waited_s)
        self._n_tokens += n_tokens

    def results_came(self) -> None:
        """A task moved on. Its times teach nothing: results come when the engine's batches suit many requests."""
        self._has_moved = True

    def handed_on(self) -> None:
        """An event went to our user; until `listening`, silence is not the provider's."""
        self._is_listening = False
        self._left_at = self._router.clock.now()
        if self._has_moved:
            self._has_moved, self._idle_since = False, self._left_at

    def listening(self) -> None:
        """Our user took it and wants more."""
        self._is_listening = True
        self._idle_since += self._router.clock.now() - self._left_at

    def succeeded(self) -> None:
        """The answer came whole."""
        self._is_judged = True
        peer_id, digest = self.candidate.peer_id, self.candidate.digest
        self._router.health.succeeded(peer_id)
        if self._first_at is not None:
            decode_s = self._router.clock.now() - self._first_at
            self._router.estimates.answer_ended(peer_id, digest, self._n_tokens, decode_s)

    def failed(self, problem: McdError) -> None:
        """The attempt failed; whose fault it was decides what we hold against the peer."""
        self._is_judged = True
        peer_id, digest, now = self.candidate.peer_id, self.candidate.digest, self._router.clock.now()
        if isinstance(problem, RefusedError) and problem.reason not in _STALE:
            self._router.health.refused(peer_id, digest, problem.retry_after_s or 0.0, now)
        elif problem.may_try_another and not isinstance(problem, ClaimedFaultError):
            self._router.health.failed(peer_id, now)
            if isinstance(problem, PeerTimeoutError):
                self._router.estimates.waited_in_vain(peer_id, digest, now - self._idle_since, now)
        else:
            self._router.health.released(peer_id)

    def close(self) -> None:
        """The attempt is over, however it ended; one that our user cancelled says nothing, unless it had stalled.

        A provider that proves its life for ever and delivers nothing would else never be found out.
        """
        self._router.estimates.ended(self.candidate.peer_id, self.candidate.digest)
        if not self._is_judged and self._has_stalled():
            self._router.health.failed(self.candidate.peer_id, self._router.clock.now())
        self._router.health.released(self.candidate.peer_id)

    def _has_stalled(self) -> bool:
        now = self._router.clock.now() if self._is_listening else self._left_at
        predicted = self.candidate.prediction
        expected_s = (
            self._queue_s + predicted.load_s + predicted.prefill_s * PREDICTION_SLACK if not self._n_tokens else 0.0
        )
        return now - self._idle_since > STALL_S + expected_s


class Router:
    """Owner of everything learned about providers. One per daemon."""

    def __init__(self, directory: Directory, mesh: Mesh, clock: Clock, random: Random) -> None:
        self.clock = clock
        self.estimates = Estimates()
        self.health = Health()
        self.ttfts: deque[Seconds] = deque(maxlen=MAX_TTFT_SAMPLES)
        """Newest times to first token, for status."""
        self._directory = directory
        self._mesh = mesh
        self._random = random
        self._links: Mapping[PeerId, Seconds | None] = {}
        self._links_at: Seconds = -math.inf

    def next(self, want: Want) -> Candidate:
        """The best provider not tried yet.

        Raises:
            ModelNotFoundError, UnsupportedError, NoProviderError: As `mcd.routing.plan.plan`.
        """
        snapshot = self._directory.snapshot(self.clock.unix_ms())
        return plan(snapshot, want, self.known(), self.clock.now(), self._random)[0]

    def known(self) -> Known:
        """What we have measured ourselves."""
        now = self.clock.now()
        if now - self._links_at >= LINKS_AGE_S:
            self._links, self._links_at = {link.peer_id: link.rtt_s for link in self._mesh.links()}, now
        return Known(self.estimates, self.health, self._links)

    def first_token(self, candidate: Candidate, n_prompt_tokens: int, ttft_s: Seconds, queue_s: Seconds) -> None:
        """Learn from a time to first token, unless a model was loaded meanwhile: that says nothing of its speed."""
        self.ttfts.append(ttft_s)
        if not candidate.facts.load_s:
            self.estimates.first_token_came(candidate.facts, n_prompt_tokens, ttft_s, queue_s, self.clock.now())

    def contradicted(self, claimant: Candidate, served_by: Candidate) -> None:
        """A request that one provider found at fault was served by another.   [EX-44]

        That is a failure, or where its own record says that it can do less, or serves another file, as good as a no.
        """
        peer_id, digest, now = claimant.peer_id, claimant.digest, self.clock.now()
        if digest == served_by.digest and not _can_less(claimant.model, served_by.model):
            self.health.failed(peer_id, now)
        else:
            self.health.refused(peer_id, digest, 0.0, now)

    def explain(self, want: Want) -> Sequence[RouteTerm]:
        """Every provider of a model, best first, with each part of its prediction."""
        snapshot = self._directory.snapshot(self.clock.unix_ms())
        ranked = candidates(snapshot, want, self.known(), self.clock.now())
        return [_term(rank, candidate) for rank, candidate in enumerate(ranked, start=1)]


def want_of(request: AnyRequest) -> Want:
    """What a request needs; sizes are estimates from its characters."""
    needs = {CAPABILITIES[type(request)]}
    if not isinstance(request, ChatRequest):
        return Want(request.model, 1 + _n_task_tokens(request), 0, capabilities=frozenset(needs))
    n_chars = _n_chat_chars(request)
    if request.tools and request.tool_choice != "none":
        needs.add("tools")
    if request.response_format.type == "json_schema":
        needs.add("json-schema")
    n_images = sum(len(message.images) for message in request.messages)
    if n_images:
        needs.add("vision")
    n_prompt_tokens = 1 + n_chars // CHARS_PER_TOKEN + n_images * TOKENS_PER_IMAGE
    return Want(
        model=request.model,
        n_prompt_tokens=n_prompt_tokens,
        n_output_tokens=(request.max_tokens or EXPECTED_OUTPUT_TOKENS) * request.n,
        n_ctx=n_prompt_tokens + (request.max_tokens or 1),
        capabilities=frozenset(needs),
    )


def _n_chat_chars(request: ChatRequest) -> int:
    """Of what the template shows: agents' tools and calls are often longer than what is said."""
    if isinstance(request, CompletionRequest):
        return len(request.prompt) * (1 if isinstance(request.prompt, str) else CHARS_PER_TOKEN)
    n_chars = sum(len(tool.description or "") + len(tool.parameters or b"") for tool in request.tools)
    for message in request.messages:
        n_chars += len(message.content or "") + sum(len(call.function.arguments) for call in message.tool_calls)
    return n_chars


def _n_task_tokens(request: TaskRequest) -> int:
    """Of what the model computes: nothing for a text that is only split."""
    match request:
        case EmbeddingsRequest():
            return sum(len(v) // (CHARS_PER_TOKEN if isinstance(v, str) else 1) for v in request.inputs)
        case RerankRequest():
            return sum(len(request.query) + len(text) for text in request.documents) // CHARS_PER_TOKEN
        case _:
            return 0


def _can_less(offer: ModelOffer, other: ModelOffer) -> bool:
    """Whether a provider says itself that it cannot do all that another can with the same file."""
    has_all = set(other.capabilities) <= set(offer.capabilities)
    return offer.n_ctx < other.n_ctx or offer.sealing != other.sealing or not has_all


def _term(rank: int, candidate: Candidate) -> RouteTerm:
    prediction = candidate.prediction
    return RouteTerm(
        peer_id=candidate.peer_id,
        name=candidate.name,
        rank=rank,
        rtt_s=prediction.rtt_s,
        queue_s=prediction.queue_s,
        prefill_s=prediction.prefill_s,
        decode_s=prediction.decode_s,
        penalty_s=prediction.penalty_s,
        total_s=prediction.total_s,
        price_output=candidate.model.price_output,
        why=candidate.why,
        load_s=prediction.load_s,
    )
