"""What travels inside the seal: the request body, the answer's deltas and its final statement.

Only the entry and the inference process hold these types. Their repr is redacted so that no log line, traceback
or test failure can show user text.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from mcd.wire.messages import MAX_OUTPUT_TOKENS, MAX_TOKENS_PER_CHUNK, U8, U32

MAX_TOOL_CALLS = 128
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_SALT_CHARS = 64
MAX_ASKED_MS = 253_402_300_799_999
"""The end of the year 9999, where dates end."""
MAX_ERROR_CHARS = 512
MAX_KIND_CHARS = 24
MAX_DIMENSIONS = 8192
"""Numbers of one embedding; twice the widest model known."""
MAX_VECTOR_BYTES = 4 * MAX_DIMENSIONS
MAX_RESULTS_PER_FRAME = 1024
MAX_TEXT_CHARS_PER_FRAME = 8192
"""Half a frame in any script."""


class Private(msgspec.Struct, frozen=True):
    """A struct whose repr says nothing about its content."""

    def __repr__(self) -> str:
        """Redact: user text must not reach a log by accident."""
        return f"<{type(self).__name__} redacted>"


class Body(Private, frozen=True, kw_only=True):
    """The plaintext of a sealed request, encoded as a JSON object.   [ENV-20]"""

    kind: Annotated[str, Meta(max_length=MAX_KIND_CHARS)] = "chat"
    """One of those that specs/06 lists; others are answered with a Failure."""
    request: msgspec.Raw
    """The request object as the entry normalised it (specs/06 lists the members of each kind)."""
    resume: Annotated[tuple[U32, ...], Meta(max_length=MAX_OUTPUT_TOKENS)] = ()
    """Output token ids an earlier provider delivered for choice 0; the engine continues after them."""
    cache_salt: Annotated[str, Meta(max_length=MAX_SALT_CHARS)] = ""
    """Prefix caches are shared only between requests of equal salt."""
    asked_ms: Annotated[int, Meta(ge=0, le=MAX_ASKED_MS)] = 0
    """When the user asked, the same in all attempts, so that the date in a prompt is; 0: not said.   [ENV-49]"""


class ToolCallDelta(Private, frozen=True, array_like=True):
    """A piece of one tool call; id and name come once, arguments in fragments."""

    index: U8
    id: str = ""
    name: str = ""
    arguments: str = ""


class TopLogprob(Private, frozen=True, array_like=True):
    """One alternative token."""

    token: bytes
    logprob: float


class TokenLogprob(Private, frozen=True, array_like=True):
    """A chosen token's natural-log probability and its best alternatives."""

    token: bytes
    logprob: float
    top: Annotated[tuple[TopLogprob, ...], Meta(max_length=MAX_TOP_LOGPROBS)] = ()


class Delta(Private, frozen=True, array_like=True):
    """Plaintext of a data frame (MessagePack): what some tokens added to one choice."""

    choice: U8
    text: str
    tokens: tuple[U32, ...]
    """Ids of the output tokens this delta accounts for, in order; may be empty (padding, held-back text)."""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Vectors(Private, frozen=True, array_like=True):
    """Plaintext of a data frame of ``embeddings``: the next vectors, in the order of the inputs."""

    vectors: Annotated[
        tuple[Annotated[bytes, Meta(min_length=4, max_length=MAX_VECTOR_BYTES)], ...],
        Meta(min_length=0, max_length=MAX_RESULTS_PER_FRAME),
    ]
    """IEEE single floats, little-endian, scaled to length 1."""


class Scores(Private, frozen=True, array_like=True):
    """Plaintext of a data frame of ``rerank``: the next scores, in the order of the documents."""

    scores: Annotated[tuple[float, ...], Meta(min_length=0, max_length=MAX_RESULTS_PER_FRAME)]
    """0 to 1, higher is more relevant."""


class Tokens(Private, frozen=True, array_like=True):
    """Plaintext of a data frame of ``tokenize``: the next token ids."""

    tokens: Annotated[tuple[U32, ...], Meta(min_length=0, max_length=MAX_TOKENS_PER_CHUNK)]


class Text(Private, frozen=True, array_like=True):
    """Plaintext of a data frame of ``detokenize``: the next characters."""

    text: Annotated[str, Meta(max_length=MAX_TEXT_CHARS_PER_FRAME)]


Part = Vectors | Scores | Tokens | Text
"""What a data frame holds in the answer of any kind but chat."""


class Usage(msgspec.Struct, frozen=True, array_like=True):
    """The counts that are billed."""

    n_prompt_tokens: U32
    n_output_tokens: U32
    n_cached_tokens: U32 = 0
    n_reasoning_tokens: U32 = 0


class Final(Private, frozen=True, array_like=True):
    """Plaintext of the final frame (MessagePack)."""

    finish_reasons: Annotated[tuple[str, ...], Meta(max_length=MAX_CHOICES)]
    """Per choice: ``stop``, ``length``, ``tool_calls`` or ``cancelled``."""
    usage: Usage
    output_digest: bytes
    """SHA-256 over the response salt and all data plaintexts (specs/06)."""
    audit_logprobs: bytes = b""
    """Chosen-token logprobs, IEEE half floats, big-endian; empty when not asked for."""


class Failure(Private, frozen=True, array_like=True):
    """Plaintext of an error frame: the request cannot be served as written; retrying elsewhere is pointless."""

    code: Annotated[str, Meta(max_length=64)]
    """An `mcd.errors.UserError` code, e.g. ``context_length_exceeded``."""
    message: Annotated[str, Meta(max_length=MAX_ERROR_CHARS)]
    param: Annotated[str, Meta(max_length=128)] = ""
