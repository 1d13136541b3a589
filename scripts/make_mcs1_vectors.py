"""Write protocol/vectors/mcs1_{header,keys,answers,ends,refused}.json: MCS/1 with every key fixed, both suites.

The bytes come from `scripts.mcs1_reference`, which shares nothing with `mcd.wire.envelope`; the conformance tests open
them with the product. `--check` only says whether the files are up to date.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it also runs by its path

from mcd.wire.signing import SigningKey  # noqa: E402
from scripts import mcs1_reference as mcs1  # noqa: E402

FOLDER = ROOT / "protocol" / "vectors"
NOW_MS = 1_790_000_000_000
CREATED_MS = NOW_MS - 60_000
LIFETIME_MS = 4_500_000
HOUR_MS = 3_600_000

Vector = dict[str, Any]


def fixed(name: str, size: int = 32) -> bytes:
    """Bytes that look random and are the same everywhere."""
    return hashlib.shake_256(b"modelcloud vectors " + name.encode()).digest(size)


PEER, ENGINE, STRANGER = (SigningKey(fixed(name)) for name in ("peer", "engine", "stranger"))
SEEDS = {1: fixed("suite 1 x25519"), 2: fixed("suite 2 ml-kem", 64) + fixed("suite 2 x25519")}
PUBLIC = {1: mcs1.x25519(SEEDS[1]), 2: mcs1.mlkem_public(SEEDS[2][:64]) + mcs1.x25519(SEEDS[2][64:])}
KEY_ID = {suite: hashlib.sha256(struct.pack(">H", suite) + key).digest()[:8] for suite, key in PUBLIC.items()}


# --- the header ----------------------------------------------------------------------------------------------------


def fields(suite: int = 2, **other: Any) -> dict[str, Any]:
    """The members of an ordinary header."""
    usual = {
        "suite": suite,
        "request_id": fixed("request", 16),
        "provider": PEER.public_key,
        "key_id": KEY_ID.get(suite, bytes(8)),
        "model_digest": fixed("model"),
        "quote_hash": hashlib.sha256(b"").digest(),
        "issued_ms": NOW_MS,
        "ttl_ms": 60_000,
        "flags": 1,
    }
    return usual | other


def header(version: int = 1, **values: Any) -> bytes:
    """Lay out the 136 bytes."""
    return struct.pack(">BH16s32s8s32s32sQIB", version, *values.values())


def headers() -> Iterator[Vector]:
    """Headers with their fields, and headers to refuse."""

    def good(comment: str, values: dict[str, Any]) -> Vector:
        return {"comment": comment, "spec": ["ENV-01"], "given": _shown(values), "bytes": header(**values).hex()}

    def bad(comment: str, data: bytes) -> Vector:
        return {"comment": comment, "spec": ["ENV-02"], "bytes": data.hex(), "error": "envelope_invalid"}

    yield good("ordinary, suite 2", fields(2))
    yield good("ordinary, suite 1", fields(1))
    yield good(
        "a quote, the longest time to live, no stream", fields(2, quote_hash=fixed("q"), ttl_ms=600_000, flags=0)
    )
    yield good("the shortest time to live", fields(2, ttl_ms=1))
    plain = header(**fields())
    yield bad("empty", b"")
    yield bad("one byte short", plain[:-1])
    yield bad("one byte long", plain + b"\0")
    yield bad("version 0", header(0, **fields()))
    yield bad("version 2", header(2, **fields()))
    for suite in (0, 3, 0x0100, 0xFFFF):
        yield bad(f"suite {suite}", header(**fields(suite)))
    yield bad("no time to live", header(**fields(ttl_ms=0)))
    yield bad("a time to live over the limit", header(**fields(ttl_ms=600_001)))
    for bit in range(1, 8):
        yield bad(f"unknown flag, bit {bit}", header(**fields(flags=1 << bit)))


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in values.items()}


# --- certificate and key configs -----------------------------------------------------------------------------------


def certificate(signer: SigningKey = PEER, version: int = 1, label: bytes = b"mcs v1 engine cert\0") -> bytes:
    """The engine's certificate."""
    body = struct.pack(">B32sQ", version, ENGINE.public_key, CREATED_MS)
    return body + signer.sign(label, body)


def config(suite: int = 2, *, version: int = 1, signer: SigningKey = ENGINE, **other: Any) -> bytes:
    """A signed key config; ``other`` replaces fields."""
    values = {
        "peer_key": PEER.public_key,
        "engine_key": ENGINE.public_key,
        "not_before_ms": NOW_MS,
        "not_after_ms": NOW_MS + LIFETIME_MS,
        "epoch": 7,
        "public_key": PUBLIC.get(suite, PUBLIC[1]),
    } | other
    key = values.pop("public_key")
    body = struct.pack(">BH32s32sQQIH", version, suite, *values.values(), len(key)) + key
    return body + signer.sign(b"mcs v1 key config\0", body)


def keys() -> Iterator[Vector]:
    """Configs with what they say, and configs to refuse."""

    def case(comment: str, data: bytes, cert: bytes, now_ms: int = NOW_MS + 1000, min_epoch: int = 0) -> Vector:
        return {
            "comment": comment,
            "spec": ["ENV-08", "ENV-09"],
            "peer_key": PEER.public_key.hex(),
            "certificate": cert.hex(),
            "now_ms": now_ms,
            "min_epoch": min_epoch,
            "bytes": data.hex(),
        }

    def bad(comment: str, data: bytes, cert: bytes | None = None, **other: int) -> Vector:
        made = case(comment, data, certificate() if cert is None else cert, **other)
        return made | {"error": "envelope_invalid"}

    for suite in (1, 2):
        given = {"suite": suite, "engine_key": ENGINE.public_key.hex(), "epoch": 7, "key_id": KEY_ID[suite].hex()}
        given |= {"not_before_ms": NOW_MS, "not_after_ms": NOW_MS + LIFETIME_MS, "public_key": PUBLIC[suite].hex()}
        good = case(f"suite {suite}", config(suite), certificate())
        yield good | {"spec": ["ENV-06", "ENV-07", "ENV-08", "ENV-09"], "given": given}
    end = NOW_MS + LIFETIME_MS
    yield case("our clock 60 s behind", config(), certificate(), NOW_MS - 60_000)
    yield case("the last millisecond", config(), certificate(), end - 1)
    yield case("two hours exactly", config(not_after_ms=NOW_MS + 2 * HOUR_MS), certificate())
    yield case("the epoch seen before", config(), certificate(), min_epoch=7)
    yield bad("our clock more than 60 s behind", config(), now_ms=NOW_MS - 60_001)
    yield bad("expired", config(), now_ms=end)
    yield bad("more than two hours", config(not_after_ms=NOW_MS + 2 * HOUR_MS + 1))
    yield bad("ends before it begins", config(not_after_ms=NOW_MS))
    yield bad("an older epoch", config(), min_epoch=8)
    yield bad("another peer's key", config(peer_key=STRANGER.public_key))
    yield bad("another engine's key", config(engine_key=STRANGER.public_key, signer=STRANGER))
    yield bad("signed by the peer instead of the engine", config(signer=PEER))
    yield bad("version 2", config(version=2))
    yield bad("suite 3", config(3))
    yield bad("suite 2 with a key of suite 1", config(2, public_key=PUBLIC[1]))
    yield bad("suite 1 with a key of suite 2", config(1, public_key=PUBLIC[2]))
    yield bad("no key", config(1, public_key=b""))
    yield bad("cut", config()[:-1])
    yield bad("longer", config() + b"\0")
    yield bad("shorter than a signature", config()[:60])
    yield bad("certificate by a stranger", config(), certificate(STRANGER))
    yield bad("certificate of version 2", config(), certificate(version=2))
    yield bad("certificate under another label", config(), certificate(label=b"mcs v1 key config\0"))
    yield bad("certificate cut", config(), certificate()[:-1])
    yield bad("no certificate", config(), b"")


# --- whole answers -------------------------------------------------------------------------------------------------

BODY = b'{"kind":"chat","request":{"model":"modelcloud-nano","messages":[{"role":"user","content":"Hello"}]}}'
PARTS = ((0, b"first data", 64), (0, b"", 64), (0, b"x" * 61, 128), (1, b"final", 684))


class Exchange:
    """One sealed request and its response with every secret fixed."""

    def __init__(self, suite: int, body: bytes = BODY, **other: Any) -> None:
        self.suite, self.body = suite, body
        self.k, self.e, self.y = (fixed(f"suite {suite} {name}") for name in "key")
        self.header = header(**fields(suite, **other))
        self.randomness = fixed(f"suite {suite} encapsulation", 32 * suite)
        self.sealed, self.th = mcs1.seal_request(
            suite, PUBLIC[suite], self.randomness, self.header, self.k, self.e, body
        )
        self.key, self.base, self.salt = mcs1.response_secrets(self.th, self.k, self.y, mcs1.x25519(self.e))

    def frames(self, parts: tuple[tuple[int, bytes, int], ...] = PARTS) -> list[bytes]:
        """Seal frames of (type, data, padded bytes)."""
        return [mcs1.seal_frame(self.key, self.base, i, *part) for i, part in enumerate(parts)]

    def vector(self, frames: list[bytes]) -> Vector:
        """What a test needs to replay it from the engine's side and from the entry's."""
        return {
            "suite": self.suite,
            "seal_seed": SEEDS[self.suite].hex(),
            "k": self.k.hex(),
            "e": self.e.hex(),
            "y": self.y.hex(),
            "encapsulation": self.randomness.hex(),
            "header": self.header.hex(),
            "bytes": self.sealed.hex(),
            "response_key": mcs1.x25519(self.y).hex(),
            "frames": [frame.hex() for frame in frames],
        }


def answers() -> Iterator[Vector]:
    """Exchanges that succeed."""
    ids = ["ENV-12", "ENV-14", "ENV-15", "ENV-16", "ENV-21", "ENV-24", "ENV-26", "ENV-31"]
    error_parts = ((2, b"failure", 1003),)
    for suite in (1, 2):
        bodies = {"ordinary": BODY, "empty": b"{}", "188 bytes, the floor": b"a" * 188, "189 bytes": b"a" * 189}
        for name, body in (bodies | {"a long body": b"b" * 5000}).items():
            for parts in (PARTS, error_parts) if name == "ordinary" else (PARTS,):
                made = Exchange(suite, body)
                data = b"".join(part[1] for part in parts if part[0] == 0)
                given = {
                    "body": body.hex(),
                    "th": made.th.hex(),
                    "parts": [{"type": kind, "data": part.hex()} for kind, part, _ in parts],
                    "output_digest": hashlib.sha256(made.salt + data).hexdigest(),
                }
                end = "error" if parts is error_parts else "final"
                comment = f"suite {suite}: {name}, ended by a {end} frame"
                yield {"comment": comment, "spec": ids, **made.vector(made.frames(parts)), "given": given}


ENDS = {
    "nothing but the last frame": (0, 80),
    "one frame before it": (85, 80),
    "the last byte of the first bucket": (747, 80),
    "the first byte of the second bucket": (748, 80),
    "an end of two units": (85, 260),
    "the last bucket that is a quarter wider": (173_382, 80),
    "the first that is not": (216_727, 80),
    "a large answer": (300_000, 80),
    "data that leaves no room to fill the bucket": (300_000, 40_000),
    "the largest data": (300_000, 65_532),
    "the largest answer": (16_711_659, 80),
}


def ends() -> Iterator[Vector]:
    """How answers of any size end."""
    for comment, (sent_bytes, data_bytes) in ENDS.items():
        given = {"sent_bytes": sent_bytes, "data_bytes": data_bytes}
        last_bytes = mcs1.last_frame(sent_bytes, data_bytes)
        yield {"comment": comment, "spec": ["ENV-26"], "given": given, "last_bytes": last_bytes}


# --- what must be refused ------------------------------------------------------------------------------------------


def refused() -> Iterator[Vector]:
    """Requests and responses that an attacker changed; ``at`` is the side that must notice."""
    for suite in (1, 2):
        made = Exchange(suite)
        frames = made.frames()

        def bad(at: str, comment: str, ids: list[str], made: Exchange = made, **changed: Any) -> Vector:
            frames = changed.pop("frames", made.frames())
            base = {"comment": f"suite {made.suite}: {comment}", "spec": ids, "at": at, **made.vector(frames)}
            return base | {name: value.hex() for name, value in changed.items()} | {"error": "envelope_invalid"}

        yield from _bad_requests(bad, made)
        yield from _bad_responses(bad, made, frames)


def _bad_requests(bad: Any, made: Exchange) -> Iterator[Vector]:
    suite, sealed, ids = made.suite, made.sealed, ["ENV-16"]
    enc_bytes = {1: 32, 2: 1120}[suite]
    for at in (0, enc_bytes - 1, enc_bytes, len(sealed) - 1):
        yield bad("engine", f"byte {at} of the sealed request", ids, bytes=_flipped(sealed, at))
    for at, name in ((3, "request id"), (19, "provider"), (59, "model"), (91, "quote"), (124, "issued"), (134, "ttl")):
        yield bad("engine", f"{name} in the header changed", ids, header=_flipped(made.header, at))
    yield bad("engine", "stream flag changed", ids, header=_flipped(made.header, 135))
    yield bad("engine", "cut by a byte", ids, bytes=sealed[:-1])
    yield bad("engine", "longer by a byte", ids, bytes=sealed + b"\0")
    yield bad("engine", "only the encapsulated key", ids, bytes=sealed[:enc_bytes])
    yield bad("engine", "empty", ids, bytes=b"")
    yield bad("engine", "the other suite in the header", ids, header=header(**fields(3 - suite)))
    for comment, plain in _bad_plaintexts(made):
        changed = mcs1.hpke_seal(suite, PUBLIC[suite], made.randomness, mcs1.REQUEST_LABEL + made.header, plain)
        yield bad("engine", comment, ids, bytes=changed)


def _bad_plaintexts(made: Exchange) -> Iterator[tuple[str, bytes]]:
    entry_key = mcs1.x25519(made.e)
    yield "padding that is not zero", (made.k + entry_key + bytes(4)).ljust(255, b"\0") + b"\1"
    yield "a body longer than the plaintext", (made.k + entry_key + struct.pack(">I", 189)).ljust(256, b"\0")
    yield "a plaintext without a length", made.k + entry_key
    yield "E of low order", (made.k + bytes(32) + struct.pack(">I", 2) + b"{}").ljust(256, b"\0")


def _bad_responses(bad: Any, made: Exchange, frames: list[bytes]) -> Iterator[Vector]:
    ids = ["ENV-22"]
    first, empty, long, final = frames
    yield bad("entry", "cut before the final frame", ["ENV-25"], frames=[first, empty, long])
    yield bad("entry", "no frame at all", ["ENV-25"], frames=[])
    yield bad("entry", "first frame dropped", ids, frames=[empty, long, final])
    yield bad("entry", "two frames swapped", ids, frames=[empty, first, long, final])
    yield bad("entry", "a frame twice", ids, frames=[first, first, empty, long, final])
    more = made.frames((*PARTS, (0, b"more", 64)))[-1]
    yield bad("entry", "a frame after the final one, under the next number", ids, frames=[*frames, more])
    yield bad("entry", "a data frame called final", ids, frames=[b"\1" + first[1:]])
    yield bad("entry", "the final frame called data", ids, frames=[first, empty, long, b"\0" + final[1:]])
    yield bad("entry", "type 3", ids, frames=[made.frames(((3, b"", 64),))[0]])
    yield bad("entry", "length one too small", ids, frames=[first[:4] + bytes([first[4] - 1]) + first[5:]])
    yield bad("entry", "length one too large", ids, frames=[first[:4] + bytes([first[4] + 1]) + first[5:]])
    yield bad("entry", "cut by a byte", ids, frames=[first[:-1]])
    for size in range(5):
        yield bad("entry", f"{size} bytes", ids, frames=[first[:size]])
    yield bad("entry", "padding that is not zero", ids, frames=[_raw(made, bytes(4) + b"\0\1" + bytes(58))])
    yield bad("entry", "n beyond the plaintext", ids, frames=[_raw(made, struct.pack(">I", 61) + bytes(60))])
    yield bad("entry", "a plaintext without n", ids, frames=[_raw(made, bytes(3))])
    other = Exchange(made.suite, request_id=fixed("another request", 16))
    yield bad("entry", "a frame of another request", ids, frames=[other.frames()[0]])
    yield bad("entry", "another response key", ["ENV-28"], response_key=mcs1.x25519(fixed("mallory")))
    for name, point in (("0", bytes(32)), ("1", b"\1" + bytes(31)), ("p - 1", b"\xec" + b"\xff" * 30 + b"\x7f")):
        yield bad("entry", f"response key of low order: {name}", ["ENV-28"], response_key=point)
    yield bad("entry", "response key of 31 bytes", ["ENV-28"], response_key=bytes(31))


def _raw(made: Exchange, plain: bytes) -> bytes:
    head = struct.pack(">BI", 0, len(plain) + 16)
    return head + mcs1.aead_seal(made.key, made.base, plain, head)


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


# --- files ---------------------------------------------------------------------------------------------------------


def files() -> dict[Path, str]:
    """Every file with its text."""
    groups = {"header": headers(), "keys": keys(), "answers": answers(), "ends": ends(), "refused": refused()}
    return {FOLDER / f"mcs1_{name}.json": _text(list(made)) for name, made in groups.items()}


def _text(vectors: list[Vector]) -> str:
    return "[\n" + ",\n".join(json.dumps(vector) for vector in vectors) + "\n]\n"


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` compare them; 1 on any difference."""
    stale = [path for path, text in files().items() if not path.exists() or path.read_text("utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"make_mcs1_vectors: {path.relative_to(ROOT)} is out of date; run scripts/make_mcs1_vectors.py")
        return 1 if stale else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in files().items():
        path.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
