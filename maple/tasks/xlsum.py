"""XL-Sum (Findings of ACL 2021): a BBC article in one sentence or two.

45 files of 44 languages, English with 11,535 test rows, Scottish Gaelic with 500.
"""

from __future__ import annotations

from maple import languages
from maple.evaluation import mega, metric
from maple.evaluation.fields import fields, string, text
from maple.evaluation.task import Example, HubFiles, Question, Setting, Task

# fmt: off
LANGUAGES = {
    "am": "amharic", "ar": "arabic", "az": "azerbaijani", "bn": "bengali", "cy": "welsh", "en": "english",
    "es": "spanish", "fa": "persian", "fr": "french", "gd": "scottish_gaelic", "gu": "gujarati", "ha": "hausa",
    "hi": "hindi", "id": "indonesian", "ig": "igbo", "ja": "japanese", "ko": "korean", "ky": "kyrgyz", "mr": "marathi",
    "my": "burmese", "ne": "nepali", "om": "oromo", "pa": "punjabi", "pcm": "pidgin", "ps": "pashto",
    "pt": "portuguese", "rn": "kirundi", "ru": "russian", "si": "sinhala", "so": "somali", "sr": "serbian_cyrillic",
    "sr-Latn": "serbian_latin", "sw": "swahili", "ta": "tamil", "te": "telugu", "th": "thai", "ti": "tigrinya",
    "tr": "turkish", "uk": "ukrainian", "ur": "urdu", "uz": "uzbek", "vi": "vietnamese", "yo": "yoruba",
    "zh": "chinese_simplified", "zh-Hant": "chinese_traditional",
}
# fmt: on
MEGA_INSTRUCTION = (
    "You are an NLP assistant whose purpose is to summarize any given article. You should summarize all important "
    "information concisely in the same language in which you have been provided the document. Following the examples "
    "provided below:"
)
MEGA_LENGTH = 2048  # characters of an article that promptsource keeps


def ask(example: Example) -> Question:
    """AfroBench's first prompt, mended.

    Upstream it holds the word `text` where the article belongs and the signs \\n for a line break, and ends in a blank,
    which would tear the first word of an answer from its token; so there are no scores to compare with.
    """
    name = languages.fact(example.language).name
    prompt = (
        f"Provide a summary of the document written in {name}. Ensure that you provide the summary in {name} and "
        f"nothing else.\nDocument in {name}: {example['text']}\nSummary:"
    )
    return Question(prompt, [example["summary"]])


def ask_as_mega(example: Example) -> Question:
    """Title and article are glued together, as there."""
    prompt = f"{example['title']}{cut(example['text'])}\n\n===\n\nWrite a summary of the text above :"
    return Question(prompt.strip() + "\n", [example["summary"].strip()])


def cut(article: str) -> str:
    """Jinja's `truncate`: to whole words and three dots, where there are more than five characters too many."""
    if len(article) <= MEGA_LENGTH + 5:
        return article
    return article[: MEGA_LENGTH - 3].rsplit(" ", 1)[0] + "..."


TASK = Task(
    name="xlsum",
    languages=LANGUAGES,
    # The parquet copy that the hub makes of what the script on main gives; no commit of it is published anywhere.
    hub=HubFiles("csebuetnlp/xlsum", "refs/convert/parquet", "{language}/{split}/0000.parquet"),
    check=fields(title=string, text=text, summary=text),
    settings={
        "harness": Setting(
            ask,
            "lm-evaluation-harness 0.4.13, tasks/afrobench/xlsum/prompt_1, mended; scored by XL-Sum's own ROUGE",
            metric.rouge,
            max_new_tokens=256,  # ours: long in a script that is read byte by byte
            stop=("\n",),  # ours: a summary is one line, and a base model goes on with another document
        ),
        "mega": Setting(
            ask_as_mega,
            "MEGA, promptsource csebuetnlp/xlsum, DOC_write_summary_of_above; scored by XL-Sum's own ROUGE",
            metric.rouge,
            instruction=MEGA_INSTRUCTION,
            shots=mega.SHOTS,
            delimiter="",
            between="\n",
            max_new_tokens=150,  # its scripts/parameters.yaml
            clean=mega.first_line,
        ),
    },
)
