"""The commands as real processes against a real control socket and API with fixed answers."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mcd.cli.main import COMMANDS
from mcd.store import keys
from tests.fakes.control import ATLAS, LUMEN
from tests.fakes.entry import MODEL, PEER

ROOT = Path(__file__).parents[2]
HEAVY = {
    "trio",
    "asyncio",
    "aiohttp",
    "libp2p",
    "zeroconf",
    "llama_cpp",
    "numpy",
    "cryptography",
    "huggingface_hub",
    "mcd.daemon",
    "mcd.ports",
}


EXAMPLES = {
    "route": [MODEL],
    "chat": ["-m", "x"],
    "pull": ["--list"],
    "show": ["modelcloud-nano"],
    "rm": ["x"],
}
"""What a command that needs words is given."""


def mcd(*words: str, home: Path | None = None, stdin: str = "") -> subprocess.CompletedProcess[str]:
    flags = [] if home is None else ["--home", str(home)]
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "mcd", *words, *flags],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_peers(home: Path) -> None:
    done = mcd("peers", home=home)
    head, atlas, lumen, footer = done.stdout.splitlines()
    assert re.split(r"  +", head) == [
        "PEER", "NAME", "REGION", "PATH", "RTT", "GPU", "MODELS", "LOAD", "TOK/S", "$/1M TOK", "OK%", "SEEN"
    ]  # fmt: skip
    assert re.split(r"  +", atlas) == [
        "9fKq2mZa", "atlas", "de-fra", "direct tcp", "14ms", "RTX 4090 24G", "3", "1/4", "92", "0.18", "99.9", "now"
    ]  # fmt: skip
    assert re.split(r"  +", lumen) == ["Qx7LpT3b", "-", "-", "-", "-", "-", "0", "-", "-", "-", "-", "11s"]
    assert footer.startswith("2 peers (1 serving, 0 relayed)")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert ATLAS in mcd("peers", "--full", home=home).stdout
    assert [peer["peer_id"] for peer in json.loads(mcd("peers", "--json", home=home).stdout)] == [ATLAS, LUMEN]
    assert [peer["name"] for peer in json.loads(mcd("peers", "--json", "--serving", home=home).stdout)] == ["atlas"]


def test_models_and_status(home: Path) -> None:
    models = mcd("models", home=home)
    head, first, *_ = (re.split(r"  +", line.strip()) for line in models.stdout.splitlines())
    assert head[:6] == ["MODEL", "CTX", "CAPS", "PEERS", "LOADED", "READY"]
    assert first[:6] == [MODEL, "2k", "chat tools", "2", "1", "now"]
    card = json.loads(mcd("models", "--json", home=home).stdout)[0]
    assert (card["digest"], card["n_loaded"], card["load_s"]) == (bytes(range(32)).hex(), 1, 0)
    status = mcd("status", home=home)
    assert f"peer {PEER} (atlas)" in status.stdout
    assert f"Serving  {MODEL} on CPU 8 cores, ready, 2/4 slots, 88 tok/s" in status.stdout
    assert json.loads(mcd("status", "--json", home=home).stdout)["uptime_s"] == 12.5


@pytest.mark.spec("GW-71")
def test_route(home: Path) -> None:
    assert mcd("route", MODEL, home=home).stdout.startswith(f"{ATLAS} (atlas) in 2.91s")
    explained = mcd("route", MODEL, "--explain", home=home).stdout.splitlines()
    assert re.split(r"  +", explained[0].strip())[-2:] == ["$/1M TOK", "WHY"]
    assert [line.split()[1] for line in explained[1:]] == ["9fKq2mZa", "Qx7LpT3b"]
    assert json.loads(mcd("route", MODEL, "--json", home=home).stdout)[0]["total_s"] == 2.914
    unknown = mcd("route", "gpt-4o", home=home)
    assert (unknown.returncode, unknown.stdout) == (4, "")
    assert unknown.stderr.startswith("mcd route: no peer serves this model")
    refused = mcd("route", MODEL, "--prompt-tokens", "0", home=home)
    assert (refused.returncode, refused.stderr) == (2, "mcd route: --prompt-tokens must be between 1 and 1048576\n")


def test_chat_streams_once_or_from_stdin(home: Path) -> None:
    for done in (
        mcd("chat", MODEL, "-m", "hi", home=home),
        mcd("chat", "-m", "hi", home=home),
        mcd("chat", MODEL, "--system", "be brief", "--temperature", "0", home=home, stdin="hi\n"),
    ):
        assert (done.returncode, done.stdout, done.stderr) == (0, "Grüße 🌍\n", "")
    whole = json.loads(mcd("chat", MODEL, "-m", "hi", "--json", home=home).stdout)
    assert whole["choices"][0]["message"]["content"] == "Grüße 🌍"
    unknown = mcd("chat", "gpt-4o", "-m", "hi", home=home)
    assert (unknown.returncode, unknown.stdout) == (4, "")
    for temperature in ("9", "nan"):
        refused = mcd("chat", MODEL, "--temperature", temperature, "-m", "hi", home=home)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "--temperature" in refused.stderr
    assert mcd("chat", MODEL, home=home, stdin=" \n").returncode == 2


def test_chat_converses_on_a_terminal(home: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "mcd", "chat", MODEL, "--home", str(home)],
        cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"NO_COLOR": "1"},
    )  # fmt: skip
    os.close(slave)
    os.write(master, b"hi\nagain\n\x04")
    seen = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            part = os.read(master, 4096)
        except OSError:
            break  # the other end closed
        seen += part
        if not part:
            break
    os.close(master)
    assert process.wait(10) == 0
    text = seen.decode()
    assert text.count("Grüße 🌍") == 2
    assert text.count(f"peer {PEER[-8:]}") == 2


def test_id_with_and_without_a_daemon(home: Path, tmp_path: Path) -> None:
    assert mcd("id", home=home).stdout.splitlines()[0] == PEER
    assert json.loads(mcd("id", "--json", home=home).stdout)["network"] == "main"
    tmp_path.chmod(0o700)
    assert mcd("id", home=tmp_path).returncode == 3
    keys.load_or_create(tmp_path)
    alone = mcd("id", home=tmp_path)
    assert (alone.returncode, alone.stdout.strip()) == (0, keys.read_peer_id(tmp_path))


def test_doctor(home: Path, tmp_path: Path) -> None:
    checks = {line["check"]: line["state"] for line in json.loads(mcd("doctor", "--json", home=home).stdout)}
    assert checks["daemon"] == checks["engine seccomp"] == checks["libp2p"] == checks["home folder"] == "ok"
    tmp_path.chmod(0o755)
    open_home = mcd("doctor", "--http", "127.0.0.1:0", home=tmp_path)
    assert open_home.returncode == 1
    assert "chmod go=" in open_home.stdout
    assert "127.0.0.1:0 is free" in open_home.stdout
    tmp_path.chmod(0o700)
    assert mcd("doctor", "--http", "127.0.0.1:0", home=tmp_path).returncode == 0


@pytest.mark.spec("GW-71")
@pytest.mark.parametrize("words", [["status"], ["peers"], ["models"], ["route", "x"], ["chat", "-m", "x"], ["id"]])
def test_without_a_daemon_commands_exit_3_and_say_what_to_do(words: list[str], tmp_path: Path) -> None:
    done = mcd(*words, home=tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert "mcd run" in done.stderr


def test_a_second_daemon_in_one_home_is_told_just_that(home: Path) -> None:
    """It named the port, then told to choose another one, then another home, then another address of the API."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = mcd("run", "--http", f"127.0.0.1:{port}", "--listen", f"/ip4/127.0.0.1/tcp/{port}", home=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"mcd run: another daemon uses {home}; stop it or choose another --home\n"


def test_names_that_are_no_text_are_unknown_and_a_full_disk_is_said(home: Path) -> None:
    for words, code in ((["route", "\udcff"], 4), (["status", "--home", "/tmp/\udcff"], 3)):
        done = mcd(*words, home=None if "--home" in words else home)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
    full = subprocess.run(
        f"{sys.executable} -m mcd status --home {home} > /dev/full",
        cwd=ROOT, shell=True, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (full.returncode, full.stderr) == (1, "mcd status: No space left on device\n")


@pytest.mark.parametrize(
    ("words", "module"), [("status", "argparse"), ("run", "trio"), ("pull --list", "msgspec"), ("chat -m x", "json")]
)
def test_ctrl_c_while_a_command_loads_ends_it_without_a_word(words: str, module: str, tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
    process = subprocess.Popen(
        [sys.executable, "-m", "mcd", *words.split(), "--home", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "")
    assert process.returncode == -signal.SIGINT, "a shell says 130"


@pytest.mark.spec("GW-71")
@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "run"])
def test_commands_that_read_load_nothing_heavy(command: str, home: Path) -> None:
    words = [command, *EXAMPLES.get(command, [])]
    flags = [] if command == "version" else ["--home", str(home)]
    code = "import sys; from mcd.cli.main import main; main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *words, *flags], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    print(f"mcd {command}: {time.monotonic() - started:.3f} s")
    loaded = set(done.stderr.split())
    assert "mcd.cli.main" in loaded
    assert not loaded & HEAVY
