"""XCOPA (arXiv 2005.00333): which of two sentences is the cause, or the effect, of a premise.

500 test and 100 validation rows of each of eleven languages; no English among them.
"""

from __future__ import annotations

from maple.evaluation.fields import fields, one_of, text
from maple.evaluation.task import Choice, Example, HubFiles, Question, Setting, Task
from maple.metrics.choices import ChoiceAccuracy, LabelAccuracy

# lm-evaluation-harness 0.4.13, tasks/xcopa/utils.py: (cause, effect)
CONNECTORS = {
    "et": ("sest", "seetõttu"),
    "ht": ("poukisa", "donk sa"),
    "id": ("karena", "maka"),
    "it": ("perché", "quindi"),
    "qu": ("imataq", "chaymi"),
    "sw": ("kwa sababu", "kwa hiyo"),
    "ta": ("காரணமாக", "எனவே"),
    "th": ("เพราะ", "ดังนั้น"),
    "tr": ("çünkü", "bu yüzden"),
    "vi": ("bởi vì", "vì vậy"),
    "zh": ("因为", "所以"),
}
# MEGA, mega/prompting: the premise, then
MEGA_CONNECTORS = {"cause": "This happened because...", "effect": "As a consequence..."}


def harness(example: Example) -> Choice:
    """The premise without its full stop and a connector; the choices go on from there, so they begin small."""
    connector = CONNECTORS[example.language][example["question"] == "effect"]
    choices = [example[name][0].lower() + example[name][1:] for name in ("choice1", "choice2")]
    return Choice(f"{example['premise'].strip()[:-1]} {connector}", choices, example["label"])


def mega(example: Example) -> Question:
    """The model is to write `choice1` or `choice2`."""
    prompt = (
        f"{example['premise']} {MEGA_CONNECTORS[example['question']]}\nHelp me pick the more plausible option:\n"
        f"- choice1: {example['choice1']}\n- choice2: {example['choice2']} \nAnswer:"
    )
    return Question(prompt, [("choice1", "choice2")[example["label"]]])


TASK = Task(
    name="xcopa",
    languages={code: code for code in CONNECTORS},
    hub=HubFiles("cambridgeltl/xcopa", "main", "{language}/{split}-00000-of-00001.parquet"),
    check=fields(premise=text, choice1=text, choice2=text, question=one_of("cause", "effect"), label=one_of(0, 1)),
    settings={
        "harness": Setting(
            harness, "lm-evaluation-harness 0.4.13, tasks/xcopa, version 1.0", lambda language: ChoiceAccuracy()
        ),
        "mega": Setting(
            mega,
            "MEGA, mega/prompting",
            lambda language: LabelAccuracy(),
            shots=4,
            max_new_tokens=20,
            stop=("\n",),
        ),
    },
)
