"""The peer's key file: 32 random bytes in the home folder, readable by its owner alone.   [ID-04]"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mcd.errors import ConfigError
from mcd.ids import PeerId
from mcd.wire.signing import SigningKey, peer_id

KEY_FILE = "peer.key"
SEED_BYTES = 32


def open_home(home: Path) -> None:
    """Create the home folder (0700) if it is absent, and refuse one that others can enter.

    Raises:
        ConfigError: Not a folder, not ours, or open to other users.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = stat.S_IMODE(home.stat().st_mode)
    except OSError as problem:
        raise ConfigError(f"cannot use --home {home}: {problem.strerror}") from problem
    if mode & 0o077:
        raise ConfigError(f"{home} is open to other users (mode {mode:o}); run: chmod 700 {home}")


def load_or_create(home: Path) -> SigningKey:
    """Read the peer key, making one at first start.

    The file is written whole before it gets its name, so a crash never leaves half a key.

    Raises:
        ConfigError: The file has the wrong size, is open to others, or cannot be read or written.
    """
    path = home / KEY_FILE
    if not path.exists():
        _create(path)
    return SigningKey(_read(path))


def read_peer_id(home: Path) -> PeerId | None:
    """The id of a home's peer without a running daemon; None when it never ran there.

    Raises:
        ConfigError: The key file is unusable.
    """
    path = home / KEY_FILE
    if not path.exists():
        return None
    return peer_id(SigningKey(_read(path)).public_key)


def _create(path: Path) -> None:
    fresh = path.with_name(f"{KEY_FILE}.{os.getpid()}")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(os.urandom(SEED_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(fresh, path)  # fails when another daemon made the key first: its key wins
    except FileExistsError:
        pass
    except OSError as problem:
        raise ConfigError(f"cannot write {path}: {problem.strerror}") from problem
    finally:
        fresh.unlink(missing_ok=True)


def _read(path: Path) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(fd, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            seed = file.read(SEED_BYTES + 1)
    except OSError as problem:
        raise ConfigError(f"cannot read {path}: {problem.strerror}") from problem
    if mode & 0o077:
        raise ConfigError(f"{path} is readable by other users (mode {mode:o}); run: chmod 600 {path}")
    if len(seed) != SEED_BYTES:
        raise ConfigError(f"{path} is damaged: {len(seed)} bytes instead of {SEED_BYTES}; restore it or remove it")
    return seed
