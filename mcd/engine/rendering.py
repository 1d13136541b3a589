"""The worker's end of the template process: one rendering under way, the others in order behind it."""

from __future__ import annotations

from mcd.engine import renderer
from mcd.engine.killable import Channel, Status
from mcd.errors import ContextLengthError, InvalidRequestError, McdError, UserError

_SHOWN_CHARS = 200


class RendererGoneError(McdError):
    """The keeper of the renderer ended, which only the end of this machine's memory explains; we end as well."""

    code = "engine_renderer_gone"


class TemplateError(McdError):
    """A template that cannot be used at all; the message says why."""

    code = "template_invalid"


class Rendering:
    """Owner: LlamaBackend, of the channel to the template process that the worker started."""

    def __init__(self, ends: tuple[int, int]) -> None:
        """Take over the channel; nothing is sent yet."""
        gone = RendererGoneError("the template process has ended")
        self._channel = Channel(ends, renderer.MAX_ANSWER_BYTES, gone)

    @classmethod
    def start(cls) -> Rendering:
        """Fork the process; call while the worker is confined, and before it has keys.

        Raises:
            OSError: No process can be made.
        """
        return cls(renderer.start())

    def fileno(self) -> int:
        """Readable when an answer is there, or the process has gone."""
        return self._channel.fileno()

    @property
    def n_waiting(self) -> int:
        """Renderings asked for and not yet received."""
        return self._channel.n_waiting

    def load(self, source: str) -> None:
        """Compile the template; blocks.

        Raises:
            TemplateError: It does not compile, within its limits.
        """
        answer = self._channel.ask(source.encode("utf-8", "replace"))
        if answer[0] != Status.DONE:
            raise TemplateError(f"the chat template does not compile: {_reason(answer)}")

    def render(self, variables: bytes) -> str:
        """Render at once; blocks. For trying a template out while nothing else waits.

        Raises:
            UserError: The template refuses.
            TemplateError: It needs too much even for this.
        """
        answer = self._channel.ask(variables)
        if answer[0] in {Status.TOO_SLOW, Status.TOO_LARGE, Status.CRASHED}:
            raise TemplateError(f"the chat template {_reason(answer)} for a few words")
        return _result(answer)

    def submit(self, job_id: int, variables: bytes) -> None:
        """Queue a rendering; `take` will have it.

        Raises:
            ContextLengthError: This is more than any context holds.
            RendererGoneError: The process has ended.
        """
        if len(variables) > renderer.MAX_REQUEST_BYTES:
            raise _too_long()
        self._channel.submit(job_id, variables)

    def cancel(self, job_id: int) -> None:
        """Forget a rendering; one under way goes on, and nobody will have it."""
        self._channel.cancel(job_id)

    def take(self) -> tuple[int, str | UserError] | None:
        """One finished rendering, if there is one: its job, and the prompt or why there is none.

        Raises:
            RendererGoneError: The process has ended.
        """
        answered = self._channel.take()
        if answered is None:
            return None
        try:
            return answered[0], _result(answered[1])
        except UserError as error:
            return answered[0], error.with_traceback(None)  # whose frames hold the request, and so it them

    def close(self) -> None:
        """End the process: it ends when its channel does."""
        self._channel.close()


def _result(answer: bytes) -> str:
    if answer[0] == Status.DONE:
        return answer[1:].decode("utf-8", "replace")
    if answer[0] == Status.TOO_LONG:
        raise _too_long()
    if answer[0] == Status.REFUSED:
        raise InvalidRequestError(
            f"the model's chat template refuses these messages: {_reason(answer)}", param="messages"
        )
    raise InvalidRequestError(f"the model's chat template {_reason(answer)} for these messages", param="messages")


def _too_long() -> ContextLengthError:
    return ContextLengthError("the prompt is longer than any context", param="messages")


def _reason(answer: bytes) -> str:
    match answer[0]:
        case Status.REFUSED:
            return answer[1:].decode("utf-8", "replace")[:_SHOWN_CHARS]
        case Status.TOO_SLOW:
            return f"needs more than {renderer.RENDER_CPU_S:.0f} s"
        case Status.TOO_LARGE:
            return f"needs more than {renderer.MEMORY_BYTES // 2**20} MiB"
        case Status.TOO_LONG:
            return "writes more than any context holds"
        case _:
            return "ends its own process"
