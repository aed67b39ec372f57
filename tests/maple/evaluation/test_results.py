"""scores.json and predictions: one part at a time, predictions first, and numbers that JSON has."""

import json
import math

import pytest

from maple.errors import InputError
from maple.evaluation import results
from maple.evaluation.prompting import Request
from maple.evaluation.results import FOUND, Results
from maple.evaluation.scoring import Answer
from maple.evaluation.task import Choice, Question
from maple.metrics.example import Estimate

SETTINGS = {"bits": 4, "limit": None}
ESTIMATES = {"acc": Estimate(0.5, 0.25, 4), "win_rate": Estimate(math.nan, None, 0)}


def request(asked):
    return Request(0, "rows:1", asked, "Wo? »Hier«", [[1]], [], shots=2, cut=True, tokens=7)


CHOSEN = request(Choice("Wo?", ["Hier", "Da"], 1)), Answer(0, "Hier", [-1.5, -2.0], {"acc": 0.0})
WRITTEN = request(Question("Wo?", ["Hier", "hier"])), Answer(0, "Da\u2028", [], {})


@pytest.fixture
def begun(tmp_path):
    found = Results(tmp_path)
    found.begin()
    return found


def add(found, task="xnli", language="de", estimates=ESTIMATES, settings=SETTINGS, pairs=(CHOSEN,)):
    requests, answers = zip(*pairs, strict=True)
    found.add(task, language, estimates, settings | {FOUND: "0" * 64}, requests, answers)


def test_rows_and_lines(begun, tmp_path):
    add(begun)
    rows = json.loads((tmp_path / "scores.json").read_text())
    settings = SETTINGS | {FOUND: "0" * 64}
    place = {"task": "xnli", "language": "de"}
    assert rows == [
        place | {"metric": "acc", "value": 0.5, "stderr": 0.25, "n": 4, "settings": settings},
        place | {"metric": "win_rate", "value": None, "stderr": None, "n": 0, "settings": settings},
    ]
    line = json.loads((tmp_path / "predictions/xnli.de.jsonl").read_text(encoding="utf-8"))
    digest = line.pop("prompt_sha256")
    assert len(digest) == 64 and digest != WRITTEN[0].digest, "the choices count"
    assert len(line.pop("asked_sha256")) == 64
    assert line == {
        **{"number": 0, "prompt": "Wo? »Hier«", "output": "Hier", "target": "Da", "choices": ["Hier", "Da"]},
        **{"log_likelihoods": [-1.5, -2.0], "score": {"acc": 0.0}, "shots": 2, "cut": True},
    }


def test_a_written_answer_is_one_line_whatever_is_in_it(begun, tmp_path):
    add(begun, pairs=(WRITTEN, WRITTEN))
    lines = (tmp_path / "predictions/xnli.de.jsonl").read_bytes().split(b"\n")
    assert len(lines) == 3 and lines[-1] == b""
    assert json.loads(lines[0])["output"] == "Da\u2028" and json.loads(lines[0])["answers"] == ["Hier", "hier"]


def test_what_is_scored_again_takes_the_place_of_the_older_rows(begun, tmp_path):
    add(begun)
    add(begun, language="sw")
    add(begun, estimates={"f1": Estimate(1.0, None, 1)})
    assert [(row["language"], row["metric"]) for row in Results(tmp_path).rows] == [
        *(("sw", metric) for metric in ESTIMATES),
        ("de", "f1"),
    ]


def test_a_part_is_there_when_its_scores_and_its_predictions_are(begun, tmp_path, monkeypatch):
    assert not begun.has("xnli", "de", SETTINGS)
    write = results.replace_file

    def no_room_for_scores(path, text):
        if path.name == "scores.json":
            raise OSError("no room")
        write(path, text)

    monkeypatch.setattr(results, "replace_file", no_room_for_scores)
    with pytest.raises(OSError, match="no room"):
        add(begun)
    assert (tmp_path / "predictions/xnli.de.jsonl").is_file() and not Results(tmp_path).has("xnli", "de", SETTINGS)
    monkeypatch.undo()
    add(begun)
    assert Results(tmp_path).has("xnli", "de", SETTINGS) and not Results(tmp_path).has("xnli", "sw", SETTINGS)
    (tmp_path / "predictions/xnli.de.jsonl").unlink()
    assert not Results(tmp_path).has("xnli", "de", SETTINGS)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"bits": 8, "limit": None}, "xnli in de was scored with bits 4 and not 8; go on with the same"),
        ({"bits": 4, "limit": 3, "new": 1}, "with limit None and not 3, new None and not 1"),
        ({"limit": None}, "with bits 4 and not None"),
    ],
)
def test_other_settings_are_refused(begun, now, words):
    add(begun)
    with pytest.raises(InputError) as error:
        begun.has("xnli", "de", now)
    assert words in str(error.value)


def test_reading_makes_nothing(tmp_path):
    Results(tmp_path)
    assert not list(tmp_path.iterdir())


def test_answers_that_wait_for_their_judge_are_kept_if_they_were_asked_for_alike(begun):
    (asked, answer), settings = WRITTEN, {"judge": "longest", "bits": 4, "batch_size": 32}
    assert begun.kept("alpaca_eval", "en", [asked], settings) is None
    begun.write("alpaca_eval", "en", [asked], [answer], settings)
    assert begun.kept("alpaca_eval", "en", [asked], settings) == [answer]
    assert begun.kept("alpaca_eval", "en", [asked], settings | {"judge": "another", "batch_size": 1}) == [answer]
    assert begun.kept("alpaca_eval", "en", [asked], settings | {"bits": 8}) is None
    assert begun.kept("alpaca_eval", "en", [CHOSEN[0]], settings) is None
    assert begun.kept("alpaca_eval", "en", [asked, asked], settings) is None
