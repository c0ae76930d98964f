"""The prompt grammar of AUTOMATIC1111's web UI: weights, schedules, LoRA tags, `AND` and `BREAK`.

Written from its documented behaviour. Brackets that do not match are read as they stand there, so
every text is a prompt.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise

ROUND, SQUARE = 1.1, 1 / 1.1  # what one pair of brackets does to the weight

_TAG = re.compile(r"<(?:lora|lyco):([^<>]*)>")
_AND = re.compile(r"\bAND\b")
_AND_WEIGHT = re.compile(r":\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*$")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*")
_TOKEN = re.compile(
    r"\\[\\()\[\]]"  # an escaped bracket or backslash
    r"|:\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*\)"  # the end of (words:1.3)
    r"|[()\[\]]"
    r"|[^\\()\[\]:]+"
    r"|."
    r"|\n"
)


@dataclass(frozen=True)
class Lora:
    """What `<lora:name:0.8>` asks for."""

    name: str
    weight: float


@dataclass(frozen=True)
class Part:
    """One of the prompts that `AND` joins, and how strongly it guides."""

    text: str
    weight: float


@dataclass(frozen=True)
class Prompt:
    """A prompt without its LoRA tags: the parts that `AND` joins, at least one."""

    parts: tuple[Part, ...]
    loras: tuple[Lora, ...]


@dataclass(frozen=True)
class Span:
    """Words of one weight."""

    text: str
    weight: float


def read_prompt(text: str) -> Prompt:
    """The LoRA tags of a prompt, and its parts between `AND`, each with the weight after its colon.

    A tag without a name, or whose weight is no number, is a ValueError.
    """
    loras = tuple(_read_tag(match[1]) for match in _TAG.finditer(text))
    parts = []
    for piece in _AND.split(_TAG.sub("", text)):
        weight = _AND_WEIGHT.search(piece)
        if weight is None or _AND.search(text) is None:
            parts.append(Part(piece.strip(), 1.0))
        else:
            parts.append(Part(piece[: weight.start()].strip(), float(weight[1])))
    return Prompt(tuple(parts), loras)


def parse_weights(text: str) -> tuple[tuple[Span, ...], ...]:
    """The weighted words of a prompt, a tuple for each stretch between `BREAK`, none of them empty.

    `(x)` is 1.1, `[x]` its inverse, `(x:1.3)` 1.3, and nested weights multiply. An opening bracket
    that is never closed reaches to the end; a closing one without its opening is a word.
    """
    pieces: list[tuple[str, float]] = []  # one each token, so that brackets can name a range
    rounds: list[int] = []
    squares: list[int] = []

    def scale(start: int, factor: float) -> None:
        pieces[start:] = [(words, weight * factor) for words, weight in pieces[start:]]

    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "(":
            rounds.append(len(pieces))
        elif token == "[":
            squares.append(len(pieces))
        elif token == ")" and rounds:
            scale(rounds.pop(), ROUND)
        elif token == "]" and squares:
            scale(squares.pop(), SQUARE)
        elif token[0] == ":" and token[-1] == ")" and rounds:
            scale(rounds.pop(), float(token[1:-1]))
        else:
            escaped = len(token) == 2 and token[0] == "\\"
            pieces.append((token[1:] if escaped else token, 1.0))
    # one pass for all that stayed open: thousands of them are no reason to wait
    unclosed = [
        (words, weight * ROUND ** bisect_right(rounds, at) * SQUARE ** bisect_right(squares, at))
        for at, (words, weight) in enumerate(pieces)
    ]
    return _split_at_breaks(unclosed)


def schedule(text: str, steps: int, *, done: int = 0) -> tuple[tuple[int, str], ...]:
    """The text of every stretch of steps: pairs of its last step, counted from 1, and the words.

    `[a:b:when]` is a up to step `when` and b after it, `when` being a step, or with a dot in it a
    fraction of all; `[b:when]` and `[a::when]` leave one side empty; `[a|b]` changes every step.
    `done` is for the second of two passes: as many steps, or the fraction 1, lie before it.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    nodes = _parse(text)
    found: list[tuple[int, str]] = []
    for step in range(1, steps + 1):
        words = _at_step(nodes, step, steps, done)
        if found and found[-1][1] == words:
            found.pop()
        found.append((step, words))
    return tuple(found)


def plain_text(text: str) -> str:
    """The words of a prompt as it starts, without weights: for models that know no weights."""
    words = schedule(" ".join(part.text for part in read_prompt(text).parts), 1)[0][1]
    return " ".join("".join(span.text for span in spans) for spans in parse_weights(words))


def _read_tag(inside: str) -> Lora:
    name, *rest = (part.strip() for part in inside.split(":"))
    number = _NUMBER.fullmatch(rest[0]) if rest else None
    if not name or (rest and number is None):
        raise ValueError(
            f"<lora:{inside}> is no LoRA tag; write <lora:name:0.8>, the weight being a number"
        )
    return Lora(name, 1.0 if number is None else float(number[1]))


def _split_at_breaks(pieces: list[tuple[str, float]]) -> tuple[tuple[Span, ...], ...]:
    chunks: list[list[Span]] = [[]]
    for text, weight in pieces:
        for number, words in enumerate(_BREAK.split(text)):
            if number:
                chunks.append([])
            last = chunks[-1][-1] if chunks[-1] else None
            if last is not None and last.weight == weight:
                chunks[-1][-1] = Span(last.text + words, weight)
            elif words:
                chunks[-1].append(Span(words, weight))
    return tuple(tuple(spans) or (Span("", 1.0),) for spans in chunks)


@dataclass(frozen=True)
class _Switch:
    before: tuple[_Node, ...]
    after: tuple[_Node, ...]
    when: str


@dataclass(frozen=True)
class _Cycle:
    options: tuple[tuple[_Node, ...], ...]


_Node = str | _Switch | _Cycle
_DEEPEST = 60  # brackets inside each other; a prompt of nothing but brackets goes on for thousands


def _parse(text: str) -> tuple[_Node, ...]:
    pairs: dict[int, int] = {}
    opened: list[int] = []
    escaped = False
    for place, letter in enumerate(text):
        if escaped or letter == "\\":
            escaped = not escaped
        elif letter in "([":
            opened.append(place)
        elif letter in ")]":
            opening = "(" if letter == ")" else "["
            partner = next((at for at in reversed(opened) if text[at] == opening), None)
            if partner is not None:
                while opened.pop() != partner:
                    pass
                if len(opened) < _DEEPEST:
                    pairs[partner] = place
    return _nodes(text, 0, len(text), pairs)


def _nodes(text: str, start: int, end: int, pairs: dict[int, int]) -> tuple[_Node, ...]:
    found: list[_Node] = []
    place = written = start
    while place < end:
        if text[place] == "\\":
            place += 2
        elif place not in pairs:
            place += 1
        else:
            close = pairs[place]
            choice = _choice(text, place + 1, close, pairs) if text[place] == "[" else None
            if choice is None:
                found += (text[written : place + 1], *_nodes(text, place + 1, close, pairs))
                written = close
            else:
                found += (text[written:place], choice)
                written = close + 1
            place = close + 1
    return (*found, text[written:end])


def _choice(text: str, start: int, end: int, pairs: dict[int, int]) -> _Switch | _Cycle | None:
    """What a pair of square brackets chooses between; None where it only lowers the weight."""
    cuts: dict[str, list[int]] = {":": [], "|": []}
    place = start
    while place < end:
        if text[place] in cuts:
            cuts[text[place]].append(place)
        place = place + 2 if text[place] == "\\" else pairs.get(place, place) + 1
    if cuts["|"]:
        edges = [start - 1, *cuts["|"], end]
        return _Cycle(tuple(_nodes(text, a + 1, b, pairs) for a, b in pairwise(edges)))
    number = _NUMBER.fullmatch(text[cuts[":"][-1] + 1 : end]) if cuts[":"] else None
    if number is None or len(cuts[":"]) > 2:
        return None
    middle, last = (cuts[":"][0], cuts[":"][-1]) if len(cuts[":"]) == 2 else (start, cuts[":"][0])
    before = _nodes(text, start, middle, pairs) if len(cuts[":"]) == 2 else ()
    after = _nodes(text, middle + (len(cuts[":"]) == 2), last, pairs)
    return _Switch(before, after, number[1])


def _at_step(nodes: tuple[_Node, ...], step: int, steps: int, done: int) -> str:
    words = ""
    for node in nodes:
        if isinstance(node, str):
            words += node
        elif isinstance(node, _Cycle):
            words += _at_step(node.options[(step - 1) % len(node.options)], step, steps, done)
        else:
            number = float(node.when)
            last = (number - (done > 0)) * steps if "." in node.when else number - done
            words += _at_step(node.before if step <= int(last) else node.after, step, steps, done)
    return words
