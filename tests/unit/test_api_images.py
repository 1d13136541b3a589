"""Pictures in OpenAI's requests: what is taken, what is refused and with which words."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from mcd.api import chat
from mcd.api.request import MAX_IMAGES, ChatImage, ChatMessage, ChatRequest
from mcd.engine.shaping import marked
from mcd.entry.router import TOKENS_PER_IMAGE, want_of
from mcd.errors import InvalidRequestError, UserError

FILE = bytes(range(256))
URL = f"data:image/png;base64,{base64.b64encode(FILE).decode()}"


def body(*parts: Any, role: str = "user") -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": role, "content": list(parts)}]}).encode()


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: object = URL, **members: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **members}}


@pytest.mark.spec("GW-16")
def test_pictures_keep_their_places_among_the_text() -> None:
    request = chat.parse(body(image(), text("ab"), image(detail="low"), image(detail=None), text("cd")))
    assert request.messages[0].content == "abcd"
    assert request.messages[0].images == (ChatImage(FILE, 0), ChatImage(FILE, 2, "low"), ChatImage(FILE, 2))
    assert chat.decode_canonical(chat.encode_canonical(request)) == request


@pytest.mark.spec("GW-16")
@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/JPG", "image/webp", "image/gif"])
def test_every_kind_of_file_is_taken_also_as_a_bare_url(kind: str) -> None:
    url = f"data:{kind};charset=utf-8;base64,{base64.b64encode(FILE).decode()}"
    request = chat.parse(body({"type": "image_url", "image_url": url}))
    assert request.messages[0].images == (ChatImage(FILE),)


@pytest.mark.spec("GW-16")
@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/cat.png", "https://10.0.0.1/x", "HTTPS://example.org/x", "file:///etc/passwd", "ftp://x/y",
        "//example.org/x", "/etc/passwd", "", "x", "data:", "data:image/png,abc", "data:image/png;base64",
        "data:text/html;base64,AAAA", "data:image/svg+xml;base64,AAAA", "data:;base64,AAAA", "data:image/png;base64,A",
        "data:image/png;base64,AA AA", "data:image/png;base64,AAAA\n", "data:image/png;base64,é",
        "data:image/png;base64,",
        "javascript:alert(1)", "blob:http://x/1", "gopher://x", "data:image/png;base64,AAAA#x", "jar:file:///x!/y",
    ],
)  # fmt: skip
def test_nothing_but_a_picture_that_came_along_is_taken(url: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chat.parse(body(text("see"), image(url)))
    assert caught.value.param is not None
    assert caught.value.param.startswith("messages[0].content")
    assert "example" not in caught.value.message
    if url.lower().startswith("http"):
        assert caught.value.param == "messages[0].content[1].image_url.url"
        assert "data:image/png;base64" in caught.value.message


@pytest.mark.spec("GW-12")
@pytest.mark.parametrize(
    ("parts", "role", "param"),
    [
        ([{"type": "image_url"}], "user", "messages[0].content[0].image_url"),
        ([{"type": "image_url", "image_url": {}}], "user", "messages[0].content[0].image_url.url"),
        ([image(detail="huge")], "user", "messages[0].content"),
        ([text("a"), image()], "assistant", "messages[0].content"),
        ([text("a"), image()], "system", "messages[0].content"),
        ([image()] * (MAX_IMAGES + 1), "user", "messages"),
        ([{"type": "input_audio"}], "user", "messages[0].content[0]"),
    ],
)
def test_what_is_wrong_with_a_part_is_named(parts: list[Any], role: str, param: str) -> None:
    with pytest.raises(UserError) as caught:
        chat.parse(body(*parts, role=role))
    assert caught.value.param == param


@pytest.mark.spec("GW-14")
@pytest.mark.parametrize(
    "images",
    [
        [{"data": "AAAA", "at": 4}], [{"data": "AAAA", "at": -1}],
        [{"data": "AAAA", "at": 2}, {"data": "AAAA", "at": 1}],
        [{"data": ""}], [{"data": "AAAA", "detail": "x"}], [{"data": "A"}], [{"at": 1}], [{"data": 1}], [[]],
    ],
)  # fmt: skip
def test_a_hostile_entry_places_nothing_outside_the_text(images: list[Any]) -> None:
    sealed = {"model": "m", "messages": [{"role": "user", "content": "abc", "images": images}]}
    with pytest.raises(InvalidRequestError):
        chat.decode_canonical(json.dumps(sealed).encode())


def test_a_picture_shows_in_no_repr() -> None:
    request = chat.parse(body(text("see"), image()))
    assert "redacted" in repr(request.messages[0].images[0])
    assert "redacted" in repr(request)


@pytest.mark.spec("ENV-44")
def test_a_request_with_pictures_wants_a_model_that_sees() -> None:
    plain, seeing = (want_of(chat.parse(body(*parts))) for parts in ([text("see")], [text("see"), image(), image()]))
    assert "vision" not in plain.capabilities
    assert seeing.capabilities == plain.capabilities | {"vision"}
    assert seeing.n_prompt_tokens == plain.n_prompt_tokens + 2 * TOKENS_PER_IMAGE


def test_marks_stand_where_the_pictures_stood() -> None:
    messages = (
        ChatMessage(role="user", content="abcd", images=(ChatImage(FILE, 0), ChatImage(FILE, 2), ChatImage(FILE, 4))),
        ChatMessage(role="assistant", content="no"),
        ChatMessage(role="user", content="", images=(ChatImage(FILE),)),
    )
    assert [message.content for message in marked(messages, "M")] == ["M0nabM1ncdM2n", "no", "M3n"]
    assert not any(message.images for message in marked(messages, "M"))
    assert ChatRequest(model="m", messages=messages).messages[0].images[1].at == 2
