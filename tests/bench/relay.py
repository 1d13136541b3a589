"""The yardstick: a raw aiohttp relay before a fake upstream that plays the same answers as the scripted engine.

python -m tests.bench.relay upstream      prints its port
python -m tests.bench.relay relay PORT    relays to that upstream, prints its own port
"""

from __future__ import annotations

import asyncio
import json
import sys

from aiohttp import ClientSession, TCPConnector, web

TEXT = "tok "
HEAD = {"id": "chatcmpl-0123456789abcdef01234567", "object": "chat.completion.chunk", "created": 1, "model": "bench"}


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return b"data: " + json.dumps({**HEAD, "choices": [choice]}).encode() + b"\n\n"


async def _upstream(request: web.Request) -> web.StreamResponse:
    """``n`` tokens at ``rate`` a second (0: one burst of separate writes), as a stream or as one body."""
    asked = json.loads(await request.read())
    words = asked["messages"][-1]["content"].split()
    n_tokens, rate = int(words[1]), float(words[2])
    if not asked.get("stream"):
        message = {"role": "assistant", "content": TEXT * n_tokens}
        return web.json_response({**HEAD, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for index in range(n_tokens):
        if rate:
            await asyncio.sleep(max(0.0, began + index / rate - loop.time()))
        await response.write(_chunk({"content": TEXT}))
    await response.write(_chunk({}, "stop") + b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _serve(handler: object) -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


async def _relay(port: str) -> None:
    async with ClientSession(connector=TCPConnector(limit=0)) as session:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"

        async def handler(request: web.Request) -> web.StreamResponse:
            async with session.post(url, data=await request.read()) as upstream:
                response = web.StreamResponse(headers={"Content-Type": upstream.content_type})
                await response.prepare(request)
                async for data in upstream.content.iter_any():
                    await response.write(data)
                await response.write_eof()
                return response

        await _serve(handler)


def main() -> None:
    """Run one of the two roles until killed."""
    role, *rest = sys.argv[1:]
    asyncio.run(_serve(_upstream) if role == "upstream" else _relay(rest[0]))


if __name__ == "__main__":
    main()
