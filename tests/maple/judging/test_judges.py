"""Judges without a server, the order in which answers are shown, and the judge that a flag names."""

import subprocess
import sys
from collections import Counter
from hashlib import sha256
from threading import Event, Timer

import pytest

from maple.errors import InputError
from maple.judging import threads
from maple.judging.annotations import Output, read_annotations, references, write_annotations
from maple.judging.endpoint import EndpointJudge
from maple.judging.judges import LongestJudge, RecordedJudge, Verdict, annotate, choose_judge, is_turned
from maple.judging.win_rate import WinRate

# is_switched_outputs of alpaca_eval 0.6.6's RandomSwitchTwoColumnsProcessor (seed 0, as its main program has it) over
# the 805 instructions: the first 24, how many, and the SHA-256 of all as a string of 0 and 1
SWITCHED = "111000100111011001100001", 406, "8b3d93b6cd014bfa8a673db0a9d5d46cfff8efbafa44b8e7e4ba82878468030e"


class First:
    """Prefers whatever it is shown first."""

    name = "first"

    def __init__(self):
        self.asked = []

    def judge(self, instruction, reference, output):
        self.asked.append((instruction, reference, output))
        return Verdict(1.0, "the first", 0.5, 0.01)


def pair(instruction, reference, output):
    return Output("koala", instruction, reference, "r"), Output("koala", instruction, output, "m")


def test_the_order_is_alpaca_evals(annotations):
    read = read_annotations(annotations("alpaca-7b") / "annotations.json")
    turned = "".join("01"[is_turned(a.instruction)] for a in read)
    assert (turned[:24], turned.count("1"), sha256(turned.encode()).hexdigest()) == SWITCHED


def test_a_preference_of_what_was_shown_the_other_way_round_is_turned_back(annotations):
    read = read_annotations(annotations("alpaca-7b") / "annotations.json")
    outputs = [Output(a.dataset, a.instruction, a.output_2, a.generator_2) for a in read]
    judge = First()
    annotated = annotate(judge, list(zip(references(read), outputs, strict=True)))
    assert [a.preference for a in annotated] == [
        1.5 if a.output_1 == a.output_2 else 2.0 if is_turned(a.instruction) else 1.0 for a in read
    ]
    assert len(judge.asked) == 805 - 16  # equal answers are not asked about
    assert [(a.instruction, a.output_1, a.generator_1, a.dataset, a.output_2, a.generator_2) for a in annotated] == [
        (a.instruction, a.output_1, a.generator_1, a.dataset, a.output_2, a.generator_2) for a in read
    ]
    asked = next(a for a in annotated if a.preference == 2)
    assert (asked.annotator, asked.raw_completion, asked.time_per_example, asked.price_per_example) == (
        *("first", "the first", 0.5, 0.01),
    )
    equal = next(a for a in annotated if a.preference == 1.5)
    assert (equal.raw_completion, equal.time_per_example, equal.price_per_example) == (None, None, None)


def test_an_empty_answer_is_judged_like_any_other():
    judge = First()
    annotated = annotate(judge, [pair("a", "", "b"), pair("b", "a", ""), pair("c", "", "")])
    assert len(judge.asked) == 2 and annotated[2].preference == 1.5


def test_progress_is_told_of_every_question():
    told = []
    annotate(
        LongestJudge(), [pair(str(n), "a", "bb") for n in range(9)] + [pair("x", "a", "a")], lambda *n: told.append(n)
    )
    assert told == [(n, 9) for n in range(1, 10)]
    assert annotate(LongestJudge(), []) == []


def test_the_longest_judge():
    annotated = annotate(LongestJudge(), [pair(str(n), "abc", "d" * n) for n in range(6)])
    assert [a.preference for a in annotated] == [1, 1, 1, 1.5, 2, 2] and annotated[0].annotator == "longest"


@pytest.mark.parametrize("name", ["alpaca-7b", "text_davinci_001"])
def test_a_recorded_judge_says_again_what_was_said(annotations, name):
    path = annotations(name) / "annotations.json"
    read = read_annotations(path)
    judge = RecordedJudge(path)
    assert judge.name == f"recorded {path} (annotator alpaca_eval_gpt4)"
    pairs = [
        (r, Output(r.dataset, r.instruction, a.output_2, name)) for r, a in zip(references(read), read, strict=True)
    ]
    annotated = annotate(judge, pairs)
    rates = WinRate(), WinRate()
    for metric, found in zip(rates, (read, annotated), strict=True):
        for annotation in found:
            metric.update(annotation.preference)
    assert rates[0].compute() == rates[1].compute()
    assert Counter(a.preference for a in annotated)[1.5] == Counter(a.preference for a in read)[0]


def test_a_recorded_preference_between_1_and_2_is_given_back_to_the_bit(tmp_path):
    turned, plain = (next(i for i in map(str, range(99)) if is_turned(i) is way) for way in (True, False))
    found = annotate(First(), [pair(turned, "a", "b"), pair(plain, "a", "b")])
    exact = [1.1, 1.0000041]
    write_annotations(
        tmp_path / "a.json",
        [
            type(a)(**{f: getattr(a, f) for f in a.__slots__} | {"preference": p})
            for a, p in zip(found, exact, strict=True)
        ],
    )
    again = annotate(RecordedJudge(tmp_path / "a.json"), [pair(turned, "a", "b"), pair(plain, "a", "b")])
    assert [a.preference for a in again] == exact


def test_an_answer_that_was_not_recorded_is_named(annotations):
    path = annotations("alpaca-7b") / "annotations.json"
    with pytest.raises(InputError) as error:
        annotate(RecordedJudge(path), [pair("How did US states get their names?", "a", "b")])
    assert str(error.value).startswith(f"{path} holds no verdict on these two answers to 'How did US states")


# ------------------------------------------------------------------------------------------------ threads


def test_the_first_error_ends_the_work():
    begun = []

    class Failing(First):
        def judge(self, instruction, reference, output):
            begun.append(instruction)
            raise InputError(f"no {instruction}")

    with pytest.raises(InputError, match="no "):
        annotate(Failing(), [pair(str(n), "a", "b") for n in range(1000)])
    assert len(begun) <= threads.AT_ONCE


def test_an_interruption_waits_for_what_is_under_way_and_begins_nothing_new():
    release, begun, finished = Event(), [], []

    class Slow(First):
        def judge(self, instruction, reference, output):
            begun.append(instruction)
            if instruction != "0":
                release.wait()
            finished.append(instruction)
            return Verdict(1.0, None, None)

    def interrupt(done, of):
        Timer(0.2, release.set).start()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(Slow(), [pair(str(n), "a", "b") for n in range(100)], interrupt)
    assert sorted(begun) == sorted(finished) and len(begun) <= threads.AT_ONCE + 1


# --------------------------------------------------------------------------------------- what a flag names


def test_the_judge_that_a_flag_names(annotations):
    path = annotations("alpaca-7b") / "annotations.json"
    assert isinstance(choose_judge("longest"), LongestJudge)
    assert isinstance(choose_judge(str(path), None), RecordedJudge)
    judge = choose_judge("http://localhost:8000/v1/", "gpt-4")
    assert isinstance(judge, EndpointJudge) and judge.name == "alpaca_eval_gpt4 at gpt-4 (http://localhost:8000/v1)"
    second = choose_judge("http://localhost:8000", "gpt-4", "weighted_alpaca_eval_gpt4_turbo")
    assert second.name == "weighted_alpaca_eval_gpt4_turbo at gpt-4 (http://localhost:8000/v1)"


REFUSED = [
    ("longst", None, None, "--judge longst: neither 'longest', nor an annotations.json on this disk, nor a URL"),
    ("", None, None, "--judge : neither"),
    ("~nobody/x", None, None, "neither 'longest'"),
    ("a\0b", None, None, "neither 'longest'"),
    (".", None, None, "neither 'longest'"),
    ("longest", "gpt-4", None, "--judge-model gpt-4 belongs to a --judge that is a URL"),
    ("http://host/v1", None, None, "--judge http://host/v1 needs --judge-model"),
    ("http://me:SECRET@host/v1", None, None, "--judge: a URL with a password"),
    ("ftp://host/v1", "gpt-4", None, "--judge ftp://host/v1: not of the form https://host/v1"),
    ("http://host/v1", "gpt-4", "alpaca_eval", "did you mean 'alpaca_eval_gpt4'?"),
]


@pytest.mark.parametrize(("text", "model", "style", "words"), REFUSED, ids=[words for *_, words in REFUSED])
def test_what_names_no_judge_is_refused(text, model, style, words):
    with pytest.raises(InputError) as error:
        choose_judge(text, model, *[style] if style else [])
    assert words in str(error.value) and "SECRET" not in str(error.value)


LIGHT = """
import sys
from maple.errors import InputError
from maple.judging.judges import choose_judge
import maple.judging.endpoint

for text, model in (("nothing", None), ("http://host", None), ("http://host", "m"), ("longest", None)):
    try:
        choose_judge(text, model)
    except InputError as error:
        print(error)
heavy = {"torch", "transformers", "lightning", "sklearn", "numpy", "httpx", "httpx2"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


def test_choosing_a_judge_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "needs --judge-model" in done.stdout
