"""XQuAD (arXiv 1910.11856): the answer to a question on a passage, as it stands there.

1,190 questions on 240 passages, the same in all of twelve languages, each with one answer; there is one split only, so
few-shot examples are other questions of it.
"""

from __future__ import annotations

from maple.evaluation import mega, metric
from maple.evaluation.fields import passage
from maple.evaluation.task import Example, HubFiles, Question, Setting, Task

WORDS = {  # context, question, answer
    "ar": ("سيا", "سؤال", "إجابة"),
    "de": ("Kontext", "Frage", "Antwort"),
    "el": ("Συμφραζόμενα", "Ερώτηση", "Απάντηση"),
    "en": ("Context", "Question", "Answer"),
    "es": ("Contexto", "Pregunta", "Respuesta"),
    "hi": ("प्रसंग", "सवाल", "उत्तर"),
    "ro": ("Context", "Întrebare", "Răspuns"),
    "ru": ("Контекст", "Вопрос", "Ответ"),
    "th": ("บริบท", "คำถาม", "คำตอบ"),
    "tr": ("Bağlam", "Soru", "Cevap"),
    "vi": ("Bối cảnh", "Câu hỏi", "Trả lời"),
    "zh": ("语境", "问题", "回答"),
}


def ask(example: Example) -> Question:
    """The labels are in the example's language; the first answer alone counts, and here it is the only one."""
    context, question, answer = WORDS[example.language]
    prompt = f"{context}: {example['context']}\n\n{question}: {example['question']}\n\n{answer}:"
    return Question(prompt, example["answers"]["text"][:1])


TASK = Task(
    name="xquad",
    languages={code: code for code in WORDS},
    hub=HubFiles(
        "google/xquad",
        "51adfef1c1287aab1d2d91b5bead9bcfb9c68583",
        "xquad.{language}/{split}-00000-of-00001.parquet",
    ),
    check=passage(exact=True),  # all offsets of the published files are
    split="validation",
    shots_split=None,
    settings={
        "harness": Setting(
            ask,
            "lm-evaluation-harness 0.4.13, tasks/xquad, version 1.0",
            metric.squad,
            max_new_tokens=256,  # its default, lm_eval/models/huggingface.py
            stop=("\n",),
        ),
        "mega": Setting(
            mega.ask_about_passage,
            "MEGA, eval_qa_gptturbo.py; its few-shot examples are SQuAD's, these are of the language",
            metric.squad_as_mega,
            instruction=mega.READING,
            shots=mega.SHOTS,
            delimiter=mega.BEFORE_AN_ANSWER,
            max_new_tokens=mega.MAX_NEW_TOKENS,
            clean=mega.first_line,
        ),
    },
)
