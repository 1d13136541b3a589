"""A process that hardens itself and then tries everything it should not be able to do; talks JSON on stdout.

Arguments: a JSON object with ``profile``, ``uid`` (0 stays as it is), ``secret`` (a readable file), ``folder`` (a
writable folder), ``port`` and ``other_port`` (listening on loopback), ``gguf``. After the report it waits for its
standard input to close, so that others can try to look inside.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import select  # noqa: F401  before the uid changes, which may close the interpreter's own folder to us
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcd.engine.kernel import PR_SET_DUMPABLE, call, prctl
from mcd.engine.sandbox import Profile, Report, harden, lock_heap

CANARY = "canary in the memory of an engine"
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_NUMBER = {
    "x86_64": {"keyctl": 250, "userfaultfd": 323, "execveat": 322},
    "aarch64": {"keyctl": 219, "userfaultfd": 282, "execveat": 281},
}[platform.machine()]
"""From the kernel's tables, not from ours."""


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    prctl(PR_SET_DUMPABLE, 1)  # a change of user clears it, which would prove nothing


def victim() -> int:
    """A process of the same user outside the sandbox."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    return pid


def connect(sock: socket.socket, port: int) -> None:
    sock.settimeout(2)
    sock.connect(("127.0.0.1", port))
    sock.close()


def execute() -> None:
    reader, writer = os.pipe()  # closes on exec
    pid = os.fork()
    if pid == 0:
        try:
            os.execv("/bin/true", ["true"])
        except OSError as fault:
            os.write(writer, str(fault.errno).encode())
            os._exit(1)
    os.close(writer)
    failed = os.read(reader, 16)
    os.waitpid(pid, 0)
    os.close(reader)
    if failed:
        raise OSError(int(failed), os.strerror(int(failed)))


def run_anonymous() -> None:
    fd = os.memfd_create("program")
    os.write(fd, b"\x7fELF")  # none that could run: the permission is judged first
    call("syscall", _NUMBER["execveat"], fd, b"", None, None, 0x1000)


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("x")


def attach(pid: int) -> None:
    call("ptrace", _PTRACE_ATTACH, pid, 0, 0)
    os.waitpid(pid, 0)
    call("ptrace", _PTRACE_DETACH, pid, 0, 0)


def read_memory(pid: int) -> None:
    # a local and a remote vector of nothing: the permission is judged first
    empty = ctypes.create_string_buffer(16)
    call("process_vm_readv", pid, empty, 0, empty, 0, 0)


def set_limits(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))


def probes(given: dict[str, Any], pid: int, made: list[socket.socket], tag: str) -> dict[str, Callable[[], object]]:
    secret, folder = Path(given["secret"]), Path(given["folder"])
    return {
        "connect": lambda: connect(made[0], given["port"]),
        "connect elsewhere": lambda: connect(made[1], given["other_port"]),
        "bind": lambda: made[2].bind(("127.0.0.1", 0)),
        "socket": lambda: socket.socket().close(),
        "unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "exec": execute,
        "read": secret.read_bytes,
        "list": lambda: os.listdir(folder),
        "write": lambda: (folder / f"new-{tag}").write_text("x"),
        "append": lambda: append(folder / "old"),
        "unlink": (folder / f"old-{tag}").unlink,
        "truncate": lambda: os.truncate(folder / "mine", 0),
        "keys": lambda: call("syscall", _NUMBER["keyctl"], 0, -3, 0),
        "page faults": lambda: os.close(call("syscall", _NUMBER["userfaultfd"], 1)),
        "anonymous program": run_anonymous,
        "invite a debugger": lambda: call("prctl", 0x59616D61, pid, 0, 0, 0),
        "mode": lambda: (folder / "mine").chmod(0o666),
        "times": lambda: os.utime(folder / "mine", (1, 1)),
        "attribute": lambda: os.setxattr(folder / "mine", "user.x", b"x"),
        "owner": lambda: os.chown(folder / "mine", -1, -1),
        "limits of another": lambda: set_limits(pid),
        "priority of another": lambda: os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0)),
        "signal": lambda: os.kill(pid, signal.SIGCONT),
        "environ of another": lambda: Path(f"/proc/{pid}/environ").read_bytes(),
        "ptrace": lambda: attach(pid),
        "vm_readv": lambda: read_memory(pid),
        "unshare": lambda: call("unshare", 0x10000000),
        "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
        "io_uring": lambda: call("syscall", 425, 1, ctypes.create_string_buffer(120)),
        "dumpable again": lambda: call("prctl", 4, 1, 0, 0, 0),
    }


def outcome(probe: Callable[[], object]) -> str:
    try:
        probe()
    except OSError as fault:
        return errno.errorcode.get(fault.errno or 0, "OSError")
    return "allowed"


def generate(gguf: str) -> int:
    import llama_cpp

    model = llama_cpp.Llama(gguf, n_ctx=128, n_threads=1, n_threads_batch=1, verbose=False)
    return len(model.tokenize(b"hello")) + int(model("hello", max_tokens=1)["usage"]["completion_tokens"])


def main(given: dict[str, Any]) -> None:
    kept = CANARY.encode() * 100
    if given.get("uid"):
        become(given["uid"])
    pid = victim()
    (Path(given["folder"]) / "mine").touch()
    before = {}
    if given.get("before"):
        made = [socket.socket() for _ in range(3)]
        names = (
            "connect", "bind", "socket", "exec", "read", "list", "write", "append", "unlink", "signal",
            "truncate", "mode", "times", "owner", "limits of another", "priority of another",
        )  # fmt: skip
        tried = probes(given, pid, made, "before")
        before = {name: outcome(tried[name]) for name in names}
        for sock in made:
            sock.close()
    made = [socket.socket() for _ in range(3)]
    report: Report = harden(Profile(**given["profile"]))
    after = {name: outcome(probe) for name, probe in probes(given, pid, made, "after").items()}
    n_tokens = generate(given["gguf"]) if given.get("gguf") else 0
    print(
        json.dumps(
            {
                "pid": os.getpid(),
                "victim": pid,
                "before": before,
                "after": after,
                "holds": [control.name for control in report.controls if control.state == "holds"],
                "lines": report.lines(),
                "heap": lock_heap().state,
                "n_tokens": n_tokens,
            }
        ),
        flush=True,
    )
    sys.stdin.read()
    assert kept


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
