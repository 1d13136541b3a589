"""libp2p works without what we never use: an entry peer installs without a compiler, and starts sooner."""

from __future__ import annotations

import subprocess
import sys

from mcd.mesh.unused import ABSENT

CODE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'fastecdsa':
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hide())
import mcd.mesh
import libp2p
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.keys import KeyType
from libp2p.crypto.pb import crypto_pb2
from libp2p.crypto.serialization import deserialize_public_key
key = create_new_key_pair().public_key
assert deserialize_public_key(key.serialize()) == key
ecdsa = crypto_pb2.PublicKey(key_type=crypto_pb2.KeyType.ECDSA, data=b'x' * 33).SerializeToString()
try:
    deserialize_public_key(ecdsa)
except Exception as refused:
    print('refused', type(refused).__name__)
"""


def test_ed25519_works_and_ecdsa_is_refused_without_the_compiled_package() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused"), done.stdout


def test_a_daemon_loads_nothing_of_the_parts_it_never_uses() -> None:
    code = "import sys, mcd.daemon; print(*(n for n, m in sys.modules.items() if getattr(m, '__file__', None)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = done.stdout.split()
    assert "libp2p.network.swarm" in loaded
    assert not [
        name for name in loaded if any(f"{name}.".startswith(f"{part}.") for part in (*ABSENT, "aioquic", "httpx"))
    ]
