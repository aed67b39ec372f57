"""MLQA (arXiv 1910.07475): the answer to a question on a passage, as it stands there, also in another language.

Test rows where both are in one language: en 11,590, ar 5,335, de 4,517, es 5,254, hi 4,918, vi 5,495, zh 5,137. The
code `de` means these; `de-en` is an English question about a German context, and its answer is German.
"""

from __future__ import annotations

from itertools import product

from maple.evaluation import mega, metric
from maple.evaluation.fields import passage
from maple.evaluation.task import Example, HubFiles, Question, Setting, Task

LANGUAGES = ("ar", "de", "en", "es", "hi", "vi", "zh")


def ask(example: Example) -> Question:
    """The labels are English in every language."""
    prompt = f"Context: {example['context']}\n\nQuestion: {example['question']}\n\nAnswer:"
    return Question(prompt, example["answers"]["text"])


TASK = Task(
    name="mlqa",
    # context.question
    languages={
        context if context == question else f"{context}-{question}": f"{context}.{question}"
        for context, question in product(LANGUAGES, repeat=2)
    },
    usual=LANGUAGES,
    # facebook/mlqa has a script on main, which no datasets since 4.0 runs. These are the same rows.
    hub=HubFiles(
        "google/xtreme",
        "ec5f1f46e9af79639a90684a7a70a956c4998f04",
        "MLQA.{language}/{split}-00000-of-00001.parquet",
    ),
    # A score needs no offset, and only nine of the 46,000 rows were at hand to see that theirs are exact.
    check=passage(exact=False),
    settings={
        "harness": Setting(
            ask,
            "lm-evaluation-harness 0.4.13, tasks/mlqa, version 0.1; scored by the authors' own rules, which differ in "
            "the Arabic article",
            metric.mlqa,
            max_new_tokens=256,  # its default, lm_eval/models/huggingface.py
            stop=("\n",),
        ),
        "mega": Setting(
            mega.ask_about_passage,
            "MEGA, eval_qa_gptturbo.py",
            metric.mlqa_as_mega,
            instruction=mega.READING,
            shots=mega.SHOTS,
            delimiter=mega.BEFORE_AN_ANSWER,
            max_new_tokens=mega.MAX_NEW_TOKENS,
            clean=mega.first_line,
        ),
    },
)
