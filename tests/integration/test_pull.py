"""mcd pull, show, rm and models --local as real processes against a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest

from mcd.cli.show import fits_here
from mcd.engine.catalogue import resolve
from mcd.engine.known_models import known_models
from mcd.errors import ConfigError
from mcd.store import models
from tests.fakes import gguf_make, gguf_mmproj
from tests.fakes.entry import MODEL
from tests.fakes.hub import COMMIT, TOKEN, HubServer

ROOT = Path(__file__).parents[2]
REPO, FILE, NAME = "ggml-org/SmolLM3-3B-GGUF", "SmolLM3-Q4_K_M.gguf", "smollm3-3b"
OTHER = "someone/tiny-GGUF"
STALL_BYTES = 12_000_000
"""The library writes in pieces of 10 MB: less would leave nothing to resume."""
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return gguf_make.make(tmp_path_factory.mktemp("gguf") / "tiny.gguf").read_bytes()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of 24 MB that passes the header check."""
    path = tmp_path_factory.mktemp("gguf") / "large.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_uint32("llama.context_length", 64)
    writer.add_uint32("llama.block_count", 1)
    writer.add_tensor("token_embd.weight", np.arange(6_000_000, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


def environment(home: Path, url: str, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    return kept | {"HF_ENDPOINT": url, "HF_HOME": str(home.parent / "hf"), "NO_COLOR": "1"} | more


def mcd(
    home: Path,
    *words: str,
    url: str = "http://127.0.0.1:9",
    code: str = "",
    stdin: int = subprocess.DEVNULL,
    **env: str,
) -> Done:
    program = f"{code}\nimport sys; from mcd.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *words, "--home", str(home)],
        cwd=ROOT, env=environment(home, url, **env), stdin=stdin, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def start(home: Path, *words: str, url: str) -> subprocess.Popen[str]:
    # what a shell runs in the background ignores Ctrl-C, and so would all its children
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "mcd", *words, "--home", str(home)],
        cwd=ROOT, env=environment(home, url), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def left(home: Path) -> list[str]:
    """Everything below the models folder."""
    folder = models.folder(home)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_pulled_model_is_listed_shown_served_and_removed(home: Path, server: HubServer, tiny: bytes) -> None:
    server.hub.add(REPO, FILE, tiny)
    done = mcd(home, "pull", NAME, url=server.url)
    path = home / "models" / f"{NAME}.gguf"
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, f"{NAME} is here: {path}")
    digest = hashlib.sha256(tiny).hexdigest()
    assert "was replaced on the hub" in done.stderr  # the list holds the real file's digest
    assert f"pulling {digest[:7]}..  100% [####################]" in done.stderr
    assert "\r" not in done.stderr
    assert path.read_bytes() == tiny
    assert left(home) == ["index.json", f"{NAME}.gguf"]
    assert stat.S_IMODE((home / "models" / "index.json").stat().st_mode) == 0o600

    (entry,) = json.loads(mcd(home, "models", "--local", "--json").stdout)
    assert entry.pop("pulled_at").endswith("Z")
    assert entry == {
        "name": NAME, "file": f"{NAME}.gguf", "size_bytes": len(tiny), "digest": digest, "source": f"{REPO}:{FILE}",
        "revision": COMMIT, "licence": "apache-2.0", "quantisation": "Q4_K_M", "n_ctx": gguf_make.N_CTX,
        "projector_bytes": None, "projector_digest": None,
    }  # fmt: skip
    table = mcd(home, "models", "--local").stdout.splitlines()
    assert table[0].split() == ["MODEL", "SIZE", "CTX", "QUANT", "VISION", "LICENCE", "DIGEST", "SOURCE"]
    assert table[1].split()[0] == NAME
    shown = json.loads(mcd(home, "show", NAME, "--json").stdout)
    assert (shown["is_local"], shown["digest"], shown["architecture"]) == (True, digest, "llama")
    assert shown["has_chat_template"] is True
    assert shown["fits"] is True
    assert shown["least_bytes"] < shown["room_bytes"]
    assert "fits here     yes, on the processor: context 512" in mcd(home, "show", NAME).stdout
    assert str(path) in mcd(home, "show", NAME).stdout
    (spec,) = resolve([NAME], home, "llama")
    assert (spec.alias, spec.source) == (NAME, str(path))

    n_asked = len(server.hub.asked)
    again = mcd(home, "pull", NAME, url=server.url)
    assert (again.returncode, again.stdout) == (0, f"{NAME} is here already: {path}\n")
    assert len(server.hub.asked) == n_asked

    unasked = mcd(home, "rm", NAME)
    assert (unasked.returncode, unasked.stderr) == (2, "mcd rm: nobody can be asked here; say --yes\n")
    assert path.exists()
    assert mcd(home, "rm", NAME, "--yes").returncode == 0
    assert left(home) == ["index.json"]
    assert json.loads(mcd(home, "models", "--local", "--json").stdout) == []
    assert mcd(home, "rm", NAME, "--yes").returncode == 4
    assert mcd(home, "rm", "modelcloud-nano").stderr == "mcd rm: modelcloud-nano is part of mcd and cannot be deleted\n"


def test_a_projector_comes_along_is_shown_and_goes_again(home: Path, server: HubServer, tiny: bytes) -> None:
    known = known_models()["gemma-3-4b-it"]
    assert known.projector is not None
    folder = home / "models"
    projector = gguf_mmproj.make_projector(home.parent / "projector.gguf", "llava").read_bytes()
    server.hub.add(known.repo, known.file, tiny)
    server.hub.add(known.repo, known.projector, tiny)
    wrong = mcd(home, "pull", known.name, url=server.url)
    assert (wrong.returncode, "it is no projector" in wrong.stderr) == (1, True)
    assert left(home) == [f"{known.name}.gguf", "index.json"]
    server.hub.add(known.repo, known.projector, projector)
    done = mcd(home, "pull", known.name, url=server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"it sees pictures, through {folder / known.name}.mmproj.gguf"
    assert (folder / f"{known.name}.mmproj.gguf").read_bytes() == projector
    n_asked = len(server.hub.asked)
    assert mcd(home, "pull", known.name, url=server.url).returncode == 0
    assert len(server.hub.asked) == n_asked

    (entry,) = json.loads(mcd(home, "models", "--local", "--json").stdout)
    assert (entry["projector_bytes"], entry["projector_digest"]) == (
        len(projector),
        hashlib.sha256(projector).hexdigest(),
    )
    assert "pictures, through a projector of" in mcd(home, "show", known.name).stdout
    (spec,) = resolve([known.name], home, "llama")
    assert spec.projector == str(folder / f"{known.name}.mmproj.gguf")
    with pytest.raises(ConfigError, match="that is a projector"):
        resolve([spec.projector], home, "llama")
    assert mcd(home, "rm", known.name, "--yes").returncode == 0
    assert left(home) == ["index.json"]


def test_a_file_of_any_repository(home: Path, server: HubServer, tiny: bytes) -> None:
    server.hub.add(OTHER, "sub/Tiny_Q8.gguf", tiny)
    done = mcd(home, "pull", f"{OTHER}:sub/Tiny_Q8.gguf", url=server.url)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(mcd(home, "models", "--local", "--json").stdout)
    assert (entry["name"], entry["licence"]) == ("tiny_q8", "mit")
    server.hub.add("other/tiny-GGUF", "tiny_q8.gguf", tiny)
    clash = mcd(home, "pull", "other/tiny-GGUF:tiny_q8.gguf", url=server.url)
    assert clash.returncode == 1
    assert f"tiny_q8 is here from {OTHER}:sub/Tiny_Q8.gguf; remove it first with: mcd rm tiny_q8" in clash.stderr


def test_a_killed_pull_is_resumed_and_two_never_meet(home: Path, server: HubServer, large: bytes) -> None:
    server.hub.add(REPO, FILE, large)
    server.hub.stall_at_bytes = STALL_BYTES
    process = start(home, "pull", NAME, url=server.url)
    assert server.hub.stalled.wait(30)
    partial = home / "models" / ".partial" / hashlib.sha256(large).hexdigest() / FILE
    deadline = time.monotonic() + 20
    while not partial.exists() or not partial.stat().st_size:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second = mcd(home, "pull", NAME, url=server.url)
    assert (second.returncode, second.stdout) == (1, "")
    assert "another mcd pull is fetching" in second.stderr
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)
    came_bytes = partial.stat().st_size
    assert 0 < came_bytes <= STALL_BYTES
    assert "MB of unfinished pulls wait in" in mcd(home, "models", "--local").stderr
    server.hub.stall_at_bytes = None
    server.hub.go_on.set()
    done = mcd(home, "pull", NAME, url=server.url)
    assert done.returncode == 0, done.stderr
    assert server.hub.ranges() == [None, f"bytes={came_bytes}-"]
    assert (home / "models" / f"{NAME}.gguf").read_bytes() == large


def test_ctrl_c_says_that_nothing_is_lost(home: Path, server: HubServer, large: bytes) -> None:
    server.hub.add(REPO, FILE, large)
    server.hub.stall_at_bytes = STALL_BYTES
    process = start(home, "pull", NAME, url=server.url)
    assert server.hub.stalled.wait(30)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same mcd pull goes on from here" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_a_cut_line_is_mended_within_the_pull(
    home: Path, server: HubServer, large: bytes, ignores_ranges: bool
) -> None:
    server.hub.add(REPO, FILE, large)
    server.hub.cut_at_bytes = STALL_BYTES
    server.hub.ignores_ranges = ignores_ranges
    done = mcd(home, "pull", NAME, url=server.url)
    assert done.returncode == 0, done.stderr
    first, second = server.hub.ranges()
    assert first is None
    assert second is not None
    assert (home / "models" / f"{NAME}.gguf").read_bytes() == large
    assert "Warning" not in done.stderr


def test_damaged_bytes_are_removed(home: Path, server: HubServer, tiny: bytes) -> None:
    server.hub.add(REPO, FILE, tiny, digest=hashlib.sha256(tiny[:-1] + b"x").hexdigest())
    done = mcd(home, "pull", NAME, url=server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "arrived damaged" in done.stderr
    assert left(home) == []


def test_a_flood_is_stopped_before_it_is_written(home: Path, server: HubServer, large: bytes) -> None:
    server.hub.add(REPO, FILE, large)
    server.hub.hides_bytes = 9_000_000
    done = mcd(home, "pull", NAME, url=server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"sends more of {FILE} than the {len(large) - 9_000_000} bytes it announced" in done.stderr
    assert sum(path.stat().st_size for path in (home / "models").rglob("*.gguf")) <= len(large) - 9_000_000


def test_what_is_no_hub(home: Path, server: HubServer, tiny: bytes) -> None:
    server.hub.add(REPO, FILE, tiny)
    server.hub.commit = "../../main"
    done = mcd(home, "pull", NAME, url=server.url)
    assert (done.returncode, "is not a hub" in done.stderr) == (1, True)
    server.hub.commit, server.hub.hides_bytes = COMMIT, len(tiny)
    done = mcd(home, "pull", NAME, url=server.url)
    assert (done.returncode, "is not a hub" in done.stderr) == (1, True)
    assert left(home) == []


def test_what_is_no_model_is_removed(home: Path, server: HubServer, tiny: bytes) -> None:
    server.hub.add(OTHER, "page.gguf", b"<html>not a model</html>" * 100)
    done = mcd(home, "pull", f"{OTHER}:page.gguf", url=server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "page.gguf is not a usable GGUF file: it does not begin with GGUF" in done.stderr
    assert left(home) == []


def test_a_gated_model_says_what_to_do_and_opens_with_a_token(home: Path, server: HubServer, tiny: bytes) -> None:
    server.hub.add(REPO, FILE, tiny)
    server.hub.gated.add(REPO)
    refused = mcd(home, "pull", NAME, url=server.url)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"{REPO} is gated: accept its terms at {server.url}/{REPO}" in refused.stderr
    assert "HF_TOKEN" in refused.stderr
    allowed = mcd(home, "pull", NAME, url=server.url, HF_TOKEN=TOKEN)
    assert allowed.returncode == 0, allowed.stderr
    assert not server.hub.cdn_saw_token
    assert TOKEN not in allowed.stdout + allowed.stderr


def test_unknown_repositories_and_files(home: Path, server: HubServer, tiny: bytes) -> None:
    server.hub.add(OTHER, "a.gguf", tiny)
    server.hub.add("someone/empty", "README.txt", b"")
    nowhere = mcd(home, "pull", "nobody/nothing:a.gguf", url=server.url)
    assert nowhere.returncode == 4
    assert f"{server.url} has no repository nobody/nothing" in nowhere.stderr
    missing = mcd(home, "pull", f"{OTHER}:b.gguf", url=server.url)
    assert missing.returncode == 4
    assert f"{OTHER} has no file b.gguf; it has a.gguf" in missing.stderr
    which = mcd(home, "pull", OTHER, url=server.url)
    assert which.returncode == 2
    assert f"which file of {OTHER}? write {OTHER}:FILE; it has a.gguf" in which.stderr
    assert "it has no GGUF file" in mcd(home, "pull", "someone/empty", url=server.url).stderr
    server.hub.has_checksums = False
    unchecked = mcd(home, "pull", f"{OTHER}:a.gguf", url=server.url)
    assert (unchecked.returncode, "gives no checksum" in unchecked.stderr) == (1, True)
    assert left(home) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["llama3.1:8b"], 4, "did you mean llama-3.1-8b-instruct?"),
        (["Mixtral"], 4, "did you mean mixtral-8x7b-instruct-v0.1?"),
        (["zzzzzz"], 4, "mcd pull --list shows those that are"),
        (["a/b:c.bin"], 2, "is not OWNER/REPOSITORY:FILE.gguf"),
        (["a/b:../../c.gguf"], 2, "is not OWNER/REPOSITORY:FILE.gguf"),
        (["a/../b:c.gguf"], 2, "is not OWNER/REPOSITORY:FILE.gguf"),
        (["a/b:c-00001-of-00003.gguf"], 2, "one part of a split model"),
        (["a/b:modelcloud-nano.gguf"], 2, "which cannot be"),
        (["modelcloud-nano"], 2, "comes with mcd"),
        ([], 2, "which model?"),
    ],
)
def test_what_cannot_be_pulled_is_said_without_asking_the_hub(
    home: Path, words: list[str], code: int, said: str
) -> None:
    done = mcd(home, "pull", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_no_network(home: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        done = mcd(home, "pull", NAME, url=f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "check the network" in done.stderr
    assert "Traceback" not in done.stderr
    offline = mcd(home, "pull", NAME, HF_HUB_OFFLINE="1")
    assert (offline.returncode, "HF_HUB_OFFLINE is set" in offline.stderr) == (1, True)


def test_a_full_disk_is_seen_before(home: Path, server: HubServer, tiny: bytes) -> None:
    server.hub.add(REPO, FILE, tiny)
    full = "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=200_000_000)"
    done = mcd(home, "pull", NAME, url=server.url, code=full)
    assert (done.returncode, done.stdout) == (1, "")
    assert "269 MB are needed and 200 MB are free" in done.stderr
    assert server.hub.ranges() == []


def test_a_disk_that_fails_while_writing(home: Path, server: HubServer, large: bytes) -> None:
    server.hub.add(REPO, FILE, large)
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({STALL_BYTES}, {STALL_BYTES}))"
    done = mcd(home, "pull", NAME, url=server.url, code=limit)
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot write the file: File too large" in done.stderr


def test_files_over_the_hubs_limit_come_through_the_library_whole(home: Path, server: HubServer, tiny: bytes) -> None:
    server.hub.add(REPO, FILE, tiny)
    done = mcd(home, "pull", NAME, url=server.url, code="import mcd.store.hub; mcd.store.hub.MAX_PLAIN_BYTES = 1000")
    assert done.returncode == 0, done.stderr
    assert (home / "models" / f"{NAME}.gguf").read_bytes() == tiny
    assert left(home) == ["index.json", f"{NAME}.gguf"]


def test_a_file_put_there_by_hand(home: Path, tiny: bytes) -> None:
    folder = home / "models"
    folder.mkdir()
    (folder / "mine.gguf").write_bytes(tiny)
    (folder / "broken.gguf").write_bytes(b"GGUF")
    assert "put here by hand" in mcd(home, "models", "--local").stdout
    shown = json.loads(mcd(home, "show", "mine", "--json").stdout)
    assert (shown["source"], shown["digest"], shown["n_ctx"]) == (None, None, gguf_make.N_CTX)
    assert shown["kv_bytes_per_1k"] == 2 * 2 * gguf_make.N_LAYER * gguf_make.N_EMBD * 1024
    broken = mcd(home, "show", "broken")
    assert (broken.returncode, "not a usable GGUF file" in broken.stderr) == (1, True)
    assert mcd(home, "rm", "broken", "--yes").returncode == 0
    assert left(home) == ["mine.gguf"]


def test_show_knows_models_that_are_not_here(home: Path) -> None:
    shown = json.loads(mcd(home, "show", NAME, "--json").stdout)
    assert (shown["is_local"], shown["path"], shown["source"]) == (False, None, f"{REPO}:{FILE}")
    assert f"no; mcd pull {NAME}" in mcd(home, "show", NAME).stdout
    assert shown["fits"] is (shown["least_bytes"] <= shown["room_bytes"])
    assert fits_here(None, known_models()[NAME], 10**8)["fits"] is False
    assert "it takes" in fits_here(None, known_models()[NAME], 10**8)["fit"]
    unknown = mcd(home, "show", "smollm")
    assert (unknown.returncode, unknown.stdout) == (4, "")
    assert "did you mean smollm3-3b?" in unknown.stderr
    assert json.loads(mcd(home, "show", "modelcloud-nano", "--json").stdout)["is_local"] is True


@pytest.mark.parametrize(("answer", "is_kept"), [(b"\n", True), (b"n\n", True), (b"y\n", False)])
def test_rm_asks_on_a_terminal(home: Path, tiny: bytes, answer: bytes, is_kept: bool) -> None:
    (home / "models").mkdir()
    path = home / "models" / "mine.gguf"
    path.write_bytes(tiny)
    master, slave = pty.openpty()
    os.write(master, answer)
    done = mcd(home, "rm", "mine", stdin=slave)
    os.close(slave)
    os.close(master)
    assert "delete mine, " in done.stderr
    assert (path.exists(), done.returncode) == (is_kept, 1 if is_kept else 0)


def test_rm_refuses_what_is_being_served(home: Path, tiny: bytes) -> None:
    (home / "models").mkdir()
    (home / "models" / f"{MODEL}.gguf").write_bytes(tiny)
    gateway = subprocess.Popen(
        [sys.executable, "-m", "tests.fakes.gateway_main", f"{home}/control.sock", "short"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert gateway.stdout is not None
        gateway.stdout.readline()
        done = mcd(home, "rm", MODEL, "--yes")
    finally:
        gateway.terminate()
        gateway.communicate(timeout=10)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{MODEL} is being served" in done.stderr
    assert left(home) == [f"{MODEL}.gguf"]
