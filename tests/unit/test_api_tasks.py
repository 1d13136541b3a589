"""Embeddings, rerank and tokens: what clients send, what they get, and what is refused with its parameter named."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from mcd.api import embeddings, rerank, tokens
from mcd.api.events import Answering
from mcd.api.gathered import Gathered
from mcd.api.tasks import MAX_DOCUMENTS, MAX_INPUTS, MAX_TEXT_CHARS, EmbeddingsRequest, RerankRequest
from mcd.errors import InvalidRequestError, RemoteProtocolError, UserError
from mcd.ids import PeerId
from mcd.wire.payload import Final, Part, Scores, Text, Tokens, Usage, Vectors

FINAL = Final(("stop",), Usage(9, 0), b"\0" * 32)


def answering(model: str = "m") -> Answering:
    return Answering(PeerId("p"), "", model, 0, 0, 0)


def gathered(*parts: Part) -> Gathered:
    got = Gathered("m")
    got.add([answering(), *parts, FINAL])
    return got


def encoded(**members: Any) -> bytes:
    return json.dumps({"model": "m", **members}).encode()


def vector(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


@pytest.mark.spec("GW-15")
@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("one", ("one",)),
        (["one", "two"], ("one", "two")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        (["one", [2, 3]], ("one", (2, 3))),
    ],
    ids=["text", "texts", "ids", "lists of ids", "mixed"],
)
def test_inputs_as_clients_write_them(given: Any, inputs: Any) -> None:
    request, as_base64 = embeddings.parse(encoded(input=given, user="u", dimensions=None, encoding_format=None))
    assert request == EmbeddingsRequest(model="m", inputs=inputs)
    assert not as_base64
    assert embeddings.parse(encoded(input=given, encoding_format="base64"))[1]


@pytest.mark.spec("GW-12", "GW-15")
@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": ""}, "input[0]"),
        ({"input": []}, "input"),
        ({"input": ["a"] * (MAX_INPUTS + 1)}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [1, "a"]}, "input"),
        ({"input": [-1]}, "input[0]"),
        ({"input": 7}, "input"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": 8193}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "a", "model": None}, "model"),
        ({"input": "a", "model": ""}, "model"),
    ],
)
def test_embeddings_refused(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        embeddings.parse(encoded(**members))
    assert caught.value.param == param


@pytest.mark.spec("GW-36")
def test_vectors_in_both_forms() -> None:
    got = gathered(Vectors((vector(0.5, -0.25),)), Vectors((vector(1, 0), vector(0, 1))))
    floats = json.loads(embeddings.body(got, as_base64=False))
    assert [item["index"] for item in floats["data"]] == [0, 1, 2]
    assert [item["embedding"] for item in floats["data"]] == [[0.5, -0.25], [1, 0], [0, 1]]
    assert floats["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert (floats["object"], floats["model"], floats["data"][0]["object"]) == ("list", "m", "embedding")
    coded = json.loads(embeddings.body(got, as_base64=True))
    assert base64.b64decode(coded["data"][0]["embedding"]) == vector(0.5, -0.25)


@pytest.mark.spec("GW-15")
def test_documents_as_clients_write_them() -> None:
    request, shown = rerank.parse(encoded(query="q", documents=["a", {"text": "b"}], top_n=1, return_documents=True))
    assert request == RerankRequest(model="m", query="q", documents=("a", "b"))
    assert (shown.top_n, shown.with_documents) == (1, True)
    assert rerank.parse(encoded(query="q", documents=["a", "b"]))[1].top_n == 2


@pytest.mark.spec("GW-12", "GW-15")
@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "", "documents": ["a"]}, "query"),
        ({"query": "q"}, "documents"),
        ({"query": "q", "documents": []}, "documents"),
        ({"query": "q", "documents": ["d"] * (MAX_DOCUMENTS + 1)}, "documents"),
        ({"query": "q", "documents": ["a", {"title": "b"}]}, "documents[1].text"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, "top_n"),
        ({"query": "q", "documents": ["a"], "model": None}, "model"),
    ],
)
def test_rerank_refused(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        rerank.parse(encoded(**members))
    assert caught.value.param == param


@pytest.mark.spec("GW-37")
def test_results_by_relevance() -> None:
    request, shown = rerank.parse(encoded(query="q", documents=["a", "b", "c", "d"], top_n=3, return_documents=True))
    answer = json.loads(rerank.body(request, shown, gathered(Scores((0.5, 0.1)), Scores((0.9, 0.5)))))
    assert [(r["index"], r["relevance_score"]) for r in answer["results"]] == [(2, 0.9), (0, 0.5), (3, 0.5)]
    assert [r["document"]["text"] for r in answer["results"]] == ["c", "a", "d"]
    assert answer["usage"]["total_tokens"] == 9
    _, plain = rerank.parse(encoded(query="q", documents=["a"]))
    assert "document" not in json.loads(rerank.body(request, plain, gathered(Scores((0.5,)))))["results"][0]


@pytest.mark.spec("GW-38")
@pytest.mark.parametrize(
    ("members", "add_special", "parse_special"),
    [
        ({"content": "a"}, False, True),
        ({"prompt": "a"}, True, True),
        ({"content": "a", "add_special": True}, True, True),
        ({"prompt": "a", "add_special_tokens": False}, False, True),
        ({"content": "a", "parse_special": False}, False, False),
    ],
)
def test_texts_to_tokenise(members: dict[str, Any], add_special: bool, parse_special: bool) -> None:
    request = tokens.parse_tokenize(encoded(**members))
    assert request.text == "a"
    assert (request.add_special, request.parse_special) == (add_special, parse_special)


@pytest.mark.spec("GW-38")
def test_conversations_to_tokenise() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    tool = {"type": "function", "function": {"name": "f"}}
    request = tokens.parse_tokenize(encoded(messages=messages, tools=[tool]))
    assert request.text is None
    assert request.chat is not None
    assert request.chat.messages[0].content == "hi"
    assert request.chat.tools[0].name == "f"


@pytest.mark.spec("GW-12", "GW-15")
@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({}, "content"),
        ({"content": "a", "prompt": "b"}, "content"),
        ({"content": "a", "messages": []}, "content"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, None),
        ({"content": "a" * (MAX_TEXT_CHARS + 1)}, "content"),
        ({"content": "a", "with_pieces": True}, "with_pieces"),
        ({"content": "a", "model": None}, "model"),
    ],
)
def test_tokenize_refused(members: dict[str, Any], param: str | None) -> None:
    with pytest.raises(UserError) as caught:
        tokens.parse_tokenize(encoded(**members))
    assert caught.value.param == (param or "messages[0].content[0]")


@pytest.mark.parametrize(
    ("members", "param"), [({}, "tokens"), ({"tokens": [-1]}, "tokens"), ({"tokens": "a"}, "tokens")]
)
def test_detokenize_refused(members: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        tokens.parse_detokenize(encoded(**members))
    assert caught.value.param == param


@pytest.mark.spec("GW-38")
def test_tokens_and_text() -> None:
    assert json.loads(tokens.tokenize_body(gathered(Tokens((1, 2)), Tokens((1,))))) == {
        "model": "m",
        "count": 3,
        "tokens": [1, 2, 1],
    }
    assert json.loads(tokens.detokenize_body(gathered(Text("gr"), Text("üße")))) == {
        "model": "m",
        "content": "grüße",
        "prompt": "grüße",
    }


@pytest.mark.spec("ENV-37")
def test_nothing_of_a_provider_that_failed_is_joined() -> None:
    got = Gathered("m")
    got.add([answering(), Vectors((vector(1),)), Scores((0.1,)), Tokens((1,)), Text("a")])
    got.add([answering("n"), Vectors((vector(2),))])
    assert (got.vectors, got.scores, got.tokens, got.texts, got.model) == ([vector(2)], [], [], [], "n")
    with pytest.raises(RemoteProtocolError):
        _ = got.usage
