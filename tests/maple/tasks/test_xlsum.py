"""XL-Sum's prompts beside lm-evaluation-harness's, mended, and MEGA's template; its 45 files."""

import jinja2
import pytest
import yaml

from maple.evaluation.task import Example
from maple.tasks.xlsum import LANGUAGES, MEGA_LENGTH, TASK, cut
from tests.harness import FOLDER, harness, ours

ROW = {"title": "Kichwa", "text": "Maneno {{ mengi }} sana.", "summary": "Machache."}
SHOT = {"title": "T", "text": "Some words.", "summary": "Few."}
FILES = FOLDER / "afrobench" / "xlsum" / "prompt_1"
NAMES = {yaml.safe_load(path.read_text())["dataset_name"] for path in FILES.glob("*.yaml")}


def mended(read):
    """The two faults of its prompt, and the blank at its end."""
    assert "{{'text'}}\\n" in read["doc_to_text"] and read["doc_to_text"].endswith("Summary: ")
    read["doc_to_text"] = read["doc_to_text"].replace("{{'text'}}\\n", "{{text}}\n").removesuffix(" ")


@pytest.mark.parametrize("shot", [None, SHOT])
@pytest.mark.parametrize("language", [code for code, name in LANGUAGES.items() if name in NAMES])
def test_asked_as_lm_evaluation_harness_means_to_ask(language, shot):
    (theirs,) = harness(f"afrobench/xlsum/prompt_1/xlsum_{LANGUAGES[language]}.yaml", [ROW], shot, mended)
    (asked,) = ours(TASK, "harness", language, [ROW], shot)
    assert (asked.context, asked.gold) == (theirs.context, theirs.gold)


def test_its_languages():
    assert len(NAMES) == 12 and set(LANGUAGES.values()) > NAMES
    assert len(LANGUAGES) == len(set(LANGUAGES.values())) == 45
    asked = TASK.settings["harness"].ask(Example(ROW, "sr-Latn", ""))
    assert asked.prompt.startswith("Provide a summary of the document written in Serbian (Latin script). Ensure")


def test_asked_as_mega_asks():
    # rendered by its copy of promptsource from DOC_write_summary_of_above, joined by its `construct_prompt`
    setting = TASK.settings["mega"]
    shot, asked = (setting.ask(Example(row, "sw", "")) for row in (SHOT, ROW))
    assert shot.prompt + setting.delimiter + shot.target + setting.between + asked.prompt == (
        "TSome words.\n\n===\n\nWrite a summary of the text above :\nFew.\n"
        "KichwaManeno {{ mengi }} sana.\n\n===\n\nWrite a summary of the text above :\n"
    )


@pytest.mark.parametrize("length", [10, 2044, 2047, 2048, 2053, 2054, 3000])
@pytest.mark.parametrize("words", ["ab ", "abcdefg ", "一", " "])
def test_a_long_article_is_cut_as_jinja_cuts_it(words, length):
    article = (words * length)[:length]
    template = jinja2.Template("{{ article | string | truncate(" + str(MEGA_LENGTH) + ") }}")
    assert cut(article) == template.render(article=article)
