"""Key files: made once, private, never half-written, refused when unsafe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcd.errors import ConfigError
from mcd.store import keys


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    keys.open_home(path)
    return path


@pytest.mark.spec("ID-04")
def test_key_survives_restart_and_is_private(home: Path) -> None:
    first = keys.load_or_create(home)
    assert keys.load_or_create(home).public_key == first.public_key
    assert (home / keys.KEY_FILE).stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in home.iterdir()] == [keys.KEY_FILE]


def test_peer_id_is_known_without_a_daemon(home: Path) -> None:
    assert keys.read_peer_id(home) is None
    keys.load_or_create(home)
    peer = keys.read_peer_id(home)
    assert peer is not None
    assert peer.startswith("12D3Koo")


@pytest.mark.spec("ID-04")
@pytest.mark.parametrize("size", [0, 31, 33])
def test_damaged_key_is_refused_and_kept(home: Path, size: int) -> None:
    path = home / keys.KEY_FILE
    path.write_bytes(b"x" * size)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="damaged"):
        keys.load_or_create(home)
    assert path.stat().st_size == size


@pytest.mark.spec("ID-04")
def test_open_permissions_are_refused(home: Path) -> None:
    keys.load_or_create(home)
    (home / keys.KEY_FILE).chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        keys.load_or_create(home)
    home.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 700"):
        keys.open_home(home)


def test_symlinked_key_is_refused(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x" * 32)
    other.chmod(0o600)
    (home / keys.KEY_FILE).symlink_to(other)
    with pytest.raises(ConfigError, match="cannot read"):
        keys.load_or_create(home)


def test_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot use --home"):
        keys.open_home(tmp_path / "file")
