"""Three real peers on loopback: stream through an entry, kill the serving provider with kill -9, ask again.

make demo
"""

from __future__ import annotations

import sys
import time

from openai import OpenAI

from scripts.local_mesh import LocalMesh, Peer, local_mesh, serves

QUESTION = "What is mcd?"
MODEL = "modelcloud-nano"


def ask(entry: Peer, question: str) -> str:
    """Stream one answer through the entry, print it with who answered, TTFT and speed; returns the provider's id."""
    client = OpenAI(base_url=entry.url(), api_key="none", max_retries=0, timeout=60)
    began = time.monotonic()
    first = n_tokens = 0.0
    with client.chat.completions.with_streaming_response.create(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
    ) as response:
        stream = response.parse()
        print(f"\n> {question}\n  ", end="", flush=True)
        for chunk in stream:
            if chunk.usage is not None:
                n_tokens = chunk.usage.completion_tokens
            for choice in chunk.choices:
                if choice.delta.content:
                    first = first or time.monotonic()
                    print(choice.delta.content, end="", flush=True)
        peer_id = response.headers["x-mcd-peer"]
    ttft_ms, per_s = 1000 * (first - began), n_tokens / (time.monotonic() - began)  # the whole answer may be one frame
    print(f"\n  answered by {peer_id}   TTFT {ttft_ms:.0f} ms   {n_tokens:.0f} tokens, {per_s:.0f} tokens/s")
    return peer_id


def wait_for_providers(entry: Peer, count: int) -> None:
    """Until the entry can route to ``count`` providers."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if any(model["alias"] == MODEL and model["n_providers"] >= count for model in entry.read("models")):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the entry did not find {count} providers in 30 s")


def run(mesh: LocalMesh) -> None:
    """The demonstration itself."""
    print("starting an entry without a model and two providers ...", flush=True)
    entry = mesh.start("entry")
    providers = [mesh.start(name, "--cpu") for name in ("ada", "bob")]
    by_id = {provider.wait(serves, "serving")["peer_id"]: provider for provider in providers}
    wait_for_providers(entry, len(providers))
    for peer_id, provider in by_id.items():
        print(f"  {provider.name}: {peer_id}")
    served_by = ask(entry, QUESTION)
    victim = by_id[served_by]
    print(f"\nkill -9 {victim.pid}  ({victim.name}, who answered)")
    victim.kill()
    if ask(entry, "How do I see my peers?") == served_by:
        raise RuntimeError("the dead provider answered")
    print("\nthe next request was served by the other provider.")


def main() -> int:
    """Run it; exit code 1 when anything did not hold."""
    with local_mesh() as mesh:
        try:
            run(mesh)
        except KeyboardInterrupt:
            return 130  # the peers end all the same
        except Exception as problem:  # noqa: BLE001  # a demonstration shows what failed and every peer's log
            print(f"\nfailed: {problem}", file=sys.stderr)
            for peer in mesh.peers:
                print(f"--- {peer.name}\n{peer.log()[-1500:]}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
