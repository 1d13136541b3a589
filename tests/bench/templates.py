"""What a process of its own costs a chat template: the same prompts written there and here, in turns.

    python -m tests.bench.templates

A usual chat: a system message, ten turns of a hundred words, five tools. Needs `make setup-dev` for the templates.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import msgspec

from mcd.api.request import ChatMessage, ChatRequest, ToolFunction
from mcd.engine.chat import Template
from mcd.engine.jinja_sandbox import CompiledTemplate
from mcd.engine.rendering import Rendering
from mcd.engine.supervise import WORKER_ENV
from tests.bench.engine_tables import spread, table
from tests.fakes import templates

NAMES = (
    "meta-llama-Llama-3.1-8B-Instruct",
    "Qwen-Qwen3-0.6B",
    "openai-gpt-oss-120b",
    "google-gemma-4-31B-it",
    "Mistral-Small-3.2-24B-Instruct-2506",
)
N_PROMPTS = 200
PAUSE_S = 0.002
"""Between prompts, as requests come: the processes sleep meanwhile."""
GOAL_MS = 2.0


def usual_chat() -> ChatRequest:
    """The request."""
    turns = [ChatMessage(role=("user", "assistant")[i % 2], content=f"turn {i} " * 50) for i in range(9)]
    parameters = msgspec.Raw(b'{"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"}}}')
    tools = tuple(ToolFunction(name=f"tool{i}", description="looks outside", parameters=parameters) for i in range(5))
    return ChatRequest(model="m", messages=(ChatMessage(role="system", content="Be kind."), *turns), tools=tools)


def measure(name: str) -> tuple[str, str, str, str]:
    """One row: milliseconds here, there, and what the difference is at the median."""
    source = templates.source(name)
    compiled = CompiledTemplate(source)
    rendering = Rendering.start()
    rendering.load(source)
    template = Template(source, "<s>", "</s>", rendering.render)
    here: list[float] = []
    there: list[float] = []
    for _ in range(N_PROMPTS):
        variables = template.variables(usual_chat(), 0, with_tools=True)
        began = time.perf_counter()
        own = compiled.render(json.loads(variables))
        here.append((time.perf_counter() - began) * 1e3)
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        other = rendering.render(variables)
        there.append((time.perf_counter() - began) * 1e3)
        time.sleep(PAUSE_S)
        assert own.decode() == other
    rendering.close()
    added = sorted(there)[N_PROMPTS // 2] - sorted(here)[N_PROMPTS // 2]
    return name, spread(_middle(here), ".2f"), spread(_middle(there), ".2f"), f"{added:.2f}"


def _middle(values: list[float]) -> list[float]:
    """Without the tenth at each end, which belong to the machine."""
    return sorted(values)[N_PROMPTS // 10 : -N_PROMPTS // 10]


def main() -> None:
    """Measure in a process with the worker's environment, print milliseconds a prompt."""
    if "PYTHONMALLOC" not in os.environ:
        subprocess.run([sys.executable, "-m", "tests.bench.templates"], env={**os.environ, **WORKER_ENV}, check=True)
        return
    table(("template", "here, ms", "in its process, ms", "added, ms p50"), [measure(name) for name in NAMES])
    print(f"  goal: < {GOAL_MS:.0f} ms added")


if __name__ == "__main__":
    main()
