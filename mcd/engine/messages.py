"""Frames between the daemon and its inference process: length-prefixed MessagePack, ciphertext and counts only.

No struct here can carry a prompt, a completion or the text of an error about one: what the worker says of a
user's fault travels sealed, and of its own faults as a code from a closed set.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

import msgspec

from mcd.errors import RemoteProtocolError
from mcd.wire.messages import MAX_SEALED_BYTES

LENGTH_BYTES = 4
MAX_FRAME_TO_WORKER_BYTES = MAX_SEALED_BYTES + 4096
"""A Submit with the largest sealed request and its header."""
MAX_FRAME_TO_DAEMON_BYTES = 4 * 1024 * 1024
"""One batch; the worker cuts a batch long before (BATCH_CUT_BYTES)."""
BATCH_CUT_BYTES = 1024 * 1024
"""A batch is closed once it holds this much, so that no frame nears the limit."""
CREDIT_CHUNKS = 32
"""Chunks of one request that may be under way unread; at a chunk each 100 ms a reader may lag 3 s."""


class FailureCode(IntEnum):
    """What went wrong inside the worker, when it is nobody's request text that tells."""

    INTERNAL = 1
    ENVELOPE = 2
    """The sealed request did not open."""
    MODEL_INVALID = 3
    """llama.cpp refuses the file."""
    OUT_OF_MEMORY = 4
    LIBRARY_MISMATCH = 5
    """The llama.cpp library is not the one this code was written for."""
    LIBRARY_MISSING = 6
    SCRIPT_INVALID = 7
    UPSTREAM = 8
    """The adapter's server is unreachable or broke its protocol."""
    MODEL_UNSUPPORTED = 9
    """The model loads but is no decoder of text."""
    COMPUTE = 10
    """llama_decode failed, the model computes no numbers (NaN), or none of its tokens fits what must come next."""
    NO_GPU = 11
    """--gpu with a build that has no GPU support."""
    UPSTREAM_MODEL = 12
    """The adapter's server does not have the model."""
    PROJECTOR_INVALID = 13
    """mtmd refuses the projector, it is not this model's, or of a kind we cannot run."""
    PICTURES_MISSING = 14
    """A projector, but nothing to decode pictures with."""
    PROJECTOR_SLOW = 15
    """A picture takes longer than everybody else may be kept waiting."""


class Frame(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """Base of every frame; the concrete type carries its number as the MessagePack tag."""


# --- to the worker -------------------------------------------------------------------------------------------


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may choose for one engine; None and 0 mean: measure and decide."""

    n_threads: int = 0
    """Compute threads. 0: physical cores - 1, at least 1; more than the free cores makes them spin."""
    n_slots: int = 0
    """Sequences decoded together. 0: the engine's own default; more costs KV memory."""
    most_slots: int = 0
    """Without ``n_slots``, at most so many of them. 0: the engine's own default."""
    n_ctx: int = 0
    """Most tokens one request may hold, prompt and answer. 0: the model's, capped by KV memory."""
    n_cells: int = 0
    """KV memory of all slots together, tokens. 0: a context for each slot, capped by KV memory."""
    checkpoint_bytes: int = 0
    """Checkpoints of all slots together, for a model that needs them. 0: a part of what KV memory may take."""
    gpu: bool = False
    """Compute on GPUs: the process may open their devices."""
    n_gpu_layers: int = -1
    """With ``gpu``, layers there, the output head counted as one; -1 is all of them."""
    split: tuple[int, ...] = ()
    """Layers on each GPU; empty leaves it to llama.cpp."""
    device: str = ""
    """What computes, for the record; empty: say it yourself."""
    samples_in_graph: bool = False
    """Choose tokens where the model computes. On a GPU copying every row of logits to the processor and sampling there
    costs half of what 32 streams could give; on a processor it only adds work."""
    max_bytes: int = 0
    """What the process may allocate besides files it maps; more ends it, not its neighbours. 0: no limit."""
    start_timeout_s: float = 600.0
    """A model that is not ready by then is killed and counted as a crash."""


class Hello(Frame, frozen=True, array_like=True, tag=1):
    """First frame: what will be loaded and for whom. The process is confined for it and makes its keys."""

    backend: str
    """``llama``, ``scripted`` or ``openai``."""
    source: str
    """GGUF path, script path or base URL."""
    alias: str
    model_digest: bytes
    peer_public_key: bytes
    options: EngineOptions
    projector: str = ""
    """Path of the file through which the model sees; empty: it does not."""


class Certificate(Frame, frozen=True, array_like=True, tag=2):
    """The peer key's signature over the engine's identity."""

    certificate: bytes


class Submit(Frame, frozen=True, array_like=True, tag=3):
    """One sealed request; ``id`` is the daemon's, unique while the worker lives."""

    id: int
    header: bytes
    sealed: bytes
    max_output_tokens: int
    resume_from: int
    asker: int = 0
    max_slots: int = 0


class Drop(Frame, frozen=True, array_like=True, tag=4):
    """Stop this request and say nothing more about it. Unknown ids are ignored: it may just have ended."""

    id: int


class Credit(Frame, frozen=True, array_like=True, tag=5):
    """The consumer took this many more chunks."""

    id: int
    n_chunks: int


class Load(Frame, frozen=True, array_like=True, tag=6):
    """Load the model now, in this way; once in a worker's life. To unload it the process is ended."""

    options: EngineOptions


class Cancel(Frame, frozen=True, array_like=True, tag=7):
    """Stop this request and seal an end for what was delivered. Unknown ids are ignored, as above."""

    id: int


ToWorker = Hello | Certificate | Load | Submit | Drop | Credit | Cancel


# --- to the daemon -------------------------------------------------------------------------------------------


class CertificateWanted(Frame, frozen=True, array_like=True, tag=32):
    """The worker made its identity; certify it."""

    engine_public_key: bytes


class Ready(Frame, frozen=True, array_like=True, tag=33):
    """The model is loaded and measured; requests may come."""

    n_ctx: int
    n_slots: int
    capabilities: tuple[str, ...]
    prefill_tokens_per_s: float
    output_tokens_per_s: float
    sealing: int
    device: str
    notes: tuple[str, ...] = ()
    """What the operator should know, e.g. ``the model has no chat template``."""
    tuning: tuple[str, ...] = ()
    """What was chosen by measuring, and why: a line of ``mcd doctor`` each."""


class NotReady(Frame, frozen=True, array_like=True, tag=34):
    """The start failed for a reason that will not go away by itself; the worker exits."""

    code: int


class Rotated(Frame, frozen=True, array_like=True, tag=35):
    """New key configs, best suite first."""

    configs: tuple[bytes, ...]
    key_id: bytes


class Status(Frame, frozen=True, array_like=True, tag=36):
    """How busy the engine is; sent when it changes."""

    n_running: int
    n_waiting: int


class Started(Frame, frozen=True, array_like=True, tag=37):
    """The envelope opened and the prompt was tokenised."""

    id: int
    response_key: bytes
    n_prompt_tokens: int


class Chunk(Frame, frozen=True, array_like=True, tag=38):
    """One sealed data frame."""

    id: int
    frame: bytes
    n_tokens: int


class Finished(Frame, frozen=True, array_like=True, tag=39):
    """The sealed final or error frame and the signed receipt; the request is over."""

    id: int
    frame: bytes
    receipt: bytes
    n_prompt_tokens: int
    n_output_tokens: int


class Refused(Frame, frozen=True, array_like=True, tag=40):
    """Not taken, nothing computed; ``reason`` is a wire RefuseReason."""

    id: int
    reason: int


class Asleep(Frame, frozen=True, array_like=True, tag=42):
    """Confined, with keys, and without a model: waits for Load."""

    configs: tuple[bytes, ...]
    key_id: bytes
    """Newest key of the best suite."""
    sandbox: tuple[str, ...]
    """One line a control: what holds and what does not."""


class Failed(Frame, frozen=True, array_like=True, tag=41):
    """Broken off by a fault of the engine; the request is over."""

    id: int
    code: int


ToDaemon = (
    CertificateWanted | Asleep | Ready | NotReady | Rotated | Status | Started | Chunk | Finished | Refused | Failed
)

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_daemon = msgspec.msgpack.Decoder(list[ToDaemon])


def encode_to_worker(frame: ToWorker) -> bytes:
    """One length-prefixed frame."""
    return _prefixed(_encoder.encode(frame))


def encode_to_daemon(frames: list[ToDaemon]) -> bytes:
    """All frames of one step as one length-prefixed batch."""
    return _prefixed(_encoder.encode(frames))


def decode_to_worker(body: bytes) -> ToWorker:
    """Read one frame.

    Raises:
        RemoteProtocolError: Not one of ours.
    """
    return _decoded(_to_worker, body)


def decode_to_daemon(body: bytes) -> list[ToDaemon]:
    """Read one batch.

    Raises:
        RemoteProtocolError: Not one of ours.
    """
    return _decoded(_to_daemon, body)


class FrameBuffer:
    """Bytes in, whole frame bodies out. Owner: one end of the link."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max = max_frame_bytes
        self._data = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Add received bytes; return the bodies completed by them.

        Raises:
            RemoteProtocolError: A frame announces more than the limit.
        """
        self._data += data
        bodies: list[bytes] = []
        start = 0
        while len(self._data) - start >= LENGTH_BYTES:
            size = int.from_bytes(self._data[start : start + LENGTH_BYTES], "big")
            if size > self._max:
                raise RemoteProtocolError("an engine frame exceeds its limit")
            if len(self._data) - start - LENGTH_BYTES < size:
                break
            start += LENGTH_BYTES
            bodies.append(bytes(self._data[start : start + size]))
            start += size
        if start:
            del self._data[:start]
        return bodies


_T = TypeVar("_T")


def _prefixed(body: bytes) -> bytes:
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def _decoded(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise RemoteProtocolError("an engine frame does not decode") from None
