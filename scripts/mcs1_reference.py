"""A second MCS/1, written from specs/06 alone: standard library only, slow, deterministic; makes the vectors.

It shares no line and no primitive with `mcd.wire.envelope`: HPKE after RFC 9180, X25519 after RFC 7748, ChaCha20 and
Poly1305 after RFC 8439, ML-KEM-768 after FIPS 203, X-Wing after draft-connolly-cfrg-xwing-kem, all over Python
integers and hashlib. Not for use: nothing here runs in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

# --- ChaCha20-Poly1305 (RFC 8439) ----------------------------------------------------------------------------------

_MASK = 0xFFFFFFFF


def _quarter(s: list[int], a: int, b: int, c: int, d: int) -> None:
    for first, second, third, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[first] = (s[first] + s[second]) & _MASK
        mixed = s[third] ^ s[first]
        s[third] = (mixed << turn | mixed >> (32 - turn)) & _MASK


def _chacha_block(key: bytes, counter: int, nonce: bytes) -> bytes:
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter]
    start += struct.unpack("<3I", nonce)
    state = list(start)
    for _ in range(10):
        for i in range(4):
            _quarter(state, i, i + 4, i + 8, i + 12)
        for i in range(4):
            _quarter(state, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return struct.pack("<16I", *((x + y) & _MASK for x, y in zip(start, state, strict=True)))


def aead_seal(key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
    """ChaCha20-Poly1305: ciphertext and tag."""
    stream = b"".join(_chacha_block(key, 1 + i, nonce) for i in range(-(-len(plain) // 64)))
    sealed = bytes(a ^ b for a, b in zip(plain, stream, strict=False))
    once = _chacha_block(key, 0, nonce)
    r = int.from_bytes(once[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    pad_aad, pad_sealed = bytes(-len(aad) % 16), bytes(-len(sealed) % 16)
    total = 0
    text = aad + pad_aad + sealed + pad_sealed + struct.pack("<QQ", len(aad), len(sealed))
    for i in range(0, len(text), 16):
        total = (total + int.from_bytes(text[i : i + 16] + b"\1", "little")) * r % ((1 << 130) - 5)
    tag = (total + int.from_bytes(once[16:32], "little")) & ((1 << 128) - 1)
    return sealed + tag.to_bytes(16, "little")


# --- X25519 (RFC 7748) ---------------------------------------------------------------------------------------------

_P = 2**255 - 19


def x25519(secret: bytes, point: bytes = (9).to_bytes(32, "little")) -> bytes:
    """The shared secret, or the public key when no point is given."""
    k = int.from_bytes(secret, "little") & ~7 & ((1 << 255) - 1) | 1 << 254
    x1 = int.from_bytes(point, "little") & ((1 << 255) - 1)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb = d * a, c * b
        x3, z3 = (da + cb) ** 2 % _P, x1 * (da - cb) ** 2 % _P
        e = a * a - b * b
        x2, z2 = a * a * b * b % _P, e * (a * a + 121_665 * e) % _P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, _P - 2, _P) % _P).to_bytes(32, "little")


# --- ML-KEM-768 (FIPS 203) -----------------------------------------------------------------------------------------

_Q, _N, _K, _DU, _DV = 3329, 256, 3, 10, 4
_ZETAS = [pow(17, int(f"{i:07b}"[::-1], 2), _Q) for i in range(128)]
_GAMMAS = [pow(17, 2 * int(f"{i:07b}"[::-1], 2) + 1, _Q) for i in range(128)]

Poly = list[int]


def _ntt(f: Poly) -> Poly:
    f, i, length = list(f), 1, 128
    while length >= 2:
        for start in range(0, _N, 2 * length):
            zeta, i = _ZETAS[i], i + 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % _Q
                f[j + length], f[j] = (f[j] - t) % _Q, (f[j] + t) % _Q
        length //= 2
    return f


def _inverse_ntt(f: Poly) -> Poly:
    f, i, length = list(f), 127, 2
    while length <= 128:
        for start in range(0, _N, 2 * length):
            zeta, i = _ZETAS[i], i - 1
            for j in range(start, start + length):
                t = f[j]
                f[j], f[j + length] = (t + f[j + length]) % _Q, zeta * (f[j + length] - t) % _Q
        length *= 2
    return [x * 3303 % _Q for x in f]


def _times(f: Poly, g: Poly) -> Poly:
    out = []
    for i in range(128):
        a, b, c, d = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        out += [(a * c + b * d * _GAMMAS[i]) % _Q, (a * d + b * c) % _Q]
    return out


def _plus(f: Poly, g: Poly) -> Poly:
    return [(a + b) % _Q for a, b in zip(f, g, strict=True)]


def _sample_ntt(seed: bytes) -> Poly:
    stream, out, i = hashlib.shake_128(seed).digest(1512), [], 0
    while len(out) < _N:
        low, mid, high = stream[i : i + 3]
        out += [d for d in (low + 256 * (mid % 16), mid // 16 + 16 * high) if d < _Q]
        i += 3
    return out[:_N]


def _sample_cbd(seed: bytes, number: int) -> Poly:
    bits = int.from_bytes(hashlib.shake_256(seed + bytes([number])).digest(128), "little")
    nibbles = (bits >> 4 * i & 15 for i in range(_N))
    return [((x & 1) + (x >> 1 & 1) - (x >> 2 & 1) - (x >> 3 & 1)) % _Q for x in nibbles]


def _encode(f: Poly, width: int) -> bytes:
    return sum(x << width * i for i, x in enumerate(f)).to_bytes(32 * width, "little")


def _decode(data: bytes, width: int) -> Poly:
    bits = int.from_bytes(data, "little")
    return [bits >> width * i & (1 << width) - 1 for i in range(_N)]


def _compress(f: Poly, width: int) -> Poly:
    return [((x << width + 1) + _Q) // (2 * _Q) % (1 << width) for x in f]


def _matrix(rho: bytes) -> list[list[Poly]]:
    return [[_sample_ntt(rho + bytes([j, i])) for j in range(_K)] for i in range(_K)]


def mlkem_public(seed: bytes) -> bytes:
    """The 1184-byte encapsulation key of a 64-byte seed d | z."""
    g = hashlib.sha3_512(seed[:32] + bytes([_K])).digest()
    rho, sigma = g[:32], g[32:]
    s = [_ntt(_sample_cbd(sigma, i)) for i in range(_K)]
    public = b""
    for i, row in enumerate(_matrix(rho)):
        t = _ntt(_sample_cbd(sigma, _K + i))
        for a, secret in zip(row, s, strict=True):
            t = _plus(t, _times(a, secret))
        public += _encode(t, 12)
    return public + rho


def mlkem_encapsulate(public: bytes, m: bytes) -> tuple[bytes, bytes]:
    """(shared secret, ciphertext) for the 32 random bytes ``m``."""
    g = hashlib.sha3_512(m + hashlib.sha3_256(public).digest()).digest()
    shared, r = g[:32], g[32:]
    t = [_decode(public[384 * i : 384 * i + 384], 12) for i in range(_K)]
    matrix = _matrix(public[384 * _K :])
    y = [_ntt(_sample_cbd(r, i)) for i in range(_K)]
    sealed = b""
    for i in range(_K):
        u = [0] * _N
        for j in range(_K):
            u = _plus(u, _times(matrix[j][i], y[j]))
        u = _plus(_inverse_ntt(u), _sample_cbd(r, _K + i))
        sealed += _encode(_compress(u, _DU), _DU)
    v = [0] * _N
    for j in range(_K):
        v = _plus(v, _times(t[j], y[j]))
    message = [(_Q + 1) // 2 * bit for bit in _decode(m, 1)]
    v = _plus(_plus(_inverse_ntt(v), _sample_cbd(r, 2 * _K)), message)
    return shared, sealed + _encode(_compress(v, _DV), _DV)


# --- HPKE base mode, single shot (RFC 9180) ------------------------------------------------------------------------

KEM_X25519, KEM_XWING = 0x0020, 0x647A


def _extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def _expand(prk: bytes, info: bytes, length: int) -> bytes:
    out, block = b"", b""
    for i in range(-(-length // 32)):
        block = hmac.digest(prk, block + info + bytes([i + 1]), "sha256")
        out += block
    return out[:length]


def _labelled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return _extract(salt, b"HPKE-v1" + suite + label + ikm)


def _labelled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return _expand(prk, struct.pack(">H", length) + b"HPKE-v1" + suite + label + info, length)


def _encapsulate_x25519(public: bytes, secret: bytes) -> tuple[bytes, bytes]:
    enc, suite = x25519(secret), b"KEM" + struct.pack(">H", KEM_X25519)
    prk = _labelled_extract(suite, b"", b"eae_prk", x25519(secret, public))
    return _labelled_expand(suite, prk, b"shared_secret", enc + public, 32), enc


def _encapsulate_xwing(public: bytes, randomness: bytes) -> tuple[bytes, bytes]:
    lattice, classic = public[:1184], public[1184:]
    shared_m, enc_m = mlkem_encapsulate(lattice, randomness[:32])
    enc_x, shared_x = x25519(randomness[32:]), x25519(randomness[32:], classic)
    shared = hashlib.sha3_256(shared_m + shared_x + enc_x + classic + b"\\.//^\\").digest()
    return shared, enc_m + enc_x


def hpke_seal(suite: int, public: bytes, randomness: bytes, info: bytes, plain: bytes) -> bytes:
    """Enc and ciphertext. ``randomness``: the ephemeral key (suite 1), or m and the ephemeral key (suite 2)."""
    kem, encapsulate = {1: (KEM_X25519, _encapsulate_x25519), 2: (KEM_XWING, _encapsulate_xwing)}[suite]
    shared, enc = encapsulate(public, randomness)
    name = b"HPKE" + struct.pack(">HHH", kem, 0x0001, 0x0003)
    context = b"\0" + _labelled_extract(name, b"", b"psk_id_hash", b"")
    context += _labelled_extract(name, b"", b"info_hash", info)
    secret = _labelled_extract(name, shared, b"secret", b"")
    key = _labelled_expand(name, secret, b"key", context, 32)
    nonce = _labelled_expand(name, secret, b"base_nonce", context, 12)
    return enc + aead_seal(key, nonce, plain, b"")


# --- MCS/1 (specs/06) ----------------------------------------------------------------------------------------------

REQUEST_LABEL, RESPONSE_LABEL = b"modelcloud seal v1 request\0", b"modelcloud seal v1 response\0"


def padme(size: int) -> int:
    """Padded length of specs/06."""
    exponent = size.bit_length() - 1
    unit = 1 << exponent - exponent.bit_length()
    return -(-size // unit) * unit


def seal_request(
    suite: int, public: bytes, randomness: bytes, header: bytes, k: bytes, e: bytes, body: bytes
) -> tuple[bytes, bytes]:
    """(sealed request, transcript hash)."""
    plain = k + x25519(e) + struct.pack(">I", len(body)) + body
    plain = plain.ljust(padme(max(256, len(plain))), b"\0")
    sealed = hpke_seal(suite, public, randomness, REQUEST_LABEL + header, plain)
    return sealed, hashlib.sha256(REQUEST_LABEL + header + sealed).digest()


def last_frame(sent: int, data: int) -> int:
    """Plaintext of the frame that ends a response."""
    least = -(-(4 + data) // 256) * 256
    total = 1024
    while total < sent + least + 21:
        total = min(total * 5 // 4, total + 49152)
    return min(total - sent - 21, 65536)


def response_secrets(th: bytes, k: bytes, y: bytes, entry_key: bytes) -> tuple[bytes, bytes, bytes]:
    """(key, base nonce, receipt salt) of a response."""
    context = th + x25519(y)
    okm = _expand(_extract(context, k + x25519(y, entry_key)), RESPONSE_LABEL + context, 76)
    return okm[:32], okm[32:44], okm[44:]


def seal_frame(key: bytes, base: bytes, number: int, kind: int, data: bytes, padded_bytes: int) -> bytes:
    """Frame ``number`` of a response."""
    plain = (struct.pack(">I", len(data)) + data).ljust(padded_bytes, b"\0")
    nonce = (int.from_bytes(base, "big") ^ number).to_bytes(12, "big")
    head = struct.pack(">BI", kind, len(plain) + 16)
    return head + aead_seal(key, nonce, plain, head)
