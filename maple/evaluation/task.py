"""What a task is: where its data lies, what a row of it must hold, and the ways in which it may be asked.

    Example     a row of the data, checked: its fields, its language, and file and line for messages
    Setting     a named way to ask: `harness` as lm-evaluation-harness does, `mega` as MEGA does, `tiny` as the
                embedded world's instructions do. It turns an Example into a Choice or a Question.
    Choice      some continuations of a context; a model chooses by their likelihood
    Question    a prompt that a model answers by generating

A task is one file of `maple/tasks` with such a `TASK`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maple.metrics.example import ExampleMetric


@dataclass(frozen=True)
class Example:
    """A row of a task's data whose fields `Task.check` has passed."""

    fields: Mapping[str, object]
    language: str  # its code here, one of `Task.languages`
    where: str  # file and line

    def __getitem__(self, name: str):
        return self.fields[name]


@dataclass(frozen=True)
class Choice:
    """Continuations of a context, one of them right."""

    context: str  # may be empty: then the continuations are whole texts
    choices: list[str]
    gold: int  # place of the right one

    @property
    def target(self) -> str:
        """What the right answer is written as, also in few-shot examples."""
        return self.choices[self.gold]


@dataclass(frozen=True)
class Question:
    """A prompt, and what may be answered to it."""

    prompt: str
    answers: list[str]  # each one right; none where a judge decides

    @property
    def target(self) -> str:
        """What a few-shot example answers."""
        return self.answers[0] if self.answers else ""


@dataclass(frozen=True)
class Setting:
    """A way to ask a task and to score what comes back.

    Prompt templates are formats: whoever compares scores needs them to the letter, so each names its source.
    """

    ask: Callable[[Example], Choice | Question]
    source: str  # of the template, for the reader and for scores.json
    metric: Callable[[str], ExampleMetric] | None  # of a language; None: a judge decides
    instruction: str = ""  # in front of everything else, as a system prompt
    shots: int = 0  # few-shot examples by default
    delimiter: str = " "  # between a prompt and its answer, where no template stands between them
    between: str = "\n\n"  # behind each few-shot example
    max_new_tokens: int = 0  # of an answer; 0: nothing is generated, choices are scored
    stop: tuple[str, ...] = ()  # texts that end an answer, beside EOS
    clean: Callable[[str], str] = str.strip  # an answer -> what is scored

    @property
    def generates(self) -> bool:
        """Whether the model writes answers, or chooses among given ones."""
        return self.max_new_tokens > 0


@dataclass(frozen=True)
class HubFiles:
    """Plain files of a data set on the hub."""

    repo: str
    revision: str  # a commit where it is known, else main
    path: str  # of {language}, the task's own code of it, and {split}
    splits: Mapping[str, str] = field(default_factory=dict)  # our name of a split -> theirs, where they differ


@dataclass(frozen=True)
class Task:
    """One evaluation task in all its languages."""

    name: str
    languages: Mapping[str, str]  # code as in maple/languages.yaml -> the task's own, which its files are named by
    hub: HubFiles | None  # None: rows come with the package
    check: Callable[[Mapping[str, object], str], None]  # (fields, where): raises InputError for a row that is none
    settings: Mapping[str, Setting]  # the first one is the default
    split: str = "test"  # what is scored
    usual: tuple[str, ...] | None = None  # of `languages`, where none is asked for; None: all of them
    shots_split: str | None = "validation"  # where few-shot examples come from; None: from `split`, never itself
    judged: bool = False  # answers are compared with a reference's by a judge, not scored one by one
