"""A request of a chat from its prompt to its end: one sequence for each of its choices."""

from __future__ import annotations

from mcd.engine.backend import Job
from mcd.engine.prompts import Prompt
from mcd.engine.sequence import Sequence
from mcd.wire.payload import Usage


class Active:
    """A request under way: its choices. Owner: LlamaBackend."""

    def __init__(self, job: Job, prompt: Prompt) -> None:
        self.job = job
        self.prompt = prompt
        self.sequences: list[Sequence] = []
        self.n_ended = 0

    def usage(self) -> Usage:
        """What it has used."""
        n_prompt_tokens = len(self.prompt.tokens)
        return Usage(
            n_prompt_tokens,
            sum(s.n_generated for s in self.sequences),
            # what the first choice found cached; the others share the first's prompt
            min(n_prompt_tokens, self.sequences[0].n_cached) if self.sequences else 0,
            sum(s.n_reasoning for s in self.sequences),
        )

    def open(self) -> bool:
        """Set what binds its choices to work, and bring the first to where it is resumed.

        Raises:
            UserError: llama.cpp does not take it after all, or the tokens to resume after do not fit it.
        """
        samplers = [sequence.sampler for sequence in self.sequences]
        for one in samplers:
            one.open()
        samplers[0].replay(self.sequences[0].replayed)
        return True

    def close(self) -> None:
        """Free what its choices and pictures hold in C."""
        for sequence in self.sequences:
            sequence.close()
        self.prompt.close()
