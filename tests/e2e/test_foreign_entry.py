"""A second implementation, written from specs/ and protocol/ alone, asks a real `mcd` and serves it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from openai import NotFoundError

from scripts.local_mesh import LocalMesh, Peer, local_mesh, serves
from tests.e2e.conftest import client_of, never_ends
from tests.e2e.test_mesh_lives import seconds_until
from tests.foreign import gossip
from tests.foreign.entry import Exchange, ask, ask_info
from tests.foreign.provider import Provider
from tests.foreign.transport import Link, PeerError, dial, listen
from tests.foreign.wire import LIMITS

FOREIGN = Path(__file__).parents[1] / "foreign"
ALIAS, ECHO = "modelcloud-nano", "foreign-echo"
HELLO = {"model": ALIAS, "messages": [{"role": "user", "content": "Who are you?"}], "seed": 7, "temperature": 0}
T = TypeVar("T")


@pytest.fixture(scope="module")
def ada() -> Iterator[Peer]:
    """A daemon that serves the nano model; only for tests that leave it as it was."""
    with local_mesh() as mesh:
        peer = mesh.start("ada", "--cpu")
        peer.wait(serves, "serving")
        yield peer


def linked(ada: Peer, use: Callable[[Link, str], Awaitable[T]]) -> T:
    """Dial the daemon and use the link."""

    async def run() -> T:
        with trio.fail_after(30):
            async with dial(ada.address(), Ed25519PrivateKey.generate(), {}) as link:
                return await use(link, ada.read("status")["network"])

    return trio.run(run)


def imported(path: Path) -> set[str]:
    """What a module imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}


def test_foreign_code_imports_nothing_of_mcd() -> None:
    modules = list(FOREIGN.glob("*.py"))
    assert len(modules) > 4
    for name in set[str]().union(*map(imported, modules)):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names | {"cryptography", "msgpack", "trio"} or name.startswith("tests.foreign")


@pytest.mark.parametrize("suite", [1, 2])
def test_foreign_entry_is_answered(ada: Peer, suite: int) -> None:
    async def use(link: Link, network: str) -> Exchange:
        provider = await ask_info(link, network)
        digest = provider.offer(ALIAS)["digest"]
        (key,) = (key for key in provider.keys[digest] if key.suite == suite)
        return await ask(link, key, digest, HELLO)

    answer = linked(ada, use)
    assert answer.state == "FINISHED"
    assert "modelcloud-nano" in answer.texts[0]
    assert answer.final["finish_reasons"] == ["stop"]
    assert answer.final["usage"]["n_output_tokens"] == len(answer.tokens) > 0


def test_foreign_entry_cancels_and_has_a_receipt(ada: Peer) -> None:
    async def use(link: Link, network: str) -> Exchange:
        provider = await ask_info(link, network)
        digest = provider.offer(ALIAS)["digest"]
        long = HELLO | {"max_tokens": 1500, "logit_bias": [*never_ends().items()]}
        return await ask(link, provider.keys[digest][-1], digest, long, cancel_after=1)

    answer = linked(ada, use)
    assert answer.state == "FINISHED"
    assert answer.final["finish_reasons"] == ["cancelled"]
    assert answer.final["usage"]["n_output_tokens"] == len(answer.tokens) > 0


def test_foreign_entry_is_refused_a_model_that_nobody_serves(ada: Peer) -> None:
    async def use(link: Link, network: str) -> Exchange:
        provider = await ask_info(link, network)
        return await ask(link, provider.keys[provider.offer(ALIAS)["digest"]][-1], bytes(32), HELLO)

    answer = linked(ada, use)
    assert (answer.state, answer.last, answer.tokens) == ("REFUSED", "MODEL_UNKNOWN", [])


def test_foreign_entry_believes_no_record_of_another_network(ada: Peer) -> None:
    with pytest.raises(PeerError, match="network"):
        linked(ada, lambda link, network: ask_info(link, "elsewhere"))


def answered(peer: Peer, provider: Provider) -> bool:
    """Ask through a peer's API for what the provider says; False while the model is not known there."""
    with client_of(peer) as client:
        try:
            answer = client.chat.completions.create(model=ECHO, messages=[{"role": "user", "content": "hi"}])
        except NotFoundError:
            return False
    assert answer.choices[0].message.content == provider.text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(provider.text.split(" "))
    return True


def test_request_is_routed_over_the_link_that_a_foreign_provider_dialled(ada: Peer) -> None:
    provider = Provider(ECHO, ada.read("status")["network"], "Hello from another implementation.")

    async def serve() -> None:
        with trio.fail_after(30):
            async with dial(ada.address(), provider.identity, provider.handlers()):
                await trio.to_thread.run_sync(seconds_until, lambda: answered(ada, provider), 20)

    trio.run(serve)
    assert provider.n_served == 1


def test_a_peer_that_heard_of_a_foreign_provider_by_gossip_dials_it(mesh: LocalMesh) -> None:
    near, far = mesh.start("near"), mesh.start("far")
    far.wait(lambda status: status["n_links"] > 0, "linked")
    provider = Provider(ECHO, near.read("status")["network"], "Hello from afar.")
    topic = gossip.topic_of(provider.network, provider.digest)

    async def serve() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery, dial(near.address(), provider.identity, {}) as link:
                provider.addresses = [await listen(provider.identity, provider.handlers(), nursery)]
                stream = await link.open(gossip.MESHSUB)
                while not await trio.to_thread.run_sync(answered, far, provider):
                    await gossip.publish(stream, provider.identity, topic, provider.record())
                    await trio.sleep(LIMITS["ORIGIN_INTERVAL_S"])
                nursery.cancel_scope.cancel()

    trio.run(serve)
    assert provider.n_served == 1
