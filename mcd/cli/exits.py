"""Exit codes, which scripts rely on, and the error that carries one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcd.errors import McdError

OK = 0
ERROR = 1
USAGE = 2
NO_DAEMON = 3
NOT_FOUND = 4
"""No such model, or no peer can serve it."""
INTERRUPTED = 130
"""What shells report after Ctrl-C."""

_FLAGS = {
    "temperature": "--temperature",
    "max_tokens": "--max-tokens",
    "n_prompt_tokens": "--prompt-tokens",
    "n_output_tokens": "--output-tokens",
}
"""What people type for a parameter of the API or the control socket."""
_CODES = {"model_not_found": NOT_FOUND, "no_peer_available": NOT_FOUND, "config_invalid": USAGE}


class CommandError(McdError):
    """Ends a command: the message goes to stderr, ``exit_code`` to the shell."""

    def __init__(self, message: str, exit_code: int = ERROR, api_code: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.api_code = api_code
        """The ``code`` in the error body that this came from."""


def exit_code(error: McdError) -> int:
    """The exit code of an error that ends a command."""
    return error.exit_code if isinstance(error, CommandError) else for_code(error.code)


def for_code(code: str | None) -> int:
    """The exit code of an error that an API or the daemon reported by its code."""
    return _CODES.get(code or "", ERROR)


def refusal(error: Mapping[str, Any]) -> CommandError:
    """What to say of an error body of the API or the control socket; of a flag in the flag's name."""
    message, param = str(error["message"]), error.get("param")
    if param in _FLAGS:
        return CommandError(message.replace(param, _FLAGS[param]), USAGE)
    return CommandError(message, for_code(error["code"]), error["code"])
