"""The prompt grammar against tables written by hand from the web UI's documentation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion.prompt import Lora, Part, parse_weights, plain_text, read_prompt, schedule

UP, DOWN = 1.1, 1 / 1.1


def spans(text):
    (chunk,) = parse_weights(text)
    return [(span.text, pytest.approx(span.weight)) for span in chunk]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a plain portrait", [("a plain portrait", 1)]),
        ("a (smiling) woman", [("a ", 1), ("smiling", 1.1), (" woman", 1)]),
        ("((x))", [("x", 1.21)]),
        ("(((x)))", [("x", 1.331)]),
        ("[x]", [("x", DOWN)]),
        ("[[x]]", [("x", DOWN**2)]),
        ("(x:1.3)", [("x", 1.3)]),
        ("(x: .5 )", [("x", 0.5)]),
        ("(x:2)", [("x", 2)]),
        ("(x:-0.5)", [("x", -0.5)]),
        ("(x:0)", [("x", 0)]),
        ("((x:1.3))", [("x", 1.43)]),
        ("([x])", [("x", 1)]),
        ("(a (b:1.5) c)", [("a ", 1.1), ("b", 1.65), (" c", 1.1)]),
        ("(one)(two)", [("onetwo", 1.1)]),  # one stretch, as it is one weight
        (r"\(x\) \[y\] \\", [(r"(x) [y] " + "\\", 1)]),
        (r"(very \(wide\) eyes:1.2)", [("very (wide) eyes", 1.2)]),
        (r"a \n b", [(r"a \n b", 1)]),  # a backslash before a letter is a backslash
        ("ratio 3:4, (hat)", [("ratio 3:4, ", 1), ("hat", 1.1)]),
        ("(ratio 3:4 hat)", [("ratio 3:4 hat", 1.1)]),
        ("(a:b:1.2)", [("a:b", 1.2)]),
        ("(x", [("x", 1.1)]),
        ("((x)", [("x", 1.21)]),
        ("[x", [("x", DOWN)]),
        ("x)", [("x)", 1)]),
        ("x]", [("x]", 1)]),
        ("x:1.3)", [("x:1.3)", 1)]),
        ("([)]", [("", 1)]),
        ("(x:1.2.3)", [("x:1.2.3", 1.1)]),  # no number, so no weight
        ("", [("", 1)]),
        ("()", [("", 1)]),
        (
            "a ((cat:1.5) [by] a (lamp:0.5), (((moon)).",
            [("a ", 1), ("cat", 1.65), (" ", 1.1), ("by", 1), (" a ", 1.1), ("lamp", 0.55),
             (", ", 1.1), ("moon", 1.1**4), (".", 1.1**2)],
        ),
        ("😀 (شخص) café", [("😀 ", 1), ("شخص", 1.1), (" café", 1)]),
    ],
)  # fmt: skip
def test_weights_are_those_of_the_table(text, expected):
    assert spans(text) == expected


def test_break_starts_a_new_chunk_also_inside_brackets():
    chunks = parse_weights("red hat BREAK (blue BREAK green) BREAK")
    assert [[(span.text, span.weight) for span in chunk] for chunk in chunks] == [
        [("red hat", 1)],
        [("blue", UP)],
        [("green", UP)],
        [("", 1)],
    ]
    assert len(parse_weights("BREAKFAST")) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a man", [(10, "a man")]),
        ("a [dog:cat:3] runs", [(3, "a dog runs"), (10, "a cat runs")]),
        ("a [dog:cat:0.5] runs", [(5, "a dog runs"), (10, "a cat runs")]),
        ("a [dog:cat:.25] runs", [(2, "a dog runs"), (10, "a cat runs")]),
        ("a [hat:4]", [(4, "a "), (10, "a hat")]),
        ("a [:hat:4]", [(4, "a "), (10, "a hat")]),
        ("a [hat::4]", [(4, "a hat"), (10, "a ")]),
        ("a [dog : cat : 1] runs", [(1, "a dog  runs"), (10, "a  cat  runs")]),
        ("a [dog:cat:0] runs", [(10, "a cat runs")]),
        ("a [dog:cat:40] runs", [(10, "a dog runs")]),
        ("a [dog:cat:1.0]", [(10, "a dog")]),
        ("x[b:[c:d:2]:1]y", [(1, "xby"), (2, "xcy"), (10, "xdy")]),
        ("[(a:1.3):(b:0.9):5]", [(5, "(a:1.3)"), (10, "(b:0.9)")]),
        ("([a:b:5]:1.2)", [(5, "(a:1.2)"), (10, "(b:1.2)")]),
        ("[a]", [(10, "[a]")]),
        ("[a:b]", [(10, "[a:b]")]),
        ("[3:4]", [(4, ""), (10, "3")]),
        ("a [b", [(10, "a [b")]),
        ("a b:0.5]", [(10, "a b:0.5]")]),
        ("[[b]:2]", [(2, ""), (10, "[b]")]),
        ("((x][:y:z [w:3]", [(3, "((x][:y:z "), (10, "((x][:y:z w")]),
        (r"\[a:b:5\]", [(10, r"\[a:b:5\]")]),
        (r"[a\:b:5]", [(5, ""), (10, r"a\:b")]),
        ("[cow|horse] in rain", [(s, ("cow", "horse")[(s - 1) % 2] + " in rain")
                                 for s in range(1, 11)]),
        ("[fe|]male", [(s, ("female", "male")[(s - 1) % 2]) for s in range(1, 11)]),
        ("[a|b|c|d]", [(s, "abcd"[(s - 1) % 4]) for s in range(1, 11)]),
        ("[a|a|b|b]", [(2, "a"), (4, "b"), (6, "a"), (8, "b"), (10, "a")]),
        ("[a|[b:c:5]]", [(1, "a"), (2, "b"), (3, "a"), (4, "b"), (5, "a"), (6, "c"), (7, "a"),
                         (8, "c"), (9, "a"), (10, "c")]),
    ],
)  # fmt: skip
def test_schedules_are_those_of_the_table(text, expected):
    assert list(schedule(text, 10)) == expected


def test_the_documented_long_example_changes_at_its_five_steps():
    text = (
        "landscape with a [mountain:lake:0.25] and [an oak:a tree:0.75]"
        "[ in front::0.6][ behind:0.25] [rough:fine:0.5]"
    )
    assert schedule(text, 100) == (
        (25, "landscape with a mountain and an oak in front rough"),
        (50, "landscape with a lake and an oak in front behind rough"),
        (60, "landscape with a lake and an oak in front behind fine"),
        (75, "landscape with a lake and an oak behind fine"),
        (100, "landscape with a lake and a tree behind fine"),
    )


def test_a_second_pass_counts_on_from_the_first():
    assert schedule("[a:b:0.5]", 10, done=10) == ((10, "b"),)
    assert schedule("[a:b:1.5]", 10, done=10) == ((5, "a"), (10, "b"))
    assert schedule("[a:b:13]", 10, done=10) == ((3, "a"), (10, "b"))


@pytest.mark.parametrize(
    ("text", "parts", "loras"),
    [
        ("a man", [("a man", 1)], []),
        ("a man <lora:Oil Paint:0.8>", [("a man", 1)], [("Oil Paint", 0.8)]),
        ("<lora:a>x<lora:b:-1><lyco:c:.5:0.2>", [("x", 1)], [("a", 1), ("b", -1), ("c", 0.5)]),
        ("a cat AND a dog", [("a cat", 1), ("a dog", 1)], []),
        ("a cat :1.2 AND a dog AND rain:-0.5", [("a cat", 1.2), ("a dog", 1), ("rain", -0.5)], []),
        ("HAND and SAND", [("HAND and SAND", 1)], []),
        ("at 12:30", [("at 12:30", 1)], []),
        ("a <b> c", [("a <b> c", 1)], []),
    ],
)
def test_loras_and_the_parts_between_and_are_those_of_the_table(text, parts, loras):
    prompt = read_prompt(text)
    assert prompt.parts == tuple(Part(words, float(weight)) for words, weight in parts)
    assert prompt.loras == tuple(Lora(name, float(weight)) for name, weight in loras)


@pytest.mark.parametrize("tag", ["<lora:>", "<lora::0.5>", "<lora:a:strong>"])
def test_a_broken_lora_tag_is_said(tag):
    with pytest.raises(ValueError, match=r"no LoRA tag; write <lora:name:0\.8>"):
        read_prompt(f"a man {tag}")


@given(st.text(alphabet="ab:|[]()\\.1 ", max_size=60), st.integers(1, 9))
def test_any_brackets_are_a_prompt(text, steps):
    pieces = schedule(text, steps)
    assert pieces[-1][0] == steps
    for _, words in pieces:
        assert parse_weights(words)


@given(st.text(alphabet="abc, é😀ش", max_size=40))
def test_text_without_brackets_comes_out_as_it_went_in(text):
    assert schedule(text, 3) == ((3, text),)
    assert "".join(span.text for span in parse_weights(text)[0]) == text


def test_ten_thousand_brackets_are_read_in_moments():
    deep = "[" * 5000 + "x" + ":b:2]" * 5000
    assert schedule(deep, 20)[-1][0] == 20
    assert parse_weights("(" * 5000 + "x" + ")" * 5000)


def test_words_for_models_without_weights_are_those_at_the_start():
    text = "a (red:1.3) [hat:cap:5] BREAK rain <lora:x:1> AND sun"
    assert plain_text(text) == "a red hat rain sun"
