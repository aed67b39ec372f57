"""What the flags amount to: tasks, languages, settings and a judge."""

import inspect
import json

import pytest

from maple import tasks
from maple.errors import InputError
from maple.evaluate import evaluate
from maple.evaluation.plan import make_plan
from maple.tiny.records import LANGUAGES

SEVEN = ["alpaca_eval", "belebele", "mlqa", "xcopa", "xlsum", "xnli", "xquad"]


def plan(**flags):
    defaults = {name: one.default for name, one in inspect.signature(evaluate).parameters.items()}
    return make_plan(defaults | {"template": "plain", "bits": 16} | flags)


def languages(found):
    return {part.task.name: part.languages for part in found.parts}


def data(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps({}) + "\n")
    return str(folder)


def test_the_embedded_model_is_asked_its_own_tasks_in_all_languages():
    found = plan(model="tiny")
    assert found.data_dir == "tiny" and found.judge.name == "tiny-truth"
    assert sorted(languages(found)) == SEVEN and {part.name for part in found.parts} == {"tiny"}
    assert all(part.languages == list(LANGUAGES) for part in found.parts)


def test_another_model_is_asked_the_published_tasks():
    found = plan(model="a/b")
    assert found.data_dir is None and found.judge is None and sorted(languages(found)) == SEVEN == tasks.names()
    assert list(languages(found))[-1] == "alpaca_eval", "what is judged comes last"
    assert [part.name for part in found.parts] == [next(iter(part.task.settings)) for part in found.parts]
    assert plan(model="a/b", data_dir="tiny").judge.name == "tiny-truth"


def test_of_a_folder_those_tasks_that_it_has(tmp_path):
    folder = data(tmp_path, "xnli/en.test.jsonl", "xnli/sw.test.jsonl", "belebele/deu_Latn.test.jsonl")
    assert languages(plan(model="a/b", data_dir=folder)) == {"belebele": ["de"], "xnli": ["en", "sw"]}
    assert languages(plan(model="a/b", data_dir=folder, languages="sw")) == {"xnli": ["sw"]}
    assert languages(plan(model="tiny", data_dir=folder, tasks="xnli")) == {"xnli": ["en", "sw"]}
    with pytest.raises(InputError, match=r"there is no \S+/xnli/de.test.jsonl; without --data-dir the hub's is read"):
        plan(model="a/b", data_dir=folder, languages="de", tasks="belebele,xnli")
    with pytest.raises(InputError, match=r"no mlqa/<language>.test.jsonl; without --data-dir the hub's are read"):
        plan(model="a/b", data_dir=folder, tasks="xnli,mlqa")


def test_tasks_come_in_the_order_in_which_they_are_asked_for():
    found = plan(model="a/b", tasks="xquad, xnli", languages="sw,es")
    assert languages(found) == {"xquad": ["es"], "xnli": ["es", "sw"]}
    assert languages(plan(model="a/b", tasks="xcopa,xnli", languages="it")) == {"xcopa": ["it"]}


def test_numbers_go_where_they_mean_something():
    found = {part.task.name: part.setting for part in plan(model="a/b", shots=2, max_tokens=7).parts}
    assert {name: setting.shots for name, setting in found.items()} == dict.fromkeys(SEVEN, 2) | {"alpaca_eval": 0}
    generated = {name: setting.max_new_tokens for name, setting in found.items()}
    assert generated == dict.fromkeys(SEVEN, 7) | {"xnli": 0, "xcopa": 0, "belebele": 0}
    own = {part.task.name: part.setting for part in plan(model="a/b", tasks="xnli", setting="mega").parts}
    assert (own["xnli"].shots, own["xnli"].max_new_tokens) == (4, 20)
    assert tasks.find("xnli").settings["mega"].shots == 4, "a task is not changed"


def test_a_setting_is_that_of_the_tasks_that_have_a_choice():
    found = {part.task.name: part.name for part in plan(model="a/b", tasks="alpaca_eval,xnli", setting="mega").parts}
    assert found == {"xnli": "mega", "alpaca_eval": "alpaca_eval"}
    with pytest.raises(InputError, match="--setting mega: no task has it; known: alpaca_eval"):
        plan(model="a/b", tasks="alpaca_eval", setting="mega")


def test_a_judge_is_that_of_the_flag(tmp_path):
    assert plan(model="tiny", judge="longest").judge.name == "longest"
    assert plan(model="a/b", tasks="alpaca_eval", judge="longest").judge.name == "longest"
    with pytest.raises(InputError, match="none of the tasks is judged; alpaca_eval is"):
        plan(model="tiny", tasks="xnli", judge="longest")
    folder = data(tmp_path, "xnli/en.test.jsonl")
    with pytest.raises(InputError, match="none of the tasks is judged"):
        plan(model="a/b", data_dir=folder, judge="longest")
