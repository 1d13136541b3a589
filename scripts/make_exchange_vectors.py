"""Write protocol/vectors/exchange/*.json; `--check` only says whether they are up to date.

Each is a story that two real exchanges play (`exchange_script`). So that the vectors prove something, every story
states the states it must pass through, and a test plays the files again from the bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from mcd.exchange.exchange import MAX_WAITING_BURST
from mcd.exchange.states import Role
from mcd.wire.codec import encode_exchange
from mcd.wire.framing import frame
from mcd.wire.messages import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    MAX_REQUEST_FRAME_BYTES,
    Abort,
    AbortCode,
    Accepted,
    Cancel,
    Chunk,
    Finished,
    Paused,
    Quote,
    QuoteRequest,
    Refused,
    RefuseReason,
    Request,
    Started,
    Voucher,
    Waiting,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it also runs by its path

from scripts.exchange_script import Script  # noqa: E402

FOLDER = ROOT / "protocol" / "vectors" / "exchange"
HEADER = bytes(range(HEADER_BYTES))
REQUEST = Request(HEADER, b"sealed request", max_output_tokens=16)
STARTED = Started(bytes(range(32)), n_prompt_tokens=12)
FINISHED = Finished(b"sealed final frame", b"signed receipt")
ASK_PRICE = QuoteRequest(bytes(32), n_prompt_bytes=14, max_output_tokens=16)
ENTRY, PROVIDER = Role.ENTRY, Role.PROVIDER


def _streaming(comment: str, *spec: str) -> Script:
    return Script(comment, *spec).say(ENTRY, REQUEST).say(PROVIDER, Accepted(0, 0), STARTED)


def _living(script: Script, until_s: int) -> Script:
    """A life sign every ten seconds."""
    for now_s in range(30, until_s + 1, 10):
        script.at(now_s).say(PROVIDER, Waiting(1, 600_000))
    return script


def answers() -> list[dict[str, Any]]:
    """Stories that end with a whole answer."""
    paid = msgspec.structs.replace(REQUEST, quote=b"signed quote", voucher=b"first promise")
    resumed = msgspec.structs.replace(REQUEST, resume_from=14)
    return [
        _streaming("an answer of three tokens in two chunks", "EX-02", "EX-04", "EX-23")
        .say(PROVIDER, Chunk(b"sealed frame 1", 2), Chunk(b"sealed frame 2", 1), FINISHED)
        .close(ENTRY)
        .arrive(ENTRY)
        .close(PROVIDER)
        .arrive(PROVIDER)
        .ends("finished", "finished"),
        Script("queued behind two others, then prefilling for a while", "EX-20")
        .say(ENTRY, REQUEST)
        .say(PROVIDER, Accepted(2, 1500))
        .at(1.0)
        .say(PROVIDER, Waiting(1, 700))
        .at(2.0)
        .say(PROVIDER, STARTED)
        .at(3.0)
        .say(PROVIDER, Waiting(0, 0), Chunk(b"sealed frame 1", 1), FINISHED)
        .ends("finished", "finished"),
        Script("a quote first, on the same stream, then a paid request", "EX-01")
        .say(ENTRY, ASK_PRICE)
        .say(PROVIDER, Quote(b"signed quote", 20, 5000))
        .say(ENTRY, paid)
        .say(PROVIDER, Accepted(0, 0), STARTED, FINISHED)
        .say(ENTRY, Voucher(b"last promise"))
        .ends("finished", "finished"),
        _streaming("paused for credit; a voucher that is too small does not end the pause, a chunk does", "EX-31")
        .say(PROVIDER, Chunk(b"sealed frame 1", 4), Paused(4_000_000))
        .say(ENTRY, Voucher(b"too small"))
        .say(PROVIDER, Paused(4_000_000))
        .say(ENTRY, Voucher(b"enough"))
        .say(PROVIDER, Chunk(b"sealed frame 2", 1), FINISHED)
        .ends("finished", "finished"),
        Script("an answer continued after 14 of 16 tokens", "EX-11", "EX-42")
        .say(ENTRY, resumed)
        .say(PROVIDER, Accepted(0, 0), STARTED, Chunk(b"sealed frame 1", 2))
        .send(PROVIDER, Chunk(b"one token too many", 1))
        .say(PROVIDER, FINISHED)
        .ends("finished", "finished"),
    ]


def ends() -> list[dict[str, Any]]:
    """Stories that end otherwise, and messages that cross."""
    return [
        Script("refused before any work", "EX-23", "EX-25")
        .say(ENTRY, REQUEST)
        .say(PROVIDER, Refused(RefuseReason.BUSY, 1500))
        .close(ENTRY)
        .arrive(ENTRY)
        .ends("refused", "refused"),
        Script("refused with a reason of a later version", "EX-09")
        .say(ENTRY, REQUEST)
        .say(PROVIDER, Refused(200, 0))
        .ends("refused", "refused"),
        Script("cancelled in the queue: nothing is owed, both close", "EX-27")
        .say(ENTRY, REQUEST)
        .say(PROVIDER, Accepted(3, 9000))
        .say(ENTRY, Cancel())
        .close(ENTRY)
        .arrive(ENTRY)
        .close(PROVIDER)
        .arrive(PROVIDER)
        .ends("cancelled", "cancelled"),
        _streaming("cancelled while streaming: the last frame and the receipt still come", "EX-27")
        .say(PROVIDER, Chunk(b"sealed frame 1", 2))
        .say(ENTRY, Cancel())
        .close(PROVIDER)
        .say(PROVIDER, FINISHED)
        .say(ENTRY, Voucher(b"for two tokens"))
        .ends("finished", "finished"),
        _streaming("cancel and the last frame cross", "EX-04")
        .send(ENTRY, Cancel())
        .send(PROVIDER, FINISHED)
        .arrive(PROVIDER)
        .arrive(ENTRY)
        .ends("finished", "finished"),
        _streaming("a voucher and the pause it would have prevented cross", "EX-04", "EX-31")
        .send(ENTRY, Voucher(b"more"))
        .send(PROVIDER, Paused(2_000_000))
        .arrive(PROVIDER)
        .arrive(ENTRY)
        .ends("paused", "paused"),
        Script("cancel and the start cross: there is something to account for after all", "EX-04")
        .say(ENTRY, REQUEST)
        .say(PROVIDER, Accepted(0, 0))
        .send(ENTRY, Cancel())
        .send(PROVIDER, STARTED, Chunk(b"sealed frame 1", 1))
        .arrive(PROVIDER)
        .arrive(ENTRY)
        .say(PROVIDER, FINISHED)
        .ends("finished", "finished"),
        Script("cancel and a refusal cross", "EX-04")
        .say(ENTRY, REQUEST)
        .send(ENTRY, Cancel())
        .send(PROVIDER, Refused(RefuseReason.LOADING, 3000))
        .arrive(PROVIDER)
        .arrive(ENTRY)
        .ends("refused", "refused"),
        _streaming("the engine dies; what arrives after an abort is discarded unread", "EX-06")
        .say(PROVIDER, Abort(AbortCode.ENGINE_DIED))
        .receive(ENTRY, b"\xff\xff\xff\xff garbage")
        .send(ENTRY, Cancel())
        .ends("aborted", "aborted"),
        _streaming("an abort and the last frame cross: the entry never got it", "EX-04", "EX-06")
        .send(ENTRY, Abort(AbortCode.INTERNAL))
        .send(PROVIDER, FINISHED)
        .arrive(PROVIDER)
        .arrive(ENTRY)
        .ends("aborted", "aborted"),
        _streaming("the provider waits five seconds for a last voucher, then lets go", "EX-52")
        .say(PROVIDER, FINISHED)
        .at(4.9)
        .expire(PROVIDER)
        .at(5.0)
        .expire(PROVIDER)
        .ends("finished", "finished"),
    ]


def faults() -> list[dict[str, Any]]:
    """Stories in which a side breaks the rules, or says nothing."""
    chunk = frame(encode_exchange(Chunk(b"sealed frame", 1)))
    waiting = frame(encode_exchange(Waiting(0, 0)))
    flood = Script("life signs faster than one a second", "EX-21").say(ENTRY, REQUEST).say(PROVIDER, Accepted(0, 0))
    for _ in range(MAX_WAITING_BURST):
        flood.receive(ENTRY, waiting)
    return [
        _streaming("the stream ends before the answer does", "EX-05").receive(ENTRY, b"").ends("broken", "streaming"),
        _streaming("the stream ends inside a frame", "EX-05")
        .receive(ENTRY, chunk[:-1])
        .receive(ENTRY, b"")
        .ends("broken", "streaming"),
        Script("the entry leaves without a word", "EX-05")
        .say(ENTRY, REQUEST)
        .receive(PROVIDER, b"")
        .ends("requested", "broken"),
        Script("a chunk before the engine started", "EX-03")
        .say(ENTRY, REQUEST)
        .say(PROVIDER, Accepted(0, 0))
        .receive(ENTRY, chunk)
        .ends("broken", "queued"),
        Script("a second request on the stream", "EX-01", "EX-02", "EX-03")
        .say(ENTRY, REQUEST)
        .send(ENTRY, REQUEST)
        .receive(PROVIDER, frame(encode_exchange(REQUEST)))
        .ends("requested", "broken"),
        Script("an entry that answers itself", "EX-02", "EX-03")
        .send(ENTRY, STARTED)
        .receive(PROVIDER, frame(encode_exchange(STARTED)))
        .ends("idle", "broken"),
        _streaming("refused after the engine started", "EX-23")
        .send(PROVIDER, Refused(RefuseReason.BUSY, 0))
        .receive(ENTRY, frame(encode_exchange(Refused(RefuseReason.BUSY, 0))))
        .ends("broken", "streaming"),
        Script("a frame longer than the longest request", "EX-07")
        .receive(PROVIDER, (MAX_REQUEST_FRAME_BYTES + 1).to_bytes(4, "big"))
        .ends("idle", "broken"),
        Script("a frame that only a request may need, after the request", "EX-07")
        .say(ENTRY, REQUEST)
        .receive(PROVIDER, (MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
        .ends("requested", "broken"),
        _streaming("an oversized frame from the provider", "EX-07")
        .receive(ENTRY, (MAX_FRAME_BYTES + 1).to_bytes(4, "big"))
        .ends("broken", "streaming"),
        Script("a request that resumes where its own limit ends", "EX-10")
        .send(ENTRY, msgspec.structs.replace(REQUEST, resume_from=16))
        .receive(PROVIDER, frame(encode_exchange(msgspec.structs.replace(REQUEST, resume_from=16))))
        .ends("idle", "broken"),
        _streaming("more tokens than were asked for", "EX-11", "EX-22")
        .say(PROVIDER, Chunk(b"sealed frame 1", 16))
        .send(PROVIDER, Chunk(b"sealed frame 2", 1))
        .receive(ENTRY, frame(encode_exchange(Chunk(b"sealed frame 2", 1))))
        .ends("broken", "streaming"),
        flood.receive(ENTRY, waiting).ends("broken", "queued"),
        Script("bytes that are no message; nothing that follows is read", "EX-03")
        .receive(PROVIDER, frame(b"\xc1 not a message"))
        .receive(PROVIDER, frame(encode_exchange(REQUEST)))
        .ends("idle", "broken"),
        Script("an empty frame", "EX-03").receive(PROVIDER, bytes(4)).ends("idle", "broken"),
        Script("the provider neither admits nor refuses", "EX-50")
        .say(ENTRY, REQUEST)
        .at(9.9)
        .expire(ENTRY)
        .at(10.1)
        .expire(ENTRY)
        .arrive(ENTRY)
        .ends("aborted", "aborted"),
        _streaming("the provider falls silent; bytes that trickle in are no proof of life", "EX-51")
        .at(14.0)
        .receive(ENTRY, chunk[:-1])
        .at(15.0)
        .expire(ENTRY)
        .ends("aborted", "streaming"),
        _living(
            _streaming("the provider lives and computes nothing; an empty frame is no output", "EX-55")
            .at(10.0)
            .say(PROVIDER, Chunk(b"sealed frame", 1))
            .at(20.0)
            .say(PROVIDER, Chunk(b"sealed padding", 0)),
            until_s=120,
        )
        .at(129.9)
        .expire(ENTRY)
        .at(130.0)
        .expire(ENTRY)
        .ends("aborted", "streaming"),
        _living(
            Script("a wait that was promised is borne with eight times; one that is announced later is not", "EX-55")
            .say(ENTRY, REQUEST)
            .say(PROVIDER, Accepted(1, 10_000)),
            until_s=190,
        )
        .at(199.9)
        .expire(ENTRY)
        .at(200.1)
        .expire(ENTRY)
        .arrive(ENTRY)
        .ends("aborted", "aborted"),
        _streaming("no sufficient voucher comes", "EX-30", "EX-50")
        .say(PROVIDER, Paused(1_000_000))
        .at(29.0)
        .say(ENTRY, Voucher(b"dust"))
        .at(30.0)
        .expire(PROVIDER)
        .arrive(PROVIDER)
        .ends("aborted", "aborted"),
    ]


FILES = {"answers.json": answers, "ends.json": ends, "faults.json": faults}


def render(vectors: list[dict[str, Any]]) -> str:
    """One step a line, so that a change shows as a change of that step."""
    blocks = []
    for vector in vectors:
        head = [f"  {json.dumps(name)}: {json.dumps(vector[name])}," for name in ("comment", "spec")]
        steps = ",\n".join(f"    {json.dumps(step)}" for step in vector["steps"])
        blocks.append("{\n" + "\n".join(head) + f'\n  "steps": [\n{steps}\n  ]\n}}')
    return "[\n" + ",\n".join(blocks) + "\n]\n"


def main(arguments: list[str]) -> int:
    """Write the files, or with `--check` compare them; 1 on a difference."""
    is_check, status = "--check" in arguments, 0
    for name, make in FILES.items():
        path, text = FOLDER / name, render(make())
        if not is_check:
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            print(f"make_exchange_vectors: {path.relative_to(ROOT)} differs; run the script", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
