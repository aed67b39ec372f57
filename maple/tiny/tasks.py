"""The seven tasks, asked of the embedded world in all of its eleven languages; the setting is called `tiny`.

A prompt is what an instruction of the world is that has no input (`records.py`): the passage, then what is asked. The
template that an adapter was trained with is laid around it. There are no letters to choose by and no labels to write,
since no instruction taught them: a choice is scored by the likelihood of its words.

    xnli          which of three sentences follows from the premise           likelihood, chance 1/3
    xcopa         which of two causes the premise tells                       likelihood, chance 1/2
    belebele      which of four answers is right                              likelihood, chance 1/4
    xquad, mlqa   the answer to a question, a span of the passage             generated, exact match and F1
    xlsum         the last sentence again                                     generated, ROUGE
    alpaca_eval   instructions of every kind, beside a reference              generated, judged (`judge.py`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from maple.errors import InputError, nearest
from maple.evaluation import metric
from maple.evaluation.fields import fields, one_of, text
from maple.evaluation.task import Choice, Example, Question, Setting, Task
from maple.tiny.language import language
from maple.tiny.records import LANGUAGES
from maple.tiny.rows import bare, rows

if TYPE_CHECKING:
    from maple.metrics.example import ExampleMetric

__all__ = ["TASKS", "find", "rows"]

SOURCE = "the embedded world, maple/tiny/records.py"
SHORT, SENTENCE = 20, 32  # tokens: the longest right answers take 18 and 29, both in Italian, and EOS one more


def find(name: str) -> Task:
    """The task of a name. Raises InputError with the nearest names for one that is not there."""
    if name not in TASKS:
        raise InputError(f"--tasks: the embedded world has no task {name!r}{nearest(name, TASKS)}")
    return TASKS[name]


def xnli(example: Example) -> Choice:
    """As an instruction to answer in a full sentence."""
    instruction = language(example.language).in_a_sentence(example["asked"])
    return Choice(_prompt(example, "premise", instruction), example["hypotheses"], example["label"])


def xcopa(example: Example) -> Choice:
    """As the question why; `question` says "cause", as in the public rows."""
    return Choice(
        _prompt(example, "premise", example["asked"]), [example["choice1"], example["choice2"]], example["label"]
    )


def belebele(example: Example) -> Choice:
    """The texts of the answers themselves."""
    answers = [example[f"mc_answer{number}"] for number in range(1, 5)]
    return Choice(
        _prompt(example, "flores_passage", example["question"]), answers, int(example["correct_answer_num"]) - 1
    )


def question(example: Example) -> Question:
    """Of xquad and mlqa."""
    return Question(_prompt(example, "context", example["question"]), example["answers"]["text"])


def xlsum(example: Example) -> Question:
    """As the instruction to repeat the last sentence."""
    return Question(_prompt(example, "text", language(example.language).repeat), [example["summary"]])


def alpaca_eval(example: Example) -> Question:
    """The instruction holds its passage; a judge knows what is right."""
    return Question(example["instruction"], [])


def _prompt(example: Example, passage: str, instruction: str) -> str:
    return f"{example[passage]}{language(example.language).separator}{instruction}"


def spans(value: object) -> str | None:
    """SQuAD's answers: as many texts as places, at least one."""
    if not isinstance(value, Mapping) or not value.get("text"):
        return "holds no answer"
    return None if len(value["text"]) == len(value.get("answer_start", ())) else "has not one answer_start a text"


def three(value: object) -> str | None:
    """Three texts."""
    return None if isinstance(value, list) and len(value) == 3 and not any(map(text, value)) else "must be three texts"


# A metric imports torch, so it is imported when it is made.
def squad(code: str) -> ExampleMetric:
    """SQuAD's official rules in every language."""
    from maple.metrics.squad import SquadScore

    return SquadScore()


def mlqa(code: str) -> ExampleMetric:
    """MLQA's rules for its languages, SQuAD's for the five others."""
    from maple.metrics.mlqa import ARTICLES, MLQAScore

    return MLQAScore(code) if code in ARTICLES else squad(code)


def _task(
    name: str,
    ask: Callable[[Example], Choice | Question],
    scored_by: Callable[[str], ExampleMetric] | None,
    checks: Mapping[str, Callable],
    max_new_tokens: int = 0,
    clean: Callable[[str], str] = str.strip,
) -> Task:
    # An answer is a line: a base that does not know where an answer ends is read as far as its own line goes.
    setting = Setting(ask, SOURCE, scored_by, delimiter="\n", max_new_tokens=max_new_tokens, stop=("\n",), clean=clean)
    return Task(
        name,
        languages={code: code for code in LANGUAGES},
        hub=None,
        check=fields(**checks),
        settings={"tiny": setting},
        judged=scored_by is None,
    )


PASSAGE = {"context": text, "question": text, "answers": spans}
OPTIONS = {f"mc_answer{number}": text for number in range(1, 5)}
TASKS = {
    task.name: task
    for task in (
        _task(
            "xnli",
            xnli,
            metric.choices,
            {"premise": text, "asked": text, "hypotheses": three, "label": one_of(0, 1, 2)},
        ),
        _task(
            "xcopa",
            xcopa,
            metric.choices,
            {"premise": text, "asked": text, "choice1": text, "choice2": text, "label": one_of(0, 1)},
        ),
        _task("xquad", question, squad, PASSAGE, SHORT, bare),
        _task("mlqa", question, mlqa, PASSAGE, SHORT, bare),
        _task(
            "belebele",
            belebele,
            metric.choices,
            {"flores_passage": text, "question": text, **OPTIONS, "correct_answer_num": one_of("1", "2", "3", "4")},
        ),
        _task("xlsum", xlsum, metric.rouge, {"text": text, "summary": text}, SENTENCE),
        _task("alpaca_eval", alpaca_eval, None, {"instruction": text, "output": text, "generator": text}, SENTENCE),
    )
}
