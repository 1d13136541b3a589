"""Raw bytes against a real gateway: hosts, origins, malformed HTTP, bombs, time-outs, routes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcd.api.events import Waiting
from mcd.errors import StreamBrokenError
from mcd.gateway import completions, server
from mcd.wire.payload import Delta
from tests.fakes.entry import MODEL, PEER, ScriptedEntry, answering, final
from tests.fakes.gateway import Running, serve, until

CHAT = json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}).encode()
STREAM = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()


def http(method: str, path: str, body: bytes = b"", **headers: str | list[str] | None) -> bytes:
    """Write a request; a header of None is left out, a list sends it several times."""
    members: dict[str, Any] = {"Host": "127.0.0.1:8080", "Connection": "close"}
    if body:
        members |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    members |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1"]
    for name, value in members.items():
        lines += [f"{name}: {one}" for one in (value if isinstance(value, list) else [value]) if one is not None]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def talk(running: Running, data: bytes, timeout_s: float = 10.0) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, read to the end, return status, headers (lower case) and the undecoded body."""
    reader, writer = await asyncio.open_connection(running.host, running.port)
    try:
        writer.write(data)
        async with asyncio.timeout(timeout_s):
            answer = await reader.read(-1)
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest)
    return (int(first.split()[1]) if first else 0), headers, body


def check(data: bytes, status: int, code: str | None = "any", host: str = "127.0.0.1") -> None:
    """One request, one expected answer; errors have OpenAI's body and quote nothing."""

    async def body(running: Running) -> None:
        got, headers, text = await talk(running, data)
        assert got == status, (headers, text)
        if status >= 400:
            error = json.loads(text)["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert code in {"any", error["code"]}
            assert b"evil" not in text
            assert "access-control-allow-origin" not in headers
            assert running.entry.requests == []

    serve(ScriptedEntry(), body, host)


GET = ("GET", "/v1/models")
POST = ("POST", "/v1/chat/completions", CHAT)


@pytest.mark.spec("GW-50", "GW-51")
@pytest.mark.parametrize(
    ("name", "data", "status"),
    [
        ("curl", http(*POST), 200),
        ("localhost", http(*POST, Host="localhost:8080"), 200),
        ("ipv6 loopback", http(*GET, Host="[::1]:8080"), 200),
        ("rebinding without origin", http(*POST, Host="evil.example:8080"), 403),
        ("rebinding, same origin", http(*POST, Host="evil.example:8080", Origin="http://evil.example:8080"), 403),
        ("text/plain CSRF", http(*POST, Content_Type="text/plain", Origin="http://evil.example"), 403),
        ("form without origin", http(*POST, Content_Type="application/x-www-form-urlencoded"), 415),
        ("null origin", http(*POST, Origin="null"), 403),
        ("empty host", http(*POST, Host=""), 403),
        ("localhost.evil", http(*POST, Host="localhost.evil.example"), 403),
        ("evil@localhost", http(*POST, Host="evil@localhost"), 403),
        ("0.0.0.0", http(*POST, Host="0.0.0.0:8080"), 403),
        ("decimal address", http(*POST, Host="2130706433:8080"), 403),
        ("short address", http(*POST, Host="127.1:8080"), 403),
        ("duplicate host", http(*POST, Host=["127.0.0.1", "evil.example"]), 400),
        ("evil preflight", http("OPTIONS", "/v1/chat/completions", Origin="http://evil.example"), 403),
        ("evil GET", http(*GET, Origin="http://evil.example"), 403),
        ("control question on TCP", http("GET", "/v1/peers"), 404),
        # beyond the laboratory's 18 rows
        ("no host", http(*POST, Host=None), 400),
        ("own page", http(*POST, Origin="http://127.0.0.1:8080"), 200),
        ("other port of localhost", http(*POST, Origin="http://127.0.0.1:3000"), 403),
        ("two origins", http(*POST, Origin=["http://127.0.0.1:8080", "http://evil.example"]), 403),
        ("cross-site image", http(*GET, Sec_Fetch_Site="cross-site"), 403),
        ("same-site port", http(*GET, Sec_Fetch_Site="same-site"), 403),
        ("typed address", http(*GET, Sec_Fetch_Site="none"), 200),
        ("octal address", http(*GET, Host="0177.0.0.1"), 403),
        ("mapped address", http(*GET, Host="[::ffff:10.0.0.1]"), 403),
        ("foreign address", http(*GET, Host="192.168.0.7:8080"), 403),
        ("trailing dot", http(*GET, Host="localhost."), 403),
        ("upper case", http(*GET, Host="LOCALHOST"), 200),
        ("charset", http(*POST, Content_Type="application/json; charset=utf-8"), 200),
        ("no content type", http(*POST, Content_Type=None), 415),
        ("something like JSON", http(*POST, Content_Type="application/json-seq"), 415),
        ("gzip", http(*POST, Content_Encoding="gzip"), 415),
    ],
)
def test_only_the_users_own_programs_get_through(name: str, data: bytes, status: int) -> None:
    check(data, status)


@pytest.mark.spec("GW-50")
@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("192.168.0.7:8080", 200), ("evil.example", 403), ("0.0.0.0", 403), ("localhost", 200)],
)
def test_beyond_loopback_literal_addresses_pass_and_names_do_not(host: str, status: int) -> None:
    check(http(*GET, Host=host), status, host="0.0.0.0")


@pytest.mark.spec("GW-24")
@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (http("GET", "/v1/chat/completions"), 405, "method_not_allowed"),
        (http("DELETE", "/v1/models"), 405, "method_not_allowed"),
        (http("POST", "/v1/models", b"{}"), 405, "method_not_allowed"),
        (http("POST", "/v1/images/generations", b"{}"), 404, "unknown_url"),
        (http("GET", "/v1/files"), 404, "unknown_url"),
        (http("GET", "/v2/models"), 404, "unknown_url"),
        (http("GET", "/v1/models/" + "x" * 600), 404, "unknown_url"),
        (http("GET", "/v1/models/..%2f..%2fetc%2fpasswd"), 404, "model_not_found"),
        (http("GET", "/%00"), 404, "unknown_url"),
    ],
)
def test_unknown_urls_and_methods(data: bytes, status: int, code: str) -> None:
    check(data, status, code)


@pytest.mark.spec("GW-24")
@pytest.mark.parametrize(
    ("data", "allowed"), [(http("OPTIONS", "/v1/embeddings"), "post"), (http("POST", "/v1/models", b"{}"), "get, head")]
)
def test_a_wrong_method_is_told_the_right_ones(data: bytes, allowed: str) -> None:
    async def body(running: Running) -> None:
        status, headers, _ = await talk(running, data)
        assert (status, headers["allow"]) == (405, allowed)

    serve(ScriptedEntry(), body)


@pytest.mark.spec("GW-24")
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v2/rerank", "/v1/rerank"),
        ("/api/tags", "/v1/models"),
        ("/v1/responses", "Responses"),
        ("/v1/messages", "Messages"),
        ("/v1/messages/count_tokens", "/v1/tokenize"),
    ],
)
def test_an_unknown_url_is_told_what_there_is(path: str, words: str) -> None:
    async def body(running: Running) -> None:
        status, _, text = await talk(running, http("POST", path, b"{}"))
        message = json.loads(text)["error"]["message"]
        assert status == 404
        assert words in message
        assert "/v1/chat/completions" in message

    serve(ScriptedEntry(), body)


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/", "/health", "/v1/health", "/v1/status", "/"])
def test_paths_work_with_and_without_v1_and_a_trailing_slash(path: str) -> None:
    check(http("GET", path), 200)


@pytest.mark.spec("GW-25")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50 + b"\r\n\r\n", 400),
        (b"evil\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nevil header\r\n\r\n", 400),
        (http(*GET, X_Long="e" * 9000), 400),
        (http(*GET, X_Many=["e"] * 100), 400),
        (http("POST", "/v1/chat/completions", CHAT, Content_Length="-5"), 400),
        (http("POST", "/v1/chat/completions", CHAT, Content_Length=["5", "9"]), 400),
        (http("POST", "/v1/chat/completions", b"zz\r\n", Transfer_Encoding="chunked", Content_Length=None), 400),
        (http("POST", "/v1/chat/completions", CHAT, Transfer_Encoding="chunked"), 400),
        (http("POST", "/v1/chat/completions", b'{"model": evil}'), 400),
        (http("POST", "/v1/chat/completions", b"[" * 50_000), 400),
        (http("POST", "/v1/chat/completions", b'{"x":[' + b"{}," * 500_000 + b"{}]}"), 400),
        (http("POST", "/v1/chat/completions", Content_Type="application/json", Content_Length="0"), 400),
        (http("POST", "/v1/chat/completions", b"{", Content_Length="9000000"), 413),
    ],
)
def test_malformed_requests_get_a_clean_error(data: bytes, status: int) -> None:
    check(data, status)


@pytest.mark.spec("GW-25")
@pytest.mark.parametrize("what", ["header", "url"])
def test_what_is_too_long_of_a_request_is_said(what: str) -> None:
    async def body(running: Running) -> None:
        long = "evil" * 3000
        head = http("GET", "/health", Cookie=long) if what == "header" else http("GET", f"/{long}")
        status, _, text = await talk(running, head)
        assert (status, "longer than 8190 bytes" in json.loads(text)["error"]["message"]) == (400, True)
        assert b"evil" not in text

    serve(ScriptedEntry(), body)


@pytest.mark.spec("GW-26")
def test_a_body_that_is_announced_too_large_is_413_before_it_comes() -> None:
    async def body(running: Running) -> None:
        head = http("POST", "/v1/chat/completions", Content_Type="application/json", Content_Length=str(2**23 + 1))
        status, _, text = await talk(running, head, 5)
        assert (status, json.loads(text)["error"]["code"]) == (413, "request_too_large")

    serve(ScriptedEntry(), body)


@pytest.mark.spec("GW-26")
def test_a_chunked_body_over_the_limit_is_413() -> None:
    async def body(running: Running) -> None:
        reader, writer = await asyncio.open_connection(running.host, running.port)
        writer.write(http("POST", "/v1/chat/completions", Content_Type="application/json", Transfer_Encoding="chunked"))
        part = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
        for _ in range(130):
            writer.write(part)
        async with asyncio.timeout(10):
            line = await reader.readline()
        assert line.startswith(b"HTTP/1.1 413 ")
        writer.close()

    serve(ScriptedEntry(), body)


def test_expect_100_continue_is_answered() -> None:
    async def body(running: Running) -> None:
        reader, writer = await asyncio.open_connection(running.host, running.port)
        writer.write(http(*POST, Expect="100-continue").removesuffix(CHAT))
        async with asyncio.timeout(5):
            assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
            await reader.readline()
            writer.write(CHAT)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        writer.close()

    serve(ScriptedEntry(), body)


@pytest.mark.spec("GW-27")
def test_slow_headers_and_slow_bodies_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADER_TIMEOUT_S", 0.3)
    monkeypatch.setattr("mcd.gateway.app.BODY_TIMEOUT_S", 0.3)

    async def body(running: Running) -> None:
        half_headers, _, _ = await talk(running, b"GET / HTTP/1.1\r\nHost: loc", 5)
        silent, _, _ = await talk(running, b"", 5)
        assert (half_headers, silent) == (0, 0)
        slow_body, _, _ = await talk(running, http(*POST)[:-5], 8)
        assert slow_body == 408

    serve(ScriptedEntry(), body)


@pytest.mark.spec("GW-34")
def test_keep_alive_comments_fill_the_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "FIRST_KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(completions, "KEEP_ALIVE_S", 0.05)
    steps = [Waiting(1.0), 0.4, answering(), 0.2, Delta(0, "hi", (1,)), 0.2, final(1)]

    async def body(running: Running) -> None:
        status, headers, text = await talk(running, http("POST", "/v1/chat/completions", STREAM))
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert headers["cache-control"] == "no-cache"
        before, _, after = text.partition(b"data: ")
        assert before.count(b": waiting\n\n") >= 3
        assert f": peer {PEER}\n\n".encode() in before
        assert after.count(b": waiting\n\n") >= 1
        assert text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")

    serve(ScriptedEntry(steps), body)


@pytest.mark.spec("GW-34")
@pytest.mark.parametrize(("first_s", "then_s", "n_waiting"), [(0.05, 60.0, 1), (60.0, 0.05, 0)])
def test_the_first_keep_alive_has_a_time_of_its_own(
    monkeypatch: pytest.MonkeyPatch, first_s: float, then_s: float, n_waiting: int
) -> None:
    monkeypatch.setattr(completions, "FIRST_KEEP_ALIVE_S", first_s)
    monkeypatch.setattr(completions, "KEEP_ALIVE_S", then_s)

    async def body(running: Running) -> None:
        _, _, text = await talk(running, http("POST", "/v1/chat/completions", STREAM))
        assert text.count(b": waiting\n\n") == n_waiting

    serve(ScriptedEntry([answering(), 0.5, Delta(0, "hi", (1,)), final(1)]), body)


@pytest.mark.spec("GW-34")
def test_before_the_first_keep_alive_a_failure_is_a_status() -> None:
    """Also once it is known who answers: the comment that says so waits for what follows it."""

    async def body(running: Running) -> None:
        status, headers, text = await talk(running, http("POST", "/v1/chat/completions", STREAM))
        assert (status, headers["content-type"]) == (502, "application/json")
        assert json.loads(text)["error"]["code"] == "peer_failed"

    serve(ScriptedEntry([Waiting(0.0), answering(), 0.05, StreamBrokenError("the provider broke off")]), body)


def test_events_that_wait_together_are_written_together() -> None:
    steps = [answering(), *(Delta(0, "x", (i,)) for i in range(100)), final(100)]

    async def body(running: Running) -> None:
        _, _, text = await talk(running, http("POST", "/v1/chat/completions", STREAM))
        n_writes = text.count(b"\r\n") // 2
        assert text.count(b"data: {") == 102
        assert n_writes < 60

    serve(ScriptedEntry(steps), body)


def test_http_1_0_gets_an_unchunked_stream() -> None:
    async def body(running: Running) -> None:
        data = http("POST", "/v1/chat/completions", STREAM).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        _, headers, text = await talk(running, data)
        assert "transfer-encoding" not in headers
        assert text.endswith(b"data: [DONE]\n\n")

    serve(ScriptedEntry(), body)


@pytest.mark.spec("GW-60")
def test_metrics_count_and_quote_nothing() -> None:
    async def body(running: Running) -> None:
        await talk(running, http(*POST))
        prompt = json.dumps({"model": MODEL, "prompt": "evil"}).encode()
        for _ in range(2):
            await talk(running, http("POST", "/v1/completions", prompt))
        await talk(running, http("POST", "/v1/chat/completions", CHAT.replace(MODEL.encode(), b"evil")))
        await talk(running, http("POST", "/v1/chat/completions", b'{"model":"evil","messages":[]}'))
        await talk(running, http("GET", "/evil"))
        await talk(running, http("GET", "/v1/models/evil"))
        status, headers, text = await talk(running, http("GET", "/metrics"))
        assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        lines = text.decode().splitlines()
        assert 'gen_ai_client_token_usage_sum{gen_ai_operation_name="chat",gen_ai_token_type="output"} 2' in lines
        assert 'gen_ai_server_time_to_first_token_seconds_count{gen_ai_operation_name="chat"} 1' in lines
        assert 'mcd_http_responses_total{http_route="other",http_response_status_code="404"} 1' in lines
        assert 'mcd_http_responses_total{http_route="/models/{id}",http_response_status_code="404"} 1' in lines
        assert 'mcd_requests_total{gen_ai_operation_name="chat",outcome="model_not_found"} 1' in lines
        assert 'mcd_requests_total{gen_ai_operation_name="chat",outcome="ok"} 1' in lines
        assert 'mcd_requests_total{gen_ai_operation_name="text_completion",outcome="ok"} 2' in lines
        assert 'gen_ai_server_request_duration_seconds_count{gen_ai_operation_name="text_completion"} 2' in lines
        heads = [line for line in lines if line.startswith("# TYPE")]
        assert len(heads) == len(set(heads)), "a name has one head, and its series stand below it"
        assert "mcd_links 2" in lines
        assert 'mcd_events_total{event="records_dropped"} 2' in lines
        assert "evil" not in text.decode()

    serve(ScriptedEntry(), body)


def test_a_client_that_reads_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "WRITE_TIMEOUT_S", 0.5)
    steps = [answering(), *(Delta(0, "x" * 10_000, (i,)) for i in range(5000)), final(5000)]

    async def body(running: Running) -> None:
        _, writer = await asyncio.open_connection(running.host, running.port)
        writer.transport.pause_reading()
        writer.write(http("POST", "/v1/chat/completions", STREAM))
        await until(lambda: running.entry.n_cancelled == 1, 10)
        writer.transport.abort()

    serve(ScriptedEntry(steps), body)
