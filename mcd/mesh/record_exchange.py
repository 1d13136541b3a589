"""Ask a new link for the records it holds and answer the same; gossip alone waits for its next round.   [DISC-30]"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

import trio

from mcd.conversation import receive_one
from mcd.errors import PeerError, RemoteProtocolError
from mcd.ids import PeerId
from mcd.mesh.gossip_gate import Bucket, Recent
from mcd.mesh.intake import Intake
from mcd.ports import Stream
from mcd.units import Seconds
from mcd.wire.discovery import (
    MAX_RECORDS,
    MAX_RECORDS_BYTES,
    MAX_RECORDS_REPLY_FRAME_BYTES,
    MAX_RECORDS_REQUEST_FRAME_BYTES,
    RECORDS_PROTOCOL,
    RecordsReply,
    RecordsRequest,
    decode_records_reply,
    decode_records_request,
    encode_records,
)
from mcd.wire.framing import frame
from mcd.wire.messages import MAX_RECORD_BYTES

EXCHANGE_TIMEOUT_S: Seconds = 5.0
"""For the whole question and answer, either side."""
ASK_INTERVAL_S: Seconds = 10.0
ASK_BURST = 3
"""A peer may ask this often: once a link, and a flapping link a few times more."""
ASK_AGAIN_S: Seconds = 15.0
"""Mean pause between questions to a random neighbour: half the life of a missed announcement, 0.1 % of a core."""
MAX_PENDING = 64
MAX_AT_ONCE = 4
BROKEN_REPLY_STRIKES = 5.0
"""As for a gossip RPC that does not parse."""

OpenStream = Callable[[PeerId, str, bytes], Awaitable[Stream]]
Supply = Callable[[], Sequence[bytes]]


class RecordExchange:
    """Both sides of the records protocol. Owner: the mesh, which runs it under a supervisor."""

    def __init__(self, open_stream: OpenStream, *, linked: Callable[[], Sequence[PeerId]], intake: Intake) -> None:
        self._open_stream = open_stream
        self._linked = linked
        self._intake = intake
        self._pending: dict[PeerId, None] = {}
        self._wake = trio.Event()
        self._askers: Recent[PeerId, Bucket] = Recent()
        self.supply: Supply = tuple
        """Set by the daemon: signed records it holds, newest first."""

    def ask_soon(self, peer: PeerId) -> None:
        """Have ``peer`` asked for its records; forgotten when too many wait, gossip brings them later."""
        if len(self._pending) >= MAX_PENDING:
            self._intake.counters.add("records_asking_skipped")
            return
        self._pending[peer] = None
        self._wake.set()

    async def run(self) -> None:
        """Ask the peers named by `ask_soon`, a few at a time, and a random neighbour now and then."""
        places = trio.Semaphore(MAX_AT_ONCE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_again)
            while True:
                while self._pending:
                    await places.acquire()
                    peer = next(iter(self._pending))
                    del self._pending[peer]
                    nursery.start_soon(self._ask_one, peer, places)
                self._wake = trio.Event()
                await self._wake.wait()

    async def _ask_again(self) -> None:
        """Make up for gossip that was lost, whatever lost it.   [DISC-34]"""
        while True:
            await trio.sleep(ASK_AGAIN_S * (0.5 + random.random()))  # noqa: S311 # spreads the questions
            linked = self._linked()
            if linked:
                self.ask_soon(random.choice(linked))  # noqa: S311

    async def _ask_one(self, peer: PeerId, places: trio.Semaphore) -> None:
        try:
            with trio.fail_after(EXCHANGE_TIMEOUT_S):
                await self.ask(peer)
        except (PeerError, trio.TooSlowError):
            self._intake.counters.add("records_asking_failed")
        finally:
            places.release()

    async def ask(self, peer: PeerId) -> int:
        """Ask one peer and judge what it answers; how many records were accepted.   [DISC-31]

        Raises:
            StreamBrokenError: It does not speak the protocol or went away.
            RemoteProtocolError: Its answer is not one; this is held against it.
        """
        question = frame(encode_records(RecordsRequest(MAX_RECORDS)))
        stream = await self._open_stream(peer, RECORDS_PROTOCOL, question)
        try:
            reply = decode_records_reply(await receive_one(stream, MAX_RECORDS_REPLY_FRAME_BYTES))
        except RemoteProtocolError:
            self._intake.strike(peer, BROKEN_REPLY_STRIKES)
            raise
        finally:
            await stream.reset()
        n_accepted = 0
        for record in reply.records:
            n_accepted += self._intake.offer(record, peer) == "accept"
            await trio.lowlevel.checkpoint()  # each costs a signature check; others may run in between
        return n_accepted

    async def serve(self, stream: Stream) -> None:
        """Answer one question; too frequent or malformed ones get a reset.   [DISC-32, DISC-33]"""
        bucket = self._askers.touch(stream.peer_id, lambda: Bucket(1 / ASK_INTERVAL_S, ASK_BURST))
        if not bucket.take(trio.current_time()):
            self._intake.counters.add("records_asked_too_often")
            await stream.reset()
            return
        try:
            with trio.fail_after(EXCHANGE_TIMEOUT_S):
                request = decode_records_request(await receive_one(stream, MAX_RECORDS_REQUEST_FRAME_BYTES))
                await stream.send(frame(encode_records(RecordsReply(self._select(request.max_records)))))
                await stream.close()
        except (PeerError, trio.TooSlowError):
            self._intake.counters.add("records_answering_failed")
            await stream.reset()

    def _select(self, max_records: int) -> tuple[bytes, ...]:
        """The first records of the supply that fit."""
        chosen: list[bytes] = []
        room = MAX_RECORDS_BYTES
        for record in self.supply():
            if len(chosen) == max_records or len(record) > room:
                break
            if 0 < len(record) <= MAX_RECORD_BYTES:
                chosen.append(record)
                room -= len(record)
        return tuple(chosen)
