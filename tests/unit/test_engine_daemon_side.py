"""The daemon's half of the engine, without processes: back-off, frames, names, templates' limits."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from mcd.engine import catalogue, messages, supervise
from mcd.engine.catalogue import resolve, sanitise_alias
from mcd.engine.life import MAX_ANSWER_BYTES, Life
from mcd.engine.messages import Cancel, Chunk, Finished, FrameBuffer, Status, Submit
from mcd.engine.supervise import Backoff
from mcd.errors import ConfigError, RemoteProtocolError
from mcd.ports import EngineFinished, EngineRequest
from tests.fakes import gguf_make
from tests.fakes.engine_entry import RealClock

HELLO = Path(__file__).parents[1] / "fakes" / "scripted" / "hello.json"


def test_backoff_grows_recovers_and_degrades() -> None:
    backoff = Backoff()
    pauses = [backoff.crashed(0.0), backoff.crashed(1.0)]
    assert pauses == [0.1, pytest.approx(0.4)]
    assert not backoff.is_degraded(1.0)
    backoff.worked()
    assert backoff.crashed(2.0) == supervise.DEGRADED_BACKOFF_S
    assert backoff.is_degraded(2.0)
    assert not backoff.is_degraded(601.5)
    backoff.worked()
    assert backoff.crashed(700.0) == 0.1


def test_frames_survive_any_cut() -> None:
    frames = [Submit(1, b"h" * 136, b"s" * 1000, 5, 0), Cancel(1)]
    data = b"".join(messages.encode_to_worker(frame) for frame in frames)
    for size in (1, 3, 100, len(data)):
        buffer = FrameBuffer(messages.MAX_FRAME_TO_WORKER_BYTES)
        bodies = [body for at in range(0, len(data), size) for body in buffer.feed(data[at : at + size])]
        assert [messages.decode_to_worker(body) for body in bodies] == frames


def test_batches_round_trip() -> None:
    batch = [Chunk(1, b"x", 2), Status(3, 4)]
    data = messages.encode_to_daemon(batch)
    assert messages.decode_to_daemon(data[4:]) == batch


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=64))
def test_garbage_has_one_error(data: bytes) -> None:
    for decode in (messages.decode_to_worker, messages.decode_to_daemon):
        try:
            decode(data)
        except RemoteProtocolError:
            continue


def test_oversize_frame_is_refused_before_it_is_read() -> None:
    buffer = FrameBuffer(1000)
    with pytest.raises(RemoteProtocolError, match="limit"):
        buffer.feed((1001).to_bytes(4, "big"))


# --- names -----------------------------------------------------------------------------------------------------


def test_no_name_is_the_embedded_model(tmp_path: Path) -> None:
    (spec,) = resolve((), tmp_path, "llama")
    assert (spec.alias, spec.backend) == ("modelcloud-nano", "llama")
    assert Path(spec.source).is_file()
    assert resolve(("modelcloud-nano",), tmp_path, "llama") == [spec]


def test_gguf_path_takes_its_title_as_alias(tmp_path: Path) -> None:
    path = gguf_make.make(tmp_path / "x.gguf", metadata={"general.name": "Qwen 2.5 (7B)!"})
    (spec,) = resolve((str(path),), tmp_path, "llama")
    assert spec.alias == "qwen-2.5-7b"
    nameless = gguf_make.make(tmp_path / "My Model.gguf", metadata={"general.name": "?!"})
    assert resolve((str(nameless),), tmp_path, "llama")[0].alias == "my-model"


def test_file_in_the_models_folder_by_name(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    gguf_make.make(tmp_path / "models" / "small.gguf")
    assert resolve(("small",), tmp_path, "llama")[0].source == str(tmp_path / "models" / "small.gguf")


@pytest.mark.parametrize(
    ("names", "engine", "says"),
    [
        (("nobody-has-this",), "llama", "no model of that name"),
        (("qwen3-8b",), "llama", "fetch it first: mcd pull qwen3-8b --home "),
        (("/nowhere/x.gguf",), "llama", "no such file"),
        (("modelcloud-nano", "modelcloud-nano"), "llama", "two models"),
        ((), "vllm", "none of llama"),
        ((), "scripted:", "none of llama"),
        ((), "scripted:/nowhere.json", "No such file"),
        (("BAD NAME",), f"scripted:{HELLO}", "lower-case"),
        ((), "openai:http://127.0.0.1:1/v1", "needs --model"),
        (("m",), "openai:127.0.0.1", "http://HOST"),
        (("m",), "openai:ftp://x/v1", "http://HOST"),
    ],
)
def test_mistakes_name_the_remedy(tmp_path: Path, names: tuple[str, ...], engine: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve(names, tmp_path, engine)


def test_bad_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="not a usable GGUF file"):
        resolve((str(path),), tmp_path, "llama")


def test_scripted_digest_is_the_names(tmp_path: Path) -> None:
    (one,) = resolve((), tmp_path, f"scripted:{HELLO}")
    (two,) = resolve(("scripted-hello",), tmp_path, f"scripted:{HELLO}")
    (other,) = resolve(("other",), tmp_path, f"scripted:{HELLO}")
    assert one.digest == two.digest != other.digest
    assert len(one.digest) == 32


def test_openai_names(tmp_path: Path) -> None:
    (spec,) = resolve(("Qwen/Qwen2.5-7B-Instruct",), tmp_path, "openai:http://127.0.0.1:8000/v1/")
    assert spec.alias == "qwen/qwen2.5-7b-instruct"
    assert spec.source == "http://127.0.0.1:8000/v1#Qwen/Qwen2.5-7B-Instruct"


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=120))
def test_sanitised_alias_is_one_or_empty(text: str) -> None:
    alias = sanitise_alias(text)
    assert alias == "" or catalogue._ALIAS.match(alias)


def test_daemon_side_loads_without_what_computes() -> None:
    """A daemon that serves models never has llama.cpp or numpy in its own process."""
    code = (
        "import sys; import mcd.engine.client, mcd.engine.catalogue, mcd.engine.gpu; "
        "sys.exit(any(name in sys.modules for name in ('llama_cpp', 'numpy', 'jinja2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class _Mute:
    """A child that takes everything and says nothing."""

    async def post_large(self, frame: Submit) -> None:
        """Take it."""

    def post(self, frame: object) -> None:
        """Take it."""


async def test_a_long_answer_may_end_all_at_once() -> None:
    """The end padding of an answer of two minutes has 350 frames, which no credit holds back: it ended the engine."""
    life = Life(_Mute(), lambda key: b"", RealClock())  # type: ignore[arg-type]
    request_id, events = await life.open(EngineRequest(b"", b"", 0), lambda: None)
    life._handle([Chunk(request_id, bytes(85), 0)] * 3000)
    life._handle([Finished(request_id, b"end", b"receipt", 1, 2)])
    got = [event async for event in events]
    assert len(got) == 3001
    assert isinstance(got[-1], EngineFinished)
    life.close(request_id, events)

    request_id, events = await life.open(EngineRequest(b"", b"", 0), lambda: None)
    life._handle([Chunk(request_id, bytes(MAX_ANSWER_BYTES), 0)])
    with pytest.raises(RemoteProtocolError):
        life._handle([Chunk(request_id, b"x", 0)])
    life.close(request_id, events)


class Undying:
    """A process that no signal ends, as one that a GPU driver holds."""

    pid, returncode, stdout = 1, None, None

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, number: int) -> None:
        self.signals.append(number)

    async def wait(self) -> None:
        await trio.sleep_forever()


@pytest.mark.autojump
async def test_a_process_that_does_not_end_is_not_waited_for_for_ever() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        process = Undying()
        child = supervise.Child(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))  # type: ignore[arg-type]  # as much of one as `stop` needs
        assert await child.stop() is None
    assert process.signals == [signal.SIGTERM, signal.SIGKILL]
    assert trio.current_time() == 2 * supervise.STOP_GRACE_S
