"""Takes from the inference process everything it does not need, before it has read a byte of anyone's prompt.

Order is everything: namespaces need a process with one thread, Landlock and seccomp bind the calling thread and those
started later, and numpy and llama_cpp start threads on import. So `harden` runs first and heavy imports second.

Each control is tried by itself and reported by itself; a kernel that lacks one does not cost the others. Nothing
here stops root: who owns the machine can read what it computes (specs/10).
"""

from __future__ import annotations

import glob
import os
import resource
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

import mcd
from mcd.engine import landlock, seccomp
from mcd.engine.kernel import PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS, arch, call, prctl

MAX_LOCKED_BYTES = 64 * 1024 * 1024
"""A heap larger than this is not locked: its pages belong to the model, not to keys."""
OOM_SCORE = "500"
"""Of -1000 to 1000: a model is started again, the daemon and the user's programs are not."""
PARENT_GONE = 77
"""Exit code of a worker whose daemon died."""

_NEWIPC, _NEWUSER, _NEWNET = 0x08000000, 0x10000000, 0x40000000
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/cuda", "/opt/rocm")
_SYSTEM = (
    "/etc/ld.so.cache", "/proc/cpuinfo", "/proc/meminfo", "/proc/self", "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup", "/dev/urandom", "/dev/random",
)  # fmt: skip
_SCRATCH = ("/dev/null", "/dev/zero")
_RESOLVER = (
    "/etc/resolv.conf", "/run/systemd/resolve", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/ssl",
    "/etc/pki", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
)  # fmt: skip
_GPU_READ = ("/proc/driver/nvidia", "/proc/devices", "/proc/modules", "/sys/class/drm", "/sys/class/kfd",
             "/sys/devices", "/sys/bus/pci", "/sys/module/nvidia", "/etc/vulkan", "/usr/share/vulkan",
             "/usr/share/nvidia")  # fmt: skip
_DNS_PORT = 53

State = Literal["holds", "unavailable", "failed"]


class Control(msgspec.Struct, frozen=True):
    """One control and how it stands."""

    name: str
    state: State
    detail: str
    """What it means now, or why it does not hold; for the operator."""

    def line(self) -> str:
        """``name: state, detail``."""
        return f"{self.name}: {self.state}, {self.detail}"


class Report(msgspec.Struct, frozen=True):
    """What holds, for `mcd doctor`."""

    profile: str
    controls: tuple[Control, ...]

    def holds(self, name: str) -> bool:
        """Whether a control is in force."""
        return any(control.name == name and control.state == "holds" for control in self.controls)

    def lines(self) -> tuple[str, ...]:
        """One line a control: ``name: state, detail``."""
        return tuple(control.line() for control in self.controls)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of worker needs."""

    name: Literal["llama", "adapter"] = "llama"
    read_paths: tuple[str, ...] = ()
    """Model files (or folders) it may read besides its libraries."""
    needs_gpu: bool = False
    upstream_port: int | None = None
    """TCP port of an adapter's server; None means no network at all."""


class _UnavailableError(Exception):
    """The kernel or platform does not offer a control."""


def harden(profile: Profile) -> Report:
    """Apply every control this kernel offers, for ever; call before any import that starts threads.

    Never raises: what could not be done is in the report, and the operator decides.
    """
    watch: list[int] = []
    steps: tuple[tuple[str, Callable[[Profile], str]], ...] = (
        ("want of memory", _end_first),
        ("core dumps", _no_core),
        ("memory reads", _not_dumpable),
        ("privileges", _no_new_privileges),
        ("namespaces", _leave_namespaces),
        ("capabilities", _drop_capabilities),
        ("swap", _judge_swap),
        ("parent", lambda _: _open_parent(watch)),
        ("files", _restrict_files),
        ("system calls", _filter_calls),
    )
    controls = tuple(_try(name, step, profile) for name, step in steps)
    for parent_fd in watch:  # last, because it is a thread
        _watch(parent_fd)
    return Report(profile.name, controls)


def _try(name: str, step: Callable[[Profile], str], profile: Profile) -> Control:
    if arch() is None:
        return Control(name, "unavailable", f"needs Linux on x86_64 or aarch64, this is {sys.platform}")
    try:
        return Control(name, "holds", step(profile))
    except _UnavailableError as missing:
        return Control(name, "unavailable", str(missing))
    except (OSError, ValueError) as fault:
        return Control(name, "failed", getattr(fault, "strerror", None) or str(fault))


# --- one control each ----------------------------------------------------------------------------------------------


def _end_first(profile: Profile) -> str:
    Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    return "when memory runs out, the kernel ends us before others"


def _no_core(profile: Profile) -> str:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return "a crash writes no memory to disk"


def _not_dumpable(profile: Profile) -> str:
    prctl(PR_SET_DUMPABLE, 0)
    return "other processes of this user cannot read our memory; root can"


def _no_new_privileges(profile: Profile) -> str:
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    return _of_all("no set-uid program can raise us")


def _leave_namespaces(profile: Profile) -> str:
    own_network = profile.upstream_port is None
    flags = _NEWIPC | (_NEWNET if own_network else 0)
    try:
        call("unshare", flags | _NEWUSER)
    except OSError as refused:
        if os.geteuid() != 0:
            raise _UnavailableError(
                f"unprivileged user namespaces are not allowed ({refused.strerror}); network is closed by the "
                "system call filter alone"
            ) from None
        call("unshare", flags)  # root may do without a user namespace
    return "no network interface at all" if own_network else "own IPC; network is kept for the upstream"


def _drop_capabilities(profile: Profile) -> str:
    # header: version 3, this thread; then three words twice, all zero
    header = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4)
    call("capset", header, bytes(24))
    return _of_all("none left")


def _restrict_files(profile: Profile) -> str:
    if landlock.abi() == 0:
        raise _UnavailableError("this kernel has no Landlock (Linux 5.13 and later, enabled at boot)")
    rules = [(path, landlock.READ) for path in _readable(profile)]
    rules += [(path, landlock.USE_DEVICE) for path in (*_SCRATCH, *(_gpu_nodes() if profile.needs_gpu else ()))]
    ports = () if profile.upstream_port is None else (profile.upstream_port, _DNS_PORT)
    version = landlock.restrict(rules, ports)
    return _of_all(f"reads libraries and the model, writes nothing (Landlock ABI {version})")


def _filter_calls(profile: Profile) -> str:
    machine = arch()
    if machine is None:
        raise _UnavailableError("no table for this machine")
    keeps_upstream = profile.upstream_port is not None
    seccomp.install(machine, keeps_upstream)
    kept = "; IPv4 and IPv6 sockets are kept, to any address" if keeps_upstream else ""
    return _of_all(
        f"{len(seccomp.denied_names(keeps_upstream))} calls refused: sockets, programs, debugging, mounts{kept}"
    )


def _of_all(said: str) -> str:
    """Say what was done to this thread; it binds only those that it will start, so it holds if there is no other."""
    n_threads = len(os.listdir("/proc/self/task"))
    if n_threads != 1:
        raise OSError(f"it binds one of {n_threads} threads: one was started before")
    return said


def _judge_swap(profile: Profile) -> str:
    areas = Path("/proc/swaps").read_bytes().splitlines()[1:]
    if any(not area.startswith(b"/dev/zram") for area in areas):
        raise _UnavailableError("this machine swaps to disk, where a prompt may outlive us; encrypt the swap")
    return "nothing is swapped to disk"


def _open_parent(watch: list[int]) -> str:
    if not hasattr(os, "pidfd_open"):
        raise _UnavailableError("this Python was built without pidfd_open")
    watch.append(os.pidfd_open(os.getppid()))
    return "we end when the daemon does"


def _watch(parent_fd: int) -> None:
    # not PR_SET_PDEATHSIG: it fires when the *thread* that started us ends, and trio starts processes from pool
    # threads that end after ten idle seconds
    threading.Thread(target=_exit_after, args=(parent_fd,), name="parent-watch", daemon=True).start()


def _exit_after(parent_fd: int) -> None:
    poll = select.poll()
    poll.register(parent_fd, select.POLLIN)
    poll.poll()
    os._exit(PARENT_GONE)


# --- what may be read ----------------------------------------------------------------------------------------------


def _readable(profile: Profile) -> list[str]:
    python = [os.path.dirname(os.__file__), f"{sys.base_prefix}/lib", os.path.dirname(mcd.__file__)]
    python += [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    paths = [*_LIBRARIES, *_SYSTEM, *python, *profile.read_paths]
    if profile.needs_gpu:
        paths += _GPU_READ
    if profile.upstream_port is not None:
        paths += _RESOLVER
    return paths


def _gpu_nodes() -> list[str]:
    names = [path for pattern in ("nvidia*", "dri", "kfd") for path in glob.glob(f"/dev/{pattern}")]
    return sorted(names)


# --- keys in memory ------------------------------------------------------------------------------------------------


def lock_heap() -> Control:
    """Keep the C heap, where OpenSSL holds the keys, out of swap; call once the seal keys exist. Best effort."""
    return _try("key pages", lambda _: _lock_heap(), Profile())


def _lock_heap() -> str:
    heap = next((line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("[heap]")), "")
    if not heap:
        raise _UnavailableError("this process has no heap segment")
    start, end = (int(edge, 16) for edge in heap.split()[0].split("-"))
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
    heap_mb = f"{(end - start) / 1e6:.1f} MB"
    if end - start > MAX_LOCKED_BYTES:
        raise _UnavailableError(f"the heap has {heap_mb}, and its pages belong to the model")
    if 0 <= hard < end - start:
        remedy = "raise memlock in limits.conf, or LimitMEMLOCK= of the service"
        raise _UnavailableError(f"the heap has {heap_mb}, and {hard / 1e6:.1f} MB may be locked; {remedy}")
    call("mlock", start, end - start)
    return f"{heap_mb} locked"
