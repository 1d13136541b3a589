"""The projector: pictures to embeddings, and those into the KV memory. The only owner of mtmd's pointers.

The order of calls of one request: `tokenize` gives the prompt with its `Pictures`; `compute` encodes and decodes one of
them, a step of the scheduler's; `Pictures.close` frees what C holds of them.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import time
from collections.abc import Sequence
from typing import Any

from mcd.engine import abi
from mcd.engine.backend import StartError
from mcd.engine.decoding import Picture
from mcd.engine.fit import STEP_ROWS
from mcd.engine.messages import FailureCode
from mcd.engine.model import Context, Model
from mcd.engine.spans import Span, key_of
from mcd.errors import InvalidRequestError

MAX_IMAGE_TOKENS = 1024
"""Of one picture, where the projector goes by its size: its own limit may be four times as much, and sixteen times the
work, for which everybody on this engine waits."""
MAX_JOINT_TOKENS = STEP_ROWS
"""The same where a picture's cells see one another, so that they have to be computed in one go."""
_SIZED = frozenset(
    {"qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "ling3vl", "glm4v", "glm5v", "kimik25",
     "muse-glimmer", "youtuvl", "mimovl", "dots_ocr", "dots3note_v", "paddleocr", "exaone4_5"}
)  # fmt: skip
"""Projectors whose own limit, or that of their file, may exceed ours."""
_JOINT = frozenset({"gemma4v", "gemma4uv"})
"""Those that go by size, and whose cells see one another."""
_UNABLE = frozenset({"hunyuanvl", "deepseek4v"})
"""Those whose cells depend on what stands before the picture."""
MAX_ENCODE_S = 20.0
"""Of one picture. Nobody on this engine gets a token meanwhile; at twice as long it is taken for stuck, and ended."""
TRIED_SIDE = 1024
"""Of the picture that is tried at the start: several tiles, where there are any."""
_TEXT = 0
"""MTMD_INPUT_CHUNK_TYPE_TEXT; there are no other kinds but pictures here."""


class Pictures:
    """What C holds of one prompt's pictures. Owner: the request; freed by `close`."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self._chunks: list[Any] = []
        self.spans: list[Span] = []

    @property
    def n_tokens(self) -> int:
        """Cells of all pictures."""
        return sum(span.n_cells for span in self.spans)

    def add_chunks(self) -> Any:
        """Room for what one picture is cut into."""
        self._chunks.append(self._lib.mtmd_input_chunks_init())
        return self._chunks[-1]

    def close(self) -> None:
        """Free their pixels, which overwrites them."""
        for chunks in self._chunks:
            self._lib.mtmd_input_chunks_free(chunks)
        self._chunks.clear()


class Vision:
    """A loaded projector. Owner: LlamaBackend."""

    def __init__(self, model: Model, path: str, kind: str, *, use_gpu: bool, n_threads: int) -> None:
        """Load the file.

        Args:
            model: What will read the embeddings.
            path: The projector.
            kind: Its type, as its header says.
            use_gpu: Compute there.
            n_threads: On the processor.

        Raises:
            StartError: mtmd refuses it, or the model is not one it belongs to.
        """
        if kind in _UNABLE:
            raise StartError(FailureCode.PROJECTOR_INVALID)
        self._model = model
        self._lib = lib = _library()
        params = lib.mtmd_context_params_default()
        params.use_gpu = use_gpu
        params.n_threads = n_threads
        params.print_timings = False
        if kind in _SIZED | _JOINT:
            params.image_max_tokens = MAX_JOINT_TOKENS if kind in _JOINT else MAX_IMAGE_TOKENS
        self.handle = lib.mtmd_init_from_file(path.encode(), model.handle, params)
        if not self.handle:
            is_full = abi.has_failed_to_allocate()
            raise StartError(FailureCode.OUT_OF_MEMORY if is_full else FailureCode.PROJECTOR_INVALID)
        self._is_flat = not lib.mtmd_decode_use_mrope(self.handle)
        if not lib.mtmd_support_vision(self.handle) or (model.cuts.window and not self._is_flat):
            # where positions skip, a window's first cell cannot be told from its position
            raise StartError(FailureCode.PROJECTOR_INVALID)
        self.encode_s = 0.0
        """What one picture took, when it was tried."""
        self._largest = (0, 0)
        """Width and height of the largest picture since the last `wipe`."""
        self._try_out()
        self._largest = (0, 0)

    def tokenize(self, parts: Sequence[list[int] | Picture], *, add_special: bool) -> tuple[list[int], Pictures]:
        """A prompt in pieces to its tokens, and what stands for its pictures.

        Each piece by itself, which is how mtmd does it; text comes as tokens. Pieces are told apart by their type, so
        no text can be taken for a picture.

        Raises:
            InvalidRequestError: A picture is of no shape the projector takes.
        """
        pictures = Pictures(self._lib)
        tokens = self._model.added("bos") if add_special else []
        try:
            for part in parts:
                if isinstance(part, Picture):
                    self._add(part, tokens, pictures)
                else:
                    tokens += part
        except InvalidRequestError:
            pictures.close()
            raise
        return tokens + (self._model.added("eos") if add_special else []), pictures

    def compute(self, context: Context, span: Span, position: int, sequence: int) -> bool:
        """Encode a picture and put it into a sequence's KV memory; False when that failed and the memory is unsure."""
        lib = self._lib
        if lib.mtmd_encode_chunk(self.handle, span.chunk) != 0:
            return False
        embeddings = lib.mtmd_get_output_embd(self.handle)
        after = ctypes.c_int32(0)
        status = lib.mtmd_helper_decode_image_chunk(
            self.handle, context.handle, span.chunk, embeddings, position, sequence, STEP_ROWS, ctypes.byref(after),
            lib.mtmd_helper_post_decode_callback(), None,
        )  # fmt: skip
        ctypes.memset(embeddings, 0, 4 * span.n_cells * self._model.n_embd_in)
        return bool(status == 0)

    @property
    def is_clean(self) -> bool:
        """Nothing of a picture lies in the buffers of projector and model."""
        return self._largest == (0, 0)

    def wipe(self) -> tuple[int, int]:
        """Compute a white picture of the largest size since the last time: what others left is overwritten.

        Returns rows and width of the embeddings that one decode may have had.
        """
        (width, height), n_rows = self._largest, 0
        if width and height:
            _, pictures = self.tokenize((Picture(width, height, b"\xff" * (3 * width * height)),), add_special=False)
            for span in pictures.spans:
                self._lib.mtmd_encode_chunk(self.handle, span.chunk)
                n_rows = max(n_rows, min(span.n_cells, STEP_ROWS))
            pictures.close()
        self._largest = (0, 0)
        return n_rows, self._model.n_embd_in

    def close(self) -> None:
        """Free it."""
        if self.handle:
            self._lib.mtmd_free(self.handle)
            self.handle = None

    # --- inside ---

    def _try_out(self) -> None:
        """Cut a large picture and compute a part of it: what goes wrong at every picture goes wrong here.

        Raises:
            StartError: The vocabulary lacks a word that the projector puts around pictures, what it computes is no
                number, or takes so long that others must not wait for it.
        """
        white = Picture(TRIED_SIDE, TRIED_SIDE, b"\xff" * (3 * TRIED_SIDE**2))
        try:
            _, pictures = self.tokenize((white,), add_special=False)
        except InvalidRequestError:
            raise StartError(FailureCode.PROJECTOR_INVALID) from None
        chunk = pictures.spans[0].chunk
        began = time.perf_counter()
        is_sound = self._lib.mtmd_encode_chunk(self.handle, chunk) == 0 and all(
            math.isfinite(value) for value in self._lib.mtmd_get_output_embd(self.handle)[: self._model.n_embd_in]
        )
        self.encode_s = time.perf_counter() - began
        pictures.close()
        if not is_sound:
            raise StartError(FailureCode.PROJECTOR_INVALID)
        if self.encode_s > MAX_ENCODE_S:
            raise StartError(FailureCode.PROJECTOR_SLOW)

    def _add(self, picture: Picture, tokens: list[int], pictures: Pictures) -> None:
        """Cut one picture into what the projector takes at a time, with the words it wants around."""
        lib = self._lib
        chunks = pictures.add_chunks()
        bitmap = self._bitmap(picture)
        part = lib.mtmd_input_part(None, bitmap)
        pointers = (ctypes.POINTER(lib.mtmd_input_part) * 1)(ctypes.pointer(part))
        status = lib.mtmd_tokenize_from_parts(self.handle, chunks, pointers, 1, False)
        lib.mtmd_bitmap_free(bitmap)
        if status != 0:
            raise InvalidRequestError("the model's projector cannot take a picture of this shape", param="messages")
        for index in range(lib.mtmd_input_chunks_size(chunks)):
            chunk = lib.mtmd_input_chunks_get(chunks, index)
            if lib.mtmd_input_chunk_get_type(chunk) == _TEXT:
                n_tokens = ctypes.c_size_t(0)
                ids = lib.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n_tokens))
                words = ids[: n_tokens.value]
                if any(token < 0 for token in words):
                    raise InvalidRequestError("the model has no words for what surrounds a picture", param="messages")
                tokens += words
                continue
            n_cells = int(lib.mtmd_input_chunk_get_n_tokens(chunk))
            n_positions = int(lib.mtmd_input_chunk_get_n_pos(chunk))
            pictures.spans.append(Span(len(tokens), n_cells, n_positions, is_flat=self._is_flat, chunk=chunk))
            name = (lib.mtmd_input_chunk_get_id(chunk) or b"").decode("ascii", "replace")
            tokens += [key_of(name, len(pictures.spans))] * n_cells

    def _bitmap(self, picture: Picture) -> Any:
        pixels = (ctypes.c_uint8 * len(picture.rgb)).from_buffer_copy(picture.rgb)
        bitmap = self._lib.mtmd_bitmap_init(picture.width, picture.height, pixels)
        name = hashlib.sha256(b"%d %d " % (picture.width, picture.height) + picture.rgb).hexdigest()
        self._lib.mtmd_bitmap_set_id(bitmap, name.encode())
        self._largest = max(self._largest, (picture.width, picture.height), key=lambda size: size[0] * size[1])
        return bitmap


def _library() -> Any:
    """Import mtmd's bindings and silence it: it logs what it tokenises."""
    try:
        from llama_cpp import mtmd_cpp as lib
    except (ImportError, OSError, RuntimeError):
        raise StartError(FailureCode.LIBRARY_MISSING) from None
    abi.silence(lib.mtmd_helper_log_set)
    return lib
