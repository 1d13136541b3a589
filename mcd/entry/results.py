"""The results of one task as a provider delivers them: counted and measured, for the provider is a stranger."""

from __future__ import annotations

from mcd.api.tasks import PARTS, DetokenizeRequest, EmbeddingsRequest, RerankRequest, TaskRequest, TokenizeRequest
from mcd.errors import RemoteProtocolError
from mcd.wire.codec import decode_part
from mcd.wire.payload import Final, Part, Scores, Text, Tokens, Usage, Vectors


class Results:
    """Checks one attempt's results.   [ENV-37]"""

    def __init__(self, request: TaskRequest) -> None:
        self._kind = PARTS[type(request)]
        self._is_free = isinstance(request, TokenizeRequest | DetokenizeRequest)
        """Nothing is computed, hence nothing counted.   [ENV-36]"""
        self.n_taken = 0
        """Vectors or scores."""
        self._n_wanted: int | None = None
        """None where the number is not known before, and only the size of a response bounds it."""
        self._vector_bytes: int | None = None
        match request:
            case EmbeddingsRequest():
                self._n_wanted = len(request.inputs)
                self._vector_bytes = 4 * request.dimensions if request.dimensions is not None else None
            case RerankRequest():
                self._n_wanted = len(request.documents)

    def take(self, plaintext: bytes) -> Part:
        """Read the next part.

        Raises:
            RemoteProtocolError: It is no such part, or there are more results than were asked for.
        """
        part = decode_part(plaintext, self._kind)
        match part:
            case Vectors(vectors=vectors):
                self.n_taken += len(vectors)
                self._check_lengths(vectors)
            case Scores(scores=scores):
                self.n_taken += len(scores)
                if any(not 0 <= score <= 1 for score in scores):
                    raise RemoteProtocolError("the provider sent a score that is none")
            case Tokens() | Text():
                pass
        if self._n_wanted is not None and self.n_taken > self._n_wanted:
            raise RemoteProtocolError("the provider sent more results than were asked for")
        return part

    def check_complete(self, final: Final) -> None:
        """The answer has ended.

        Raises:
            RemoteProtocolError: Results are missing, or what is not computed is counted.
        """
        if final.finish_reasons != ("stop",) or (self._is_free and final.usage != Usage(0, 0)):
            raise RemoteProtocolError("the provider counts what this kind of request does not take")
        if self._n_wanted is not None and self.n_taken != self._n_wanted:
            raise RemoteProtocolError("the provider sent fewer results than were asked for")

    def _check_lengths(self, vectors: tuple[bytes, ...]) -> None:
        for vector in vectors:
            if self._vector_bytes is None:
                self._vector_bytes = len(vector)
            if len(vector) != self._vector_bytes:
                raise RemoteProtocolError("the provider sent vectors of different lengths")
