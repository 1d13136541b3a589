"""The system calls an inference process may not make, as a seccomp filter.

A deny list, because llama.cpp with its GPU drivers uses a wide and changing set of harmless calls: what is taken away
is every way to reach another host, another process, another program or a rarely audited part of the kernel. Calls
of a foreign instruction set end the process: their numbers mean something else.
"""

from __future__ import annotations

import ctypes
import errno
import struct

from mcd.engine.kernel import PR_SET_DUMPABLE, call

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NONE = -1

_NUMBERS: dict[str, tuple[int, int]] = {
    "connect": (42, 203), "accept": (43, 202), "accept4": (288, 242), "bind": (49, 200), "listen": (50, 201),
    "socket": (41, 198),
    "execve": (59, 221), "execveat": (322, 281),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "process_madvise": (440, 440),
    "process_mrelease": (448, 448), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "bpf": (321, 280),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "mknod": (133, _NONE), "mknodat": (259, 33),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "reboot": (169, 142),
    "swapon": (167, 224), "swapoff": (168, 225), "acct": (163, 89), "quotactl": (179, 60), "syslog": (103, 116),
    "settimeofday": (164, 170), "adjtimex": (159, 171), "clock_settime": (227, 112), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "personality": (135, 92), "lookup_dcookie": (212, 18),
    "vhangup": (153, 58), "iopl": (172, _NONE), "ioperm": (173, _NONE), "modify_ldt": (154, _NONE),
    "uselib": (134, _NONE),
    "chmod": (90, _NONE), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, _NONE), "lchown": (94, _NONE), "fchown": (93, 55), "fchownat": (260, 54),
    "utime": (132, _NONE), "utimes": (235, _NONE), "futimesat": (261, _NONE), "utimensat": (280, 88),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469), "inotify_add_watch": (254, 27), "fanotify_mark": (301, 263),
    "setpriority": (141, 140), "ioprio_set": (251, 30),
    "clone": (56, 220), "clone3": (435, 435), "prctl": (157, 167), "ioctl": (16, 29), "prlimit64": (302, 261),
}  # fmt: skip
"""The call's number on x86_64 and on aarch64. Modes, owners, times and attributes of files are here because Landlock
does not cover them: without this, the worker could open the peer's key to other users."""
_BY_ARGUMENT = frozenset({"clone", "clone3", "prctl", "ioctl", "prlimit64"})
_UPSTREAM = frozenset({"socket", "connect"})
"""What an adapter keeps, for TCP and DNS to its upstream."""

_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
"""Pushing input into the operator's terminal."""
_PR_SET_PTRACER = 0x59616D61
_AF_INET, _AF_INET6 = 2, 10
_OURSELVES = 0
"""As the process whose limits are set: those of the daemon, say of its open files, are not ours to lower."""

_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NR_OFFSET, _ARCH_OFFSET, _ARG_0, _ARG_1 = 0, 4, 16, 24
_PR_SET_SECCOMP, _FILTER_MODE = 22, 2

_INSTRUCTION = struct.Struct("=HBBI")
_EPERM = _ERRNO | errno.EPERM
_ENOSYS = _ERRNO | errno.ENOSYS

Instruction = tuple[int, int, int, int]


def denied_names(keep_upstream: bool) -> frozenset[str]:
    """Calls refused whatever their arguments."""
    return frozenset(_NUMBERS) - _BY_ARGUMENT - (_UPSTREAM if keep_upstream else frozenset())


def program(arch: str, keep_upstream: bool) -> list[Instruction]:
    """The filter for an architecture, as classic BPF instructions (code, if true, if false, constant)."""
    column = 0 if arch == "x86_64" else 1
    number = {name: numbers[column] for name, numbers in _NUMBERS.items()}
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_JEQ, 1, 0, _AUDIT_ARCH[arch]),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD, 0, 0, _NR_OFFSET),
    ]
    if arch == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), (_RETURN, 0, 0, _KILL_PROCESS)]
    for name in sorted(denied_names(keep_upstream)):
        if number[name] != _NONE:
            code += [(_JEQ, 0, 1, number[name]), (_RETURN, 0, 0, _EPERM)]
    code += [(_JEQ, 0, 1, number["clone3"]), (_RETURN, 0, 0, _ENOSYS)]  # glibc then uses clone, whose flags we see
    code += _when(number["clone"], _ARG_0, [(_JSET, 0, 1, _NEW_NAMESPACES), (_RETURN, 0, 0, _EPERM)])
    code += _when(number["prctl"], _ARG_0, _refuse(PR_SET_DUMPABLE, _PR_SET_PTRACER))
    code += _when(number["ioctl"], _ARG_1, _refuse(_TIOCSTI, _TIOCLINUX))
    code += _when(number["prlimit64"], _ARG_0, [(_JEQ, 1, 0, _OURSELVES), (_RETURN, 0, 0, _EPERM)])
    if keep_upstream:
        families = [(_JEQ, 2, 0, _AF_INET), (_JEQ, 1, 0, _AF_INET6), (_RETURN, 0, 0, _EPERM)]
        code += _when(number["socket"], _ARG_0, families)
    code.append((_RETURN, 0, 0, _ALLOW))
    return code


def _when(number: int, argument: int, checks: list[Instruction]) -> list[Instruction]:
    # load the argument for the checks, and the call's number again for what follows
    block = [(_LOAD, 0, 0, argument), *checks, (_LOAD, 0, 0, _NR_OFFSET)]
    return [(_JEQ, 0, len(block), number), *block]


def _refuse(*values: int) -> list[Instruction]:
    return [step for value in values for step in ((_JEQ, 0, 1, value), (_RETURN, 0, 0, _EPERM))]


def install(arch: str, keep_upstream: bool) -> None:
    """Filter the calls of this thread and all it will start, for ever. Needs NO_NEW_PRIVS.

    Raises:
        OSError: The kernel refuses.
    """
    code = program(arch, keep_upstream)
    packed = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*step) for step in code))
    head = ctypes.create_string_buffer(struct.pack("=H6xQ", len(code), ctypes.addressof(packed)))
    call("prctl", _PR_SET_SECCOMP, _FILTER_MODE, ctypes.addressof(head), 0, 0)
