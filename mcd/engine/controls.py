"""Control tokens, and client text that only looks like them: it stays text.   Pure.

A prompt is one text, and llama.cpp makes a control token of every ``<|im_start|>`` in it, whoever wrote that. So before
a template sees what a client wrote, a *fence* is put behind a character wherever a control token could come of it: a
number made up for this request. After the template it is taken out, and the character before it is *plain*: what would
make a control token out of it is text. Everything else becomes the tokens it would have become without fences.

What could become one, in whatever case: a whole control text; a beginning of one at the end of a text, or an end at
its start, which the template or another text may complete; the same beside words that the template takes out of texts;
and a member's name that lacks nothing but the brackets around it, because templates write ``<name>``. Letters and
digits alone are no such part: every text ends in them.

Structure is what is taken for control here: tokens of the types control and unknown, which llama.cpp leaves alone in
text if asked to; and user-defined ones in bars, which it makes tokens of even then. Among those are the role markers of
gpt-oss, DeepSeek and Command R. Others (``<think>``, ``<tool_call>``, runs of spaces) cannot end a turn.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any, NamedTuple

import msgspec

from mcd.errors import InvalidRequestError

_OPENING, _CLOSING = ("<|", "<\uff5c", "[|"), ("|>", "\uff5c>", "|]")
_NAME = re.compile(r'"([^"\\]*)"\s*:')
"""A member of a JSON object."""
_TAKEN_OUT = re.compile(
    r"""(?: \b replace \( \s* ( '[^'\\]+' | "[^"\\]+" ) \s* , \s* (?: '' | "" )
        | \b split \( \s* ( '[^'\\]{2,}' | "[^"\\]{2,}" ) )""",
    re.VERBOSE,
)
"""In a template's source: words that it takes out of texts. (A single character is what names are split at.)"""
_C_SPACES = " \t\n\v\f\r"
MAX_FENCES = 100_000
"""Of one request. To find them takes 0.2 s at most, and so many are more tokens of text than most contexts hold."""
_WORD_CHARS = 20
"""Nothing is lost when a client guesses the word: what is fenced then is its own text."""


class Control(NamedTuple):
    """A token that gives a prompt its structure."""

    text: str
    is_stubborn: bool = False
    """Made of its text even where llama.cpp is asked for text."""
    strips_left: bool = False
    strips_right: bool = False
    """White space beside it is dropped."""


class Segment(NamedTuple):
    """A piece of a prompt that is tokenised by itself."""

    text: str
    is_plain: bool
    """No control token comes of it."""
    goes_on: bool = False
    """Belongs to the text of the piece before it: no space is put between."""


class Controls:
    """The control tokens of a vocabulary, by their texts."""

    def __init__(self, controls: Iterable[Control], template: str = "") -> None:
        """Of tokens, for prompts that ``template`` writes."""
        given = [control for control in controls if control.text]
        texts = {control.text for control in given}
        self._any = _pattern(texts)
        self._looks = re.compile(self._any.pattern, re.IGNORECASE)  # templates change the case of some words
        self._stubborn = _pattern({control.text for control in given if control.is_stubborn})
        self._strips_left = frozenset(control.text for control in given if control.strips_left)
        self._strips_right = frozenset(control.text for control in given if control.strips_right)
        self._taken_out = _pattern({(one or other)[1:-1] for one, other in _TAKEN_OUT.findall(template)})
        low = {text.lower() for text in texts}
        self._starts = _no_words(text[:i] for text in low for i in range(1, len(text)))
        self._ends = _no_words(text[i:] for text in low for i in range(1, len(text)))
        self._names = frozenset(name for text in low for name in _unbracketed(text))
        self._first = _any_of({start[0] for start in self._starts})
        self._last = _any_of({end[-1] for end in self._ends})
        brackets = {text[0] for text in low} | {end[-1] for end in self._ends}
        self._brackets = brackets | {bracket.upper() for bracket in brackets}
        self._reach = max(map(len, texts), default=1)

    def fence(self) -> Fence:
        """For one request."""
        return Fence(self)

    def plain_in(self, text: str, *, is_name: bool = False) -> Collection[int]:
        """The characters of a client's text that must not become part of a control token, in order.

        Raises:
            InvalidRequestError: They are more than anybody needs.
        """
        found = {0} if is_name and text.lower() in self._names else set()
        if not self._has_bracket(text):
            return found
        found |= {match.start() for match in islice(_overlapping(self._looks, text), MAX_FENCES + 1)}
        cuts = [match.span() for match in islice(self._taken_out.finditer(text), MAX_FENCES + 1)]
        if len(found) + len(cuts) > MAX_FENCES:
            raise _too_many()
        for (_, start), (end, _) in pairwise(((0, 0), *cuts, (len(text), 0))):
            found.update(self._parts_at_edges(text[start:end], start))
        return sorted(found)

    def _parts_at_edges(self, stretch: str, at: int) -> Iterator[int]:
        """A character of each part of a control text with which this stretch, trimmed, begins or ends."""
        bare = stretch.strip()
        head, tail = bare[: self._reach].lower(), bare[-self._reach :].lower()
        start = at + len(stretch) - len(stretch.lstrip())
        if any(head[: match.end()] in self._ends for match in self._last.finditer(head)):
            yield start
        if any(tail[match.start() :] in self._starts for match in self._first.finditer(tail)):
            yield start + len(bare) - 1

    def may_be_in(self, json_text: str) -> bool:
        """Whether `plain_in` need be asked about what this JSON holds: a look that costs less than reading it."""
        hides = "\\u" in json_text or "\\/" in json_text
        return hides or self._has_bracket(json_text) or any(n.lower() in self._names for n in _NAME.findall(json_text))

    def _has_bracket(self, text: str) -> bool:
        return any(char in text for char in self._brackets)  # quicker than any regular expression

    def segments(self, text: str, plain: Sequence[int]) -> Iterator[Segment]:
        """A prompt in pieces, cut beside control tokens only, of which each is tokenised as in the whole."""
        done, before = 0, ""
        stretches = [(low + 1, high) for low, high in pairwise((-1, *plain, len(text)))]
        for index, (low, high) in enumerate(stretches):
            first = last = None
            for match in self._any.finditer(text, low, high):
                first, last = first or match, match
            if first is None or last is None:
                continue
            if index > 0:
                yield from self._plain(text[done : first.start()], before, first[0])
            done, before = len(text) if high == len(text) else last.end(), last[0]
            yield Segment(text[first.start() if index > 0 else 0 : done], is_plain=False)
        if done < len(text):
            yield from self._plain(text[done:], before, "")

    def _plain(self, text: str, before: str, after: str) -> Iterator[Segment]:
        if before in self._strips_right:
            text = text.lstrip(_C_SPACES)
        if after in self._strips_left:
            text = text.rstrip(_C_SPACES)
        cut = 0
        for match in _overlapping(self._stubborn, text):
            yield Segment(text[cut : match.start() + 1], is_plain=True, goes_on=cut > 0)
            cut = match.start() + 1
        yield Segment(text[cut:], is_plain=True, goes_on=cut > 0)


class Fence:
    """What one request's texts are fenced with. Owner: the request."""

    __slots__ = ("_controls", "_n_put", "_word")

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        # digits, which upper, trim, JSON and HTML leave as they are; the first only there, so that none overlap
        self._word = "1" + "".join(secrets.choice("23456789") for _ in range(_WORD_CHARS - 1))
        self._n_put = 0

    @property
    def is_used(self) -> bool:
        """Something was fenced."""
        return self._n_put > 0

    def text(self, text: str, *, is_name: bool = False) -> str:
        """A client's text as the template may see it."""
        plain = self._controls.plain_in(text, is_name=is_name)
        if not plain:
            return text
        self._n_put += len(plain)
        if self._n_put > MAX_FENCES:
            raise _too_many()
        cuts = [0, *(index + 1 for index in plain), len(text)]
        return self._word.join(text[start:end] for start, end in pairwise(cuts))

    def value(self, value: Any) -> Any:
        """The same for all the texts of a JSON value, names of members among them."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name, is_name=True): self.value(item) for name, item in value.items()}
        return value

    def json(self, raw: msgspec.Raw) -> msgspec.Raw:
        """The same for verbatim JSON: escapes hide what a template will see."""
        text = bytes(raw).decode("utf-8", "replace")
        if not self._controls.may_be_in(text):
            return raw
        value = json.loads(text)
        fenced = self.value(value)
        return raw if fenced == value else msgspec.Raw(json.dumps(fenced).encode())

    def segments(self, prompt: str) -> Iterator[Segment]:
        """What the template made of it, in pieces to be tokenised."""
        plain, end = [], 0
        texts = prompt.split(self._word)
        for text in texts[:-1]:
            end += len(text)
            plain.append(end - 1)
        return self._controls.segments("".join(texts), sorted({index for index in plain if index >= 0}))

    def without(self, prompt: str) -> str:
        """The prompt as it would be without fences."""
        return prompt.replace(self._word, "") if self.is_used else prompt


def is_structure(text: str) -> bool:
    """Whether a user-defined token's text is in bars."""
    return text.startswith(_OPENING) or text.endswith(_CLOSING)


def _too_many() -> InvalidRequestError:
    return InvalidRequestError(
        f"the request spells out control tokens of this model more than {MAX_FENCES} times; send less at once",
        param="messages",
    )


def _no_words(parts: Iterable[str]) -> frozenset[str]:
    return frozenset(part for part in parts if not part.isalnum())


def _unbracketed(text: str) -> Iterator[str]:
    """What is left without some of its brackets, at least one on each side."""
    letters = [i for i, char in enumerate(text) if char.isalnum()]
    if letters:
        for start in range(1, letters[0] + 1):
            yield from (text[start:end] for end in range(letters[-1] + 1, len(text)))


def _pattern(texts: Collection[str]) -> re.Pattern[str]:
    """Any of the texts, the longest that fits; nothing, for none."""
    return re.compile(_alternatives(texts) if texts else r"(?!)")


def _overlapping(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    match = pattern.search(text)
    while match is not None:
        yield match
        match = pattern.search(text, match.start() + 1)


def _alternatives(texts: Collection[str]) -> str:
    """With common beginnings written once: a vocabulary may reserve thousands of tokens."""
    ends = min(texts), max(texts)
    n_common = next((i for i, (a, b) in enumerate(zip(*ends, strict=False)) if a != b), len(ends[0]))
    head = ends[0][:n_common]
    branches: dict[str, list[str]] = {}
    for rest in (text[n_common:] for text in texts):
        branches.setdefault(rest[:1], []).append(rest)
    may_end = branches.pop("", None) is not None
    if not branches:
        return re.escape(head)
    tail = "|".join(_alternatives(branch) for branch in branches.values())
    return f"{re.escape(head)}(?:{tail}){'?' if may_end else ''}"


def _any_of(chars: Collection[str]) -> re.Pattern[str]:
    return re.compile(f"[{re.escape(''.join(sorted(chars)))}]" if chars else r"(?!)")


NO_FENCE = Fence(Controls(()))
"""For texts that need none."""
