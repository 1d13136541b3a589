"""One request to its end over as many providers as it takes: the next candidate, from the exact token reached."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec
import trio

from mcd.api.events import AnswerEvent, Answering, Waiting
from mcd.api.request import ChatRequest
from mcd.api.tasks import AnyRequest
from mcd.entry.router import Router, Trial, want_of
from mcd.entry.session import Asked, Session
from mcd.errors import ClaimedFaultError, ContextLengthError, McdError, ModelNotFoundError
from mcd.ids import ModelDigest, PeerId
from mcd.log import Log
from mcd.ports import Clock, Put
from mcd.routing.plan import Candidate, Want
from mcd.wire.payload import Delta, Final, Scores, Text, Tokens, Usage, Vectors

MAX_ATTEMPTS = 4
"""Providers tried for one request. Each failed one costs its user waiting time; a fifth rarely helps."""


MAX_PATIENCE_S = 2.0
"""How long a request waits for a provider that just failed or refused when there is no other: the breaker's first
pauses are shorter, a real outage is longer."""


class Answered:
    """Counts of our own requests. Owner: Failover."""

    def __init__(self) -> None:
        self.n_requests = 0
        self.n_failed = 0
        self.n_failovers = 0
        self.n_cancelled = 0
        """Answers taken back whose provider accounted for what came; their tokens are in the counts below."""
        self.n_prompt_tokens = 0
        self.n_output_tokens = 0


class _Progress:
    """How far one request has come. Owner: its `Failover.answer`."""

    def __init__(self, request: AnyRequest, asked_ms: int) -> None:
        self.request = request
        self.asked_ms = asked_ms
        """Told to every provider, so that a prompt with a date in it is the same at all of them.   [ENV-49]"""
        self.tokens: list[int] = []
        self.tried: set[PeerId] = set()
        self.digest: ModelDigest | None = None
        """Set by the first token: only this very file can go on."""
        self.has_begun = False
        self.had_second_chance = False
        self.claimed_by: Candidate | None = None
        """Who finds fault with the request, until another says so too or answers."""
        self.n_prompt_counted = 0
        """As the engine said."""
        self._want = want_of(request)

    @property
    def n_prompt_tokens(self) -> int:
        """What the next provider has to read first: also what others delivered."""
        return self._want.n_prompt_tokens + len(self.tokens)

    def want(self) -> Want:
        if not self.tried and self.digest is None:
            return self._want
        return msgspec.structs.replace(
            self._want, n_prompt_tokens=self.n_prompt_tokens, exclude=frozenset(self.tried), digest=self.digest
        )

    def needs_more_than(self, n_ctx: int) -> None:
        """A context of so many tokens was too short."""
        self._want = msgspec.structs.replace(self._want, n_ctx=max(self._want.n_ctx, n_ctx + 1))

    def note(self, event: AnswerEvent, candidate: Candidate) -> None:
        if isinstance(event, Delta):
            self.has_begun = True
            self.digest = candidate.digest
            self.tokens.extend(event.tokens)
        elif isinstance(event, Answering):
            self.n_prompt_counted = event.n_prompt_tokens

    @property
    def is_at_limit(self) -> bool:
        """Nothing is left to ask for."""
        request = self.request
        if not isinstance(request, ChatRequest) or request.max_tokens is None:
            return False
        return request.n == 1 and len(self.tokens) >= request.max_tokens

    @property
    def may_continue(self) -> bool:
        """Several choices cannot be resumed: their tokens are interleaved. A task begins anew."""
        return not self.has_begun or (isinstance(self.request, ChatRequest) and self.request.n == 1)


class Failover:
    """Answers requests over the mesh. One per daemon."""

    def __init__(
        self, router: Router, session: Session, search: Callable[[str], Awaitable[bool]], clock: Clock, log: Log
    ) -> None:
        """``search`` looks for providers of an alias that no record told us of."""
        self.answered = Answered()
        self._router = router
        self._session = session
        self._search = search
        self._clock = clock
        self._log = log
        self._cache_salt = secrets.token_hex(16)
        """Providers share prefix caches only within it: nobody else can time what we asked before."""

    async def answer(self, request: AnyRequest, put: Put) -> None:
        """See `ports.Entry.answer`."""
        self.answered.n_requests += 1
        try:
            await self._answer(_Progress(request, self._clock.unix_ms()), put)
        except McdError:
            self.answered.n_failed += 1
            raise

    async def _answer(self, progress: _Progress, put: Put) -> None:
        failure: McdError | None = None
        for _ in range(MAX_ATTEMPTS):
            candidate = await self._choose(progress, failure)
            progress.tried.add(candidate.peer_id)
            asked = Asked(progress.request, tuple(progress.tokens), self._cache_salt, progress.asked_ms)
            trial = Trial(self._router, candidate, progress.n_prompt_tokens)
            try:
                hand_on = partial(self._hand_on, put, progress, trial, len(asked.resume))
                account = partial(self._account, len(asked.resume))
                await self._session.attempt(candidate, asked, hand_on, account)
                trial.succeeded()
                return  # noqa: TRY300  # the answer is whole; an else would hide the loop
            except McdError as problem:
                trial.failed(problem)
                failure = self._weigh(progress, candidate, problem, failure)
                if progress.is_at_limit:
                    await put((self._cut(progress),))
                    return
                self.answered.n_failovers += 1
                self._log.info("failover", peer_id=candidate.peer_id, code=problem.code, outcome="next candidate")
            finally:
                trial.close()
        assert failure is not None
        raise failure

    async def _hand_on(
        self, put: Put, progress: _Progress, trial: Trial, n_resumed: int, batch: Sequence[AnswerEvent]
    ) -> None:
        events = [self._learn(trial, event, n_resumed) for event in batch]
        for event in events:
            progress.note(event, trial.candidate)
            if isinstance(event, Delta | Final):
                self._contradict(progress, trial.candidate)
        trial.handed_on()
        await put(events)
        trial.listening()

    def _weigh(
        self, progress: _Progress, candidate: Candidate, problem: McdError, failure: McdError | None
    ) -> McdError:
        """What the user hears if nobody does better than this attempt.   [EX-43]

        Raises:
            McdError: There is no use in asking anybody else.
        """
        if isinstance(problem, ClaimedFaultError):
            if failure is not None and progress.tokens:
                return failure  # what another provider delivered cannot be gone on with here: not the user's fault
            if isinstance(problem.fault, ContextLengthError):
                progress.needs_more_than(candidate.model.n_ctx)
            if progress.claimed_by is not None or not self._has_another(progress, candidate):
                raise problem.fault from None
            progress.claimed_by = candidate
            progress.had_second_chance = True
            return problem.fault
        if not problem.may_try_another or not progress.may_continue:
            raise problem
        return problem if failure is None or progress.claimed_by is None else failure

    def _has_another(self, progress: _Progress, claimant: Candidate) -> bool:
        """Whether anybody else may know better. Than our own engine does only who has a longer context."""
        try:
            other = self._router.next(progress.want())
        except McdError:
            return False
        return not claimant.is_own or claimant.model.n_ctx < progress.want().n_ctx <= other.model.n_ctx

    def _contradict(self, progress: _Progress, candidate: Candidate) -> None:
        """An answer has come: whoever found fault with its request was wrong."""
        if progress.claimed_by is not None:
            self._router.contradicted(progress.claimed_by, candidate)
            progress.claimed_by = None

    def _cut(self, progress: _Progress) -> Final:
        """The end of an answer whose every token came, and whose provider left before it said so.   [EX-10]"""
        usage = Usage(progress.n_prompt_counted, len(progress.tokens))
        self._count(usage, 0)
        return Final(("length",), usage, b"")

    async def _choose(self, progress: _Progress, failure: McdError | None) -> Candidate:
        """The next candidate. When all were tried, those that only stumbled get a second chance, once.

        Raises:
            McdError: Nobody is left; the user hears why the last one failed.
        """
        try:
            return self._router.next(progress.want())
        except McdError as problem:
            if isinstance(problem, ModelNotFoundError) and await self._search(progress.request.model.partition("@")[0]):
                return self._router.next(progress.want())
            if failure is None:
                raise
            if progress.had_second_chance:
                raise failure from None
        progress.had_second_chance = True
        progress.tried.clear()
        try:
            return self._router.next(progress.want())
        except McdError as problem:
            wait_s = problem.retry_after_s
            if wait_s is None or wait_s > MAX_PATIENCE_S:
                raise failure from None
        await trio.sleep(wait_s)
        try:
            return self._router.next(progress.want())
        except McdError:
            raise failure from None

    def _account(self, n_resumed: int, final: Final) -> None:
        """An answer that its user gave up has its end."""
        self.answered.n_cancelled += 1
        self._count(final.usage, n_resumed)

    def _count(self, usage: Usage, n_resumed: int) -> None:
        self.answered.n_prompt_tokens += usage.n_prompt_tokens
        self.answered.n_output_tokens += usage.n_output_tokens + n_resumed

    def _learn(self, trial: Trial, event: AnswerEvent, n_resumed: int) -> AnswerEvent:
        match event:
            case Waiting():
                trial.queued(event.queue_s)
            case Answering():
                trial.started()
            case Delta():
                trial.tokens_came(len(event.tokens))
            case Vectors() | Scores() | Tokens() | Text():
                trial.results_came()
            case Final():
                self._count(event.usage, n_resumed)
                return _with_resumed(event, n_resumed) if n_resumed else event
        return event


def _with_resumed(final: Final, n_resumed: int) -> Final:
    usage = msgspec.structs.replace(final.usage, n_output_tokens=final.usage.n_output_tokens + n_resumed)
    return msgspec.structs.replace(final, usage=usage)
