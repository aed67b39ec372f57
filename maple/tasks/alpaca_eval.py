"""AlpacaEval 1 (github.com/tatsu-lab/alpaca_eval): 805 English instructions; a judge compares two answers to each.

`output` is the reference's answer, of text_davinci_003 as in AlpacaEval 1. It is not what the repository keeps as that
model's results, of which 20 are the same.
"""

from __future__ import annotations

from maple.evaluation.fields import fields, string, text
from maple.evaluation.task import Example, HubFiles, Question, Setting, Task


def ask(example: Example) -> Question:
    """The instruction alone; the template that the model was trained with is laid around it."""
    return Question(example["instruction"], [])


TASK = Task(
    name="alpaca_eval",
    languages={"en": "en"},
    hub=HubFiles("tatsu-lab/alpaca_eval", "2edc6fad8be6b14ea7230aabfd08188da6b8b814", "alpaca_eval.json"),
    check=fields(dataset=text, instruction=text, output=string, generator=text),
    settings={
        "alpaca_eval": Setting(
            ask,
            "AlpacaEval, models_configs/alpaca-7b; greedy, where that samples at 0.7",
            None,
            max_new_tokens=2048,  # alpaca-7b's
        ),
    },
    split="eval",
    shots_split=None,
    judged=True,
)
