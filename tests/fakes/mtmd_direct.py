"""mtmd asked directly, one prompt at a time, by its own helpers: what an engine's answer is compared with."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp.llama_cpp as llama
import llama_cpp.mtmd_cpp as mtmd
import numpy as np

from tests.fakes.llama_direct import on_processor

MARKER = "<__media__>"
_quiet = llama.llama_log_callback(lambda *_: None)


def answer(path: Path, prompt: str, pictures: list[np.ndarray], n_new: int, *, image_max_tokens: int = -1) -> list[int]:
    """Greedy tokens after a prompt with a `MARKER` for each picture; an end token is left out."""
    for log_set in (llama.llama_log_set, mtmd.mtmd_helper_log_set):
        log_set(_quiet, ctypes.c_void_p(0))
    model = on_processor(llama, path)
    wanted = llama.llama_context_default_params()
    wanted.n_ctx, wanted.n_threads, wanted.n_threads_batch, wanted.swa_full = 2048, 1, 1, False
    context = llama.llama_init_from_model(model, wanted)
    params = mtmd.mtmd_context_params_default()
    params.use_gpu, params.n_threads, params.print_timings = False, 1, False
    params.image_max_tokens = image_max_tokens
    projector = mtmd.mtmd_init_from_file(str(path.with_suffix(".mmproj.gguf")).encode(), model, params)
    chunks = mtmd.mtmd_input_chunks_init()
    bitmaps = [
        mtmd.mtmd_bitmap_init(
            picture.shape[1],
            picture.shape[0],
            np.ascontiguousarray(picture).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)),
        )
        for picture in pictures
    ]
    data = prompt.encode()
    text = mtmd.mtmd_input_text(data, len(data), True, True)
    array = (mtmd.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
    assert mtmd.mtmd_tokenize(projector, chunks, ctypes.byref(text), array, len(bitmaps)) == 0
    at = ctypes.c_int32(0)
    assert mtmd.mtmd_helper_eval_chunks(projector, context, chunks, 0, 0, 512, True, ctypes.byref(at)) == 0
    tokens = _go_on(model, context, at.value, n_new)
    mtmd.mtmd_input_chunks_free(chunks)
    for bitmap in bitmaps:
        mtmd.mtmd_bitmap_free(bitmap)
    mtmd.mtmd_free(projector)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return tokens


def _go_on(model: object, context: object, at: int, n_new: int) -> list[int]:
    greedy = llama.llama_sampler_init_greedy()
    vocab = llama.llama_model_get_vocab(model)
    batch = llama.llama_batch_init(1, 0, 1)
    tokens: list[int] = []
    while len(tokens) < n_new:
        token = llama.llama_sampler_sample(greedy, context, -1)
        if llama.llama_vocab_is_eog(vocab, token):
            break
        tokens.append(token)
        batch.n_tokens, batch.token[0], batch.pos[0], batch.logits[0] = 1, token, at, 1
        batch.n_seq_id[0], batch.seq_id[0][0] = 1, 0
        assert llama.llama_decode(context, batch) == 0
        at += 1
    llama.llama_batch_free(batch)
    llama.llama_sampler_free(greedy)
    return tokens
