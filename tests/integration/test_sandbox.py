"""A hardened process tries to get out, and others try to get in: what the report says holds must hold."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import mcd
from mcd.engine import landlock, seccomp
from mcd.engine.kernel import arch
from mcd.engine.sandbox import PARENT_GONE, Control, Profile, Report

ROOT = Path(mcd.__file__).parents[1]
NANO = ROOT / "mcd" / "engine" / "models" / "modelcloud-nano.gguf"
NOBODY = 65534
UIDS = [pytest.param(0, id="this-user")]
if os.geteuid() == 0:
    UIDS.append(pytest.param(NOBODY, id="nobody"))

CLOSED_BY = {
    "connect": {"system calls", "namespaces"},
    "connect elsewhere": {"system calls", "namespaces"},
    "bind": {"system calls"},
    "socket": {"system calls"},
    "unix socket": {"system calls"},
    "exec": {"system calls"},
    "read": {"files"},
    "list": {"files"},
    "write": {"files"},
    "append": {"files"},
    "unlink": {"files"},
    "truncate": {"files"},
    "keys": {"system calls"},
    "page faults": {"system calls"},
    "anonymous program": {"system calls"},
    "invite a debugger": {"system calls"},
    "mode": {"system calls"},
    "times": {"system calls"},
    "attribute": {"system calls"},
    "owner": {"system calls"},
    "limits of another": {"system calls"},
    "priority of another": {"system calls"},
    "environ of another": {"files"},
    "ptrace": {"system calls"},
    "vm_readv": {"system calls"},
    "unshare": {"system calls"},
    "mount": {"system calls"},
    "io_uring": {"system calls"},
    "dumpable again": {"system calls"},
}
"""Which controls answer which attempt; one that holds is enough."""


@contextmanager
def listening() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


@contextmanager
def child(folder: Path, **given: Any) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """A hardened child and its report; it stays until the context ends."""
    folder.chmod(0o777)
    secret = folder / "id_ed25519"
    secret.write_text("a key of the operator")
    for name in ("old", "old-before", "old-after"):
        (folder / name).write_text("x")
        (folder / name).chmod(0o666)
    with ExitStack() as stack:
        ports = [stack.enter_context(listening()) for _ in range(2)]
        given = {"profile": {}, "secret": str(secret), "folder": str(folder), "port": ports[0]} | given
        given.setdefault("other_port", ports[1])
        if given.get("is_adapter"):
            given["profile"] = {"name": "adapter", "upstream_port": ports[0]}
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.integration.sandbox_child", json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "CANARY": "canary in the environment"},
            )
        )
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise AssertionError(process.communicate()[1])
        said = json.loads(line)
        try:
            yield said, process
        finally:
            process.stdin.close()
            os.kill(said["victim"], signal.SIGKILL)


@pytest.fixture
def open_tmp(tmp_path: Path) -> Iterator[Path]:
    """A folder that another user can reach, unlike pytest's own."""
    changed = []
    for parent in [tmp_path, *tmp_path.parents]:
        mode = parent.stat().st_mode & 0o777
        if not mode & 0o001:
            parent.chmod(mode | 0o011)
            changed.append((parent, mode))
    yield tmp_path
    for parent, mode in changed:
        parent.chmod(mode)


@pytest.mark.parametrize("uid", UIDS)
def test_every_way_out_is_closed(open_tmp: Path, uid: int) -> None:
    with child(open_tmp, uid=uid, before=True) as (said, _):
        assert set(said["before"].values()) == {"allowed"}, said["before"]  # the attempts work outside
        closed = {name for name, by in CLOSED_BY.items() if by & set(said["holds"])}
        if landlock.abi() < 3:
            closed.discard("truncate")  # older kernels know no right for it
        still_open = {name: said["after"][name] for name in closed if said["after"][name] == "allowed"}
        assert not still_open, said["lines"]
        assert len(closed) >= 12, said["lines"]
        refused = ("keys", "page faults", "anonymous program", "invite a debugger")
        assert {said["after"][name] for name in refused} == {"EPERM"}, said["after"]  # not ENOSYS, not ENOEXEC
        if landlock.abi() >= 6:
            assert said["after"]["signal"] == "EPERM"
    assert (open_tmp / "old-after").exists()


@pytest.mark.parametrize("uid", UIDS)
def test_what_this_kernel_offers_is_used(open_tmp: Path, uid: int) -> None:
    """On Linux with Landlock and user namespaces all controls hold; each missing one is named with a reason."""
    with child(open_tmp, uid=uid) as (said, _):
        always = {"core dumps", "memory reads", "privileges", "capabilities", "system calls"}
        assert always <= set(said["holds"]), said["lines"]
        if landlock.abi() >= 1:
            assert "files" in said["holds"], said["lines"]
        assert all(": " in line and ", " in line for line in said["lines"])


def printed_by(script: str) -> str:
    """What a process of its own prints."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


def test_what_binds_one_thread_of_two_does_not_hold() -> None:
    script = (
        "import json, threading\n"
        "from mcd.engine.sandbox import Profile, harden\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "report = harden(Profile())\n"
        "print(json.dumps({control.name: control.state for control in report.controls}))\n"
    )
    said = json.loads(printed_by(script))
    assert {said[name] for name in ("privileges", "capabilities", "system calls")} == {"failed"}
    assert said["files"] != "holds"
    assert said["memory reads"] == "holds"  # of the whole process


def test_a_heap_that_may_not_be_locked_says_what_would_allow_it() -> None:
    """`the heap has 12505088 bytes, 8388608 may be locked`, said doctor, which promises a remedy for each finding."""
    script = (
        "import resource\n"
        "from mcd.engine.sandbox import lock_heap\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "print(lock_heap().line())\n"
    )
    printed = printed_by(script)
    said = r"key pages: unavailable, the heap has [\d.]+ MB, and 0\.1 MB may be locked; raise memlock in limits\.conf"
    assert re.match(said, printed), printed


def test_a_heap_that_is_said_to_be_locked_is_in_the_kernels_books() -> None:
    """One small enough for the least that a process may lock."""
    script = (
        "from pathlib import Path\n"
        "from mcd.engine.sandbox import lock_heap\n"
        "print(lock_heap().line())\n"
        "print(Path('/proc/self/status').read_text().partition('VmLck:')[2].split()[0])\n"
    )
    said, locked_kb = printed_by(script).splitlines()
    found = re.fullmatch(r"key pages: holds, ([\d.]+) MB locked", said)
    assert found is not None, said
    assert int(locked_kb) * 1024 / 1e6 == pytest.approx(float(found[1]), abs=0.1)


def look_inside(pid: int, uid: int) -> dict[str, str]:
    """What another process of the same user can read of ``pid``."""
    script = (
        "import json,os,sys\n"
        "pid,uid=int(sys.argv[1]),int(sys.argv[2])\n"
        "if uid: os.setgroups([]); os.setresgid(uid,uid,uid); os.setresuid(uid,uid,uid)\n"
        "def look(name):\n"
        "    try:\n"
        "        if name == 'fd': return str(len(os.listdir(f'/proc/{pid}/fd')))\n"
        "        if name == 'cwd': return os.readlink(f'/proc/{pid}/cwd')\n"
        "        file = open(f'/proc/{pid}/{name}', 'rb', 0)\n"
        "        if name == 'mem':\n"
        "            heap = next(l for l in open(f'/proc/{pid}/maps') if '[heap]' in l)\n"
        "            file.seek(int(heap.split('-')[0], 16))\n"
        "        return 'read' if file.read(16) else 'empty'\n"
        "    except OSError as fault: return type(fault).__name__\n"
        "print(json.dumps({name: look(name) for name in ('mem','maps','environ','fd','cwd')}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(pid), str(uid)], capture_output=True, text=True, check=True, timeout=60
    )
    return dict(json.loads(done.stdout))


def test_another_process_of_the_same_user_cannot_look_inside(open_tmp: Path) -> None:
    uid = NOBODY if os.geteuid() == 0 else 0
    with child(open_tmp, uid=uid) as (said, _):
        outside = look_inside(said["victim"], uid)
        inside = look_inside(said["pid"], uid)
    assert "memory reads" in said["holds"]
    assert set(inside.values()) == {"PermissionError"}, inside
    assert {outside[name] for name in ("mem", "maps", "environ")} == {
        "read"
    }  # the same attempt on a process that is not hardened


def test_llama_cpp_loads_and_generates_inside(open_tmp: Path) -> None:
    profile = {"read_paths": [str(NANO)]}
    with child(open_tmp, profile=profile, gguf=str(NANO)) as (said, _):
        assert said["n_tokens"] >= 2
        assert said["after"]["read"] != "allowed" or "files" not in said["holds"]


def test_an_adapter_reaches_its_upstream_and_nothing_else(open_tmp: Path) -> None:
    with child(open_tmp, is_adapter=True) as (said, _):
        assert said["after"]["connect"] == "allowed", said["lines"]
        assert said["after"]["socket"] == "allowed"
        if landlock.abi() >= 4:
            assert said["after"]["connect elsewhere"] == "EACCES"
        for name in ("unix socket", "bind", "exec", "ptrace", "read", "write"):
            assert said["after"][name] != "allowed" or not CLOSED_BY[name] & set(said["holds"]), name


def test_it_ends_when_its_parent_does(open_tmp: Path) -> None:
    given = {"profile": {}, "secret": "/x", "folder": str(open_tmp), "port": 1, "other_port": 1}
    middle = (
        "import subprocess,sys,time\n"
        "child = subprocess.Popen([sys.executable,'-m','tests.integration.sandbox_child',sys.argv[1]],"
        "stdin=subprocess.PIPE)\n"
        "time.sleep(600)\n"
    )
    reader, writer = os.pipe()
    parent = subprocess.Popen([sys.executable, "-c", middle, json.dumps(given)], stdout=writer, cwd=ROOT)
    os.close(writer)
    with os.fdopen(reader) as lines:
        said = json.loads(lines.readline())
        os.kill(said["victim"], signal.SIGKILL)  # it holds the pipe too
        parent.kill()
        parent.wait()
        assert lines.read() == ""  # ends only when the hardened process has ended
    assert PARENT_GONE == 77


def test_a_foreign_instruction_set_is_fatal() -> None:
    """An x32 number on x86_64; the filter kills rather than guess what the number means."""
    if arch() != "x86_64":
        code = seccomp.program("aarch64", keep_upstream=False)
        assert code[2] == (0x06, 0, 0, 0x80000000)
        return
    script = (
        "from mcd.engine.sandbox import Profile, harden\nfrom mcd.engine.kernel import call\n"
        "harden(Profile())\ncall('syscall', 0x40000000 + 39)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGSYS


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("keep_upstream", [False, True])
def test_filter_program_is_well_formed(machine: str, keep_upstream: bool) -> None:
    """Every jump lands inside, every path ends in a verdict; run over all numbers by an interpreter of our own."""
    code = seccomp.program(machine, keep_upstream)
    assert len(code) < 4096
    denied = seccomp.denied_names(keep_upstream)
    column = 0 if machine == "x86_64" else 1
    audit = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[machine]
    refused = {number for number in range(500) if interpret(code, {0: number, 4: audit, 16: 0, 24: 0}) == 0x00050001}
    expected = {seccomp._NUMBERS[name][column] for name in denied} - {-1}
    expected |= {seccomp._NUMBERS["socket"][column]}  # family 0 is refused in both profiles
    assert refused == expected
    clone = seccomp._NUMBERS["clone"][column]
    assert interpret(code, {0: clone, 4: audit, 16: 0x10000000, 24: 0}) == 0x00050001
    assert interpret(code, {0: clone, 4: audit, 16: 0x003D0F00, 24: 0}) == 0x7FFF0000  # a thread
    assert interpret(code, {0: 435, 4: audit, 16: 0, 24: 0}) == 0x00050000 | 38
    assert interpret(code, {0: 0, 4: 0x40000003, 16: 0, 24: 0}) == 0x80000000  # 32-bit x86
    limits = seccomp._NUMBERS["prlimit64"][column]
    assert interpret(code, {0: limits, 4: audit, 16: 0, 24: 7}) == 0x7FFF0000  # our own
    assert interpret(code, {0: limits, 4: audit, 16: 4711, 24: 7}) == 0x00050001
    ioctl = seccomp._NUMBERS["ioctl"][column]
    assert interpret(code, {0: ioctl, 4: audit, 16: 0, 24: 0x5412}) == 0x00050001
    assert interpret(code, {0: ioctl, 4: audit, 16: 0, 24: 0x5401}) == 0x7FFF0000
    families = {
        family
        for family in range(50)
        if interpret(code, {0: seccomp._NUMBERS["socket"][column], 4: audit, 16: family, 24: 0}) == 0x7FFF0000
    }
    assert families == ({2, 10} if keep_upstream else set())


def interpret(code: list[tuple[int, int, int, int]], data: dict[int, int]) -> int:
    at = value = 0
    while True:
        kind, if_true, if_false, constant = code[at]
        at += 1
        match kind:
            case 0x20:
                value = data[constant]
            case 0x15:
                at += if_true if value == constant else if_false
            case 0x35:
                at += if_true if value >= constant else if_false
            case 0x45:
                at += if_true if value & constant else if_false
            case 0x06:
                return constant
            case _:
                raise AssertionError(f"unknown instruction {kind:#x}")


def test_the_threat_model_counts_as_the_filter_does() -> None:
    said = (ROOT / "specs" / "10-threat-model.md").read_text()
    assert f"seccomp, {len(seccomp.denied_names(keep_upstream=False))} calls" in said
    assert f"with {len(CLOSED_BY) + 1} attempts" in said  # signals have an answer of their own


def test_report_reads_as_lines() -> None:
    report = Report("llama", (Control("files", "holds", "reads"), Control("swap", "unavailable", "swaps")))
    assert report.lines() == ("files: holds, reads", "swap: unavailable, swaps")
    assert report.holds("files")
    assert not report.holds("swap")
    assert not report.holds("nothing")


def test_profile_defaults_to_no_network() -> None:
    assert Profile().upstream_port is None


def test_a_kernel_that_refuses_everything_gets_a_report_not_a_crash() -> None:
    """Hardened twice: the first time's filter plays a kernel without namespaces and pidfds."""
    script = (
        "import json\nfrom mcd.engine.sandbox import Profile, harden\n"
        "harden(Profile())\nsecond = harden(Profile())\n"
        "print(json.dumps({c.name: [c.state, c.detail] for c in second.controls}))\n"
    )
    states = json.loads(printed_by(script))
    assert states["namespaces"][0] in {"unavailable", "failed"}
    assert states["parent"][0] == "failed"
    assert states["files"][0] == "failed"  # the parent watch of the first time is a second thread
    assert "threads" in states["files"][1]
    assert all(detail for _, detail in states.values())
