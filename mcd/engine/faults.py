"""Why an engine did not start, in words for the operator, and whether another start makes sense. Pure."""

from __future__ import annotations

import msgspec

from mcd.engine.messages import FailureCode

MAX_START_CRASHES = 2
"""A model that never was ready and ends its process twice is bad; restarting it for ever would only make noise."""
MAX_LOAD_FAILURES = 1
"""How often a model that found no memory is tried again, made to fit into less."""
BAD_FILE = "the file is damaged, or newer than llama-cpp-python 0.3.36"
TOO_BIG = "not enough memory for this model and context; choose a smaller one"

_WORDS = {
    FailureCode.MODEL_INVALID: f"llama.cpp cannot load the model: {BAD_FILE}",
    FailureCode.MODEL_UNSUPPORTED: "this model neither generates text nor embeds nor ranks, as far as we know it",
    FailureCode.OUT_OF_MEMORY: TOO_BIG,
    FailureCode.LIBRARY_MISMATCH: "the installed llama.cpp is not the one of llama-cpp-python 0.3.36; install it anew",
    FailureCode.LIBRARY_MISSING: "llama-cpp-python is not installed; run: make setup-serve",
    FailureCode.SCRIPT_INVALID: "the script of the scripted engine cannot be read",
    FailureCode.UPSTREAM: "the server behind --engine openai:URL does not answer as an OpenAI-compatible one",
    FailureCode.UPSTREAM_MODEL: "the server behind --engine openai:URL does not list this model",
    FailureCode.NO_GPU: "this llama-cpp-python was built without GPU support; reinstall it with it, or use --cpu",
    FailureCode.PROJECTOR_INVALID: "the projector (.mmproj.gguf) is damaged, of an unknown kind, or another model's; "
    "remove it to serve the model without pictures",
    FailureCode.PICTURES_MISSING: "the model has a projector, but Pillow is not installed; run: make setup-serve",
    FailureCode.PROJECTOR_SLOW: "one picture takes more than 20 s on this machine, and everybody waits for it; "
    "use --gpu, or remove the projector (.mmproj.gguf)",
    FailureCode.COMPUTE: "the model computes no valid numbers (NaN); the file is damaged",
}


class Verdict(msgspec.Struct, frozen=True):
    """On one end of a process."""

    is_final: bool
    """Another start would end the same way."""
    why: str


class Starts:
    """The failed starts of one engine. Owner: EngineProcess."""

    def __init__(self) -> None:
        self.n_load_failures = 0
        """How often in a row there was, or may have been, not enough memory; each time the model is made to fit into
        less."""
        self._n_crashes = 0
        self.was_ready = False
        """It was loaded once since the daemon started: want of memory will pass."""

    def succeeded(self) -> None:
        """The model is loaded."""
        self.n_load_failures = 0
        self.was_ready = True

    def ended(self, failure: int | None, end: str, *, is_loading: bool) -> Verdict:
        """Judge the end of a process.

        Args:
            failure: Its last words, a FailureCode; None when it said nothing.
            end: How it ended, in words.
            is_loading: It ended while loading the model.
        """
        if failure == FailureCode.OUT_OF_MEMORY and self.n_load_failures < MAX_LOAD_FAILURES:
            self.n_load_failures += 1
            return Verdict(False, "not enough memory; the next try makes do with less")
        if failure is not None:
            may_pass = failure == FailureCode.UPSTREAM or (failure == FailureCode.OUT_OF_MEMORY and self.was_ready)
            return Verdict(not may_pass, words(failure))  # an upstream may come back, other programs may end
        if not self.was_ready:
            self._n_crashes += 1
            if self._n_crashes >= MAX_START_CRASHES:
                return Verdict(True, f"the inference process stops while loading ({end}): {BAD_FILE}")
        if is_loading:
            self.n_load_failures += 1  # the kernel or a driver may have ended it for want of memory
        return Verdict(False, end)


def words(failure: int) -> str:
    """Why an engine cannot start."""
    try:
        return _WORDS[FailureCode(failure)]
    except (ValueError, KeyError):
        return f"the engine cannot start (code {failure})"
