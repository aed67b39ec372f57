"""XNLI (arXiv 1809.05053): does a premise entail a hypothesis, contradict it, or neither.

5,010 test and 2,490 validation rows of each of fifteen languages, 1,670 and 830 of each class. Scored are the test
rows, as in the published results of lm-evaluation-harness and in MEGA; the harness's 0.4 scores the validation rows.
"""

from __future__ import annotations

from maple.evaluation import mega, metric
from maple.evaluation.fields import fields, one_of, text
from maple.evaluation.task import Choice, Example, HubFiles, Question, Setting, Task

# right?, then entailment, neutral, contradiction, as the labels 0, 1, 2. The Arabic "No" is a mistranslation of
# lm-evaluation-harness: رقم is a number. It stays, so that scores compare.
WORDS = {
    "ar": ("صحيح", "نعم", "لذا", "رقم"),
    "bg": ("правилно", "да", "така", "не"),
    "de": ("richtig", "Ja", "Auch", "Nein"),
    "el": ("σωστός", "Ναί", "Έτσι", "όχι"),
    "en": ("right", "Yes", "Also", "No"),
    "es": ("correcto", "Sí", "Asi que", "No"),
    "fr": ("correct", "Oui", "Aussi", "Non"),
    "hi": ("सही", "हाँ", "इसलिए", "नहीं"),
    "ru": ("правильно", "Да", "Так", "Нет"),
    "sw": ("sahihi", "Ndiyo", "Hivyo", "Hapana"),
    "th": ("ถูกต้อง", "ใช่", "ดังนั้น", "ไม่"),
    "tr": ("doğru", "Evet", "Böylece", "Hayır"),
    "ur": ("صحیح", "جی ہاں", "اس لئے", "نہیں"),
    "vi": ("đúng", "Vâng", "Vì vậy", "Không"),
    "zh": ("正确", "是的", "所以", "不是的"),
}
MEGA_LABELS = ("True", "Neither", "False")
MEGA_INSTRUCTION = (
    "You are an NLP assistant whose purpose is to solve Natural Language Inference (NLI) problems. NLI is the task of "
    "determining the inference relation between two (short, ordered) texts: entailment, contradiction, or neutral. "
    "Answer as concisely as possible in the same format as the examples below:"
)


def ask(example: Example) -> Choice:
    """Three whole texts that differ in one word; there is no context before them."""
    right, *words = WORDS[example.language]
    premise, hypothesis = example["premise"], example["hypothesis"]
    return Choice("", [f"{premise}, {right}? {word}, {hypothesis}" for word in words], example["label"])


def ask_as_mega(example: Example) -> Question:
    """In English whatever the language, as MEGA's own runs do."""
    prompt = f"{example['premise']}\nQuestion: {example['hypothesis']} True, False, or Neither?"
    return Question(prompt.strip() + "\n", [MEGA_LABELS[example["label"]]])


TASK = Task(
    name="xnli",
    languages={code: code for code in WORDS},
    hub=HubFiles(
        "facebook/xnli",
        "b8dd5d7af51114dbda02c0e3f6133f332186418e",
        "{language}/{split}-00000-of-00001.parquet",
    ),
    check=fields(premise=text, hypothesis=text, label=one_of(0, 1, 2)),
    settings={
        "harness": Setting(ask, "lm-evaluation-harness 0.4.13, tasks/xnli, version 1.0", metric.choices),
        "mega": Setting(
            ask_as_mega,
            "MEGA, promptsource xnli, GPT-3 style",
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
