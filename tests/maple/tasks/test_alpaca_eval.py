"""AlpacaEval's instructions and the reference's answers."""

import json
from collections import Counter

from maple.evaluation.data import read_examples
from maple.tasks.alpaca_eval import TASK
from tests.fake_hub import Repository


def test_real_rows_from_the_hub(real, hub):
    # What the repository's own annotations compare with, in the form of the hub's file.
    annotated = json.loads((real / "tasks" / "alpaca_eval" / "alpaca-7b" / "annotations.json").read_text())
    rows = [
        {
            "dataset": one["dataset"],
            "instruction": one["instruction"],
            "output": one["output_1"],
            "generator": one["generator_1"],
        }
        for one in annotated
    ]
    files = {"alpaca_eval.json": json.dumps(rows).encode()}
    hub.repositories[f"datasets/{TASK.hub.repo}"] = Repository(files, commit=TASK.hub.revision)
    examples, origin = read_examples(TASK, "en", TASK.split, None)
    assert origin == f"tatsu-lab/alpaca_eval@{TASK.hub.revision}/alpaca_eval.json"
    counts = {"selfinstruct": 252, "oasst": 188, "koala": 156, "helpful_base": 129, "vicuna": 80}
    assert Counter(example["dataset"] for example in examples) == counts
    assert {example["generator"] for example in examples} == {"text_davinci_003"}
    setting = TASK.settings["alpaca_eval"]
    assert [setting.ask(example).prompt for example in examples] == [row["instruction"] for row in rows]
    assert TASK.judged and setting.metric is None and setting.ask(examples[0]).answers == [] and not setting.stop
