"""XCOPA (arXiv 2005.00333): which of two sentences is the cause, or the effect, of a premise.

500 test and 100 validation rows of each of eleven languages; no English among them. What `question` says is not to be
relied on: translations of one row disagree, the Thai file says `effect` 500 times, Swahili 287 and Turkish 301 times.
It is asked as it stands, as lm-evaluation-harness and MEGA do.
"""

from __future__ import annotations

from maple.evaluation import mega, metric
from maple.evaluation.fields import fields, one_of, text
from maple.evaluation.task import Choice, Example, HubFiles, Question, Setting, Task

CONNECTORS = {  # (cause, effect)
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
MEGA_CONNECTORS = {"cause": "This happened because...", "effect": "As a consequence..."}
MEGA_INSTRUCTION = (
    "You are an AI assistant whose purpose is to perform open-domain commonsense causal reasoning. You will be "
    "provided a premise and two alternatives, where the task is to select the alternative that more plausibly has a "
    "causal relation with the premise. Answer as concisely as possible in the same format as the examples below:"
)


def ask(example: Example) -> Choice:
    """The premise without its full stop and a connector; the choices go on from there, so they begin small."""
    connector = CONNECTORS[example.language][example["question"] == "effect"]
    choices = [example[name][0].lower() + example[name][1:] for name in ("choice1", "choice2")]
    return Choice(f"{example['premise'].strip()[:-1]} {connector}", choices, example["label"])


def ask_as_mega(example: Example) -> Question:
    """The model is to write `choice1` or `choice2`. The double and the trailing blanks are MEGA's."""
    prompt = (
        f"{example['premise']}  {MEGA_CONNECTORS[example['question']]} \nHelp me pick the more plausible option:\n"
        f"- choice1: {example['choice1']}\n- choice2: {example['choice2']} \nAnswer:"
    )
    return Question(prompt.strip() + "\n", [("choice1", "choice2")[example["label"]]])


TASK = Task(
    name="xcopa",
    languages={code: code for code in CONNECTORS},
    hub=HubFiles(
        "cambridgeltl/xcopa",
        "042f78955ba48e6404616762fa6e05e839c3907a",
        "{language}/{split}-00000-of-00001.parquet",
    ),
    check=fields(premise=text, choice1=text, choice2=text, question=one_of("cause", "effect"), label=one_of(0, 1)),
    settings={
        "harness": Setting(ask, "lm-evaluation-harness 0.4.13, tasks/xcopa, version 1.0", metric.choices),
        "mega": Setting(
            ask_as_mega,
            "MEGA, promptsource xcopa, plausible_alternatives_discrete",
            metric.labels,
            instruction=MEGA_INSTRUCTION,
            shots=mega.SHOTS,
            delimiter="",
            between="\n",
            max_new_tokens=mega.MAX_NEW_TOKENS,
            clean=mega.first_line,
        ),
    },
)
