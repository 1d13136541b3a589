"""A query and a document as the one text that a reranker scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mcd.engine.model import Model

NO_TOKEN = -1


def pair_tokens(model: Model, query: str, documents: Sequence[str]) -> Iterator[list[int]]:
    """Token ids of the query with each document, one by one: the query may be long and the documents many.

    By the file's own ``rerank`` template where it has one, else as cross-encoders are trained: begin, query, end,
    separator, document, end, each where the vocabulary has it.
    """
    template = model.rerank_template()
    if template:
        first, _, rest = template.partition("{query}")
        middle, _, last = rest.partition("{document}")
        fence = model.controls.fence()
        asked_text = fence.text(query)
        for document in documents:
            text = first + asked_text + middle + fence.text(document) + last
            yield model.tokenize_prompt(text, fence, add_special=False)
        return
    asked = _plain(model, query)
    lib, vocab = model.lib, model.vocab
    end = lib.llama_vocab_eos(vocab)
    if end == NO_TOKEN:
        end = lib.llama_vocab_sep(vocab)
    begins = [lib.llama_vocab_bos(vocab)] if lib.llama_vocab_get_add_bos(vocab) else []
    ends = [end] if lib.llama_vocab_get_add_eos(vocab) else []
    separates = [lib.llama_vocab_sep(vocab)] if lib.llama_vocab_get_add_sep(vocab) else []
    for document in documents:
        pair = (*begins, *asked, *ends, *separates, *_plain(model, document), *ends)
        yield [token for token in pair if token != NO_TOKEN]


def _plain(model: Model, text: str) -> list[int]:
    """Without special tokens, also where the text writes them out."""
    return model.tokenize(text.encode("utf-8", "replace"), add_special=False, parse_special=False)
