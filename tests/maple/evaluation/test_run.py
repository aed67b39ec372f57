"""What a run finds: in the embedded world, on real data in all bits, with judges, few-shot, and on two processes."""

import json
from itertools import chain
from statistics import fmean

import pytest
import torch

from maple import cli
from maple.errors import InputError, InputWarning
from maple.evaluate import evaluate
from maple.fit import fit
from maple.judging.judges import is_turned
from maple.outputs import own_flags
from tests.maple.judging.fake_judge import KEY, FakeJudge, content
from tests.maple.test_chat import make_adapter
from tests.maple.test_evaluate import XQUAD, predictions, scores, write
from tests.maple.test_evaluate import content as files
from tests.ranks import Forks
from tests.tiny_data import write_tiny_data

REAL_TASKS = "xnli,xcopa,xquad,mlqa,belebele"


# ------------------------------------------------------------------------------------------------- embedded world


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """An adapter of the embedded model that has begun to learn English."""
    folder = tmp_path_factory.mktemp("learned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        data = write_tiny_data(folder / "data", ("en",), 1500)
        fit(model="tiny", data=str(data), bits=16, max_steps=40, out=str(folder / "run"))
    return folder / "run" / "adapter"


def test_the_base_is_below_the_adapter_and_its_judge_sees_it(learned, tmp_path):
    asked = {"tasks": "xquad,xnli,alpaca_eval", "languages": "en,it", "limit": 20}
    evaluate(model="tiny", **asked, out=str(tmp_path / "base"))
    evaluate(adapter=str(learned), **asked, out=str(tmp_path / "adapter"))
    found = {name: scores(tmp_path / name) for name in ("base", "adapter")}
    for task, metric, more in (("xquad", "f1", 0.1), ("xnli", "acc", 0), ("alpaca_eval", "win_rate", 0)):
        base, adapter = (scores(tmp_path / name, metric)[task, "en"] for name in found)
        assert adapter > base + more, (task, base, adapter)
    settings = found["adapter"][0]["settings"]
    assert (settings["model"], settings["bits"], settings["trained_bits"], settings["rank"]) == ("tiny", 16, 16, 32)
    assert settings["template"] == "alpaca" and len(settings["adapter_sha256"]) == 64
    assert {row["settings"].get("judge") for row in found["base"]} == {None, "tiny-truth"}
    assert {r["settings"]["judge"] for r in found["base"] if r["metric"] == "win_rate"} == {"tiny-truth"}
    before = [row["prompt_sha256"] for row in predictions(tmp_path / "base", "xnli.en")]
    assert before != [row["prompt_sha256"] for row in predictions(tmp_path / "adapter", "xnli.en")]


def test_the_longest_answer_wins_where_length_decides(tmp_path):
    evaluate(model="tiny", tasks="alpaca_eval", languages="en", limit=6, judge="longest", out=str(tmp_path / "run"))
    row = next(row for row in scores(tmp_path / "run") if row["metric"] == "win_rate")
    judged = json.loads((tmp_path / "run/predictions/alpaca_eval.en.annotations.json").read_text())
    longer = [len(one["output_2"]) - len(one["output_1"]) for one in judged]
    assert row["settings"]["judge"] == "longest" and row["n"] == 6
    assert row["value"] == pytest.approx(100 * fmean(0.5 + ((d > 0) - (d < 0)) / 2 for d in longer))
    kept = [line["score"]["preference"] for line in predictions(tmp_path / "run", "alpaca_eval.en")]
    assert kept == [one["preference"] for one in judged]


# ------------------------------------------------------------------------------------------------- real data


@pytest.fixture(scope="module")
def adapters(stories, tmp_path_factory):
    """An adapter for each bits, made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp("adapters"), {}

    def adapter(bits):
        if bits not in made:
            made[bits] = make_adapter(stories, folder / str(bits), bits=bits)
        return str(made[bits])

    return adapter


@pytest.fixture(scope="module")
def on_real_data(real, stories, adapters, tmp_path_factory):
    """The folder of a run in so many bits, with or without an adapter; each is made once."""
    folder, made = tmp_path_factory.mktemp("real"), {}

    def run(bits, with_adapter):
        if (bits, with_adapter) not in made:
            made[bits, with_adapter] = out = folder / f"{bits}-{with_adapter}"
            more = {"adapter": adapters(bits)} if with_adapter else {"model": str(stories), "bits": bits}
            asked = {"tasks": REAL_TASKS, "limit": 3, "max_tokens": 4}
            evaluate(**more, **asked, data_dir=str(real / "tasks"), out=str(out))
        return made[bits, with_adapter]

    return run


@pytest.mark.parametrize("with_adapter", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_real_tasks_in_all_bits(on_real_data, bits, with_adapter):
    out = on_real_data(bits, with_adapter)
    found = scores(out)
    places = {(row["task"], row["language"]) for row in found}
    assert {task for task, _ in places} == set(REAL_TASKS.split(","))
    assert len(places) == 2 + 4 + 5 + 7 + 1
    assert all(row["value"] is not None for row in found) and all(1 <= row["n"] <= 3 for row in found)
    for row in found:
        assert (row["settings"]["bits"], row["settings"]["rank"]) == (bits, 4 if with_adapter else None)
        assert " sha256:" in row["settings"]["data"]
    other = {(b, a) for b in (4, 8, 16) for a in (False, True)} - {(bits, with_adapter)}
    mine = [line["log_likelihoods"] for line in predictions(out, "xnli.sw")]
    for one in other:
        theirs = [line["log_likelihoods"] for line in predictions(on_real_data(*one), "xnli.sw")]
        assert mine != theirs
        if one[1] == with_adapter and not with_adapter:  # the same model, but for its rounding
            assert list(chain(*mine)) == pytest.approx(list(chain(*theirs)), rel=0.1)


def test_other_bits_than_those_of_the_training_are_warned_of(adapters, real, tmp_path):
    asked = {"tasks": "xnli", "languages": "sw", "limit": 2, "data_dir": str(real / "tasks")}
    with pytest.warns(InputWarning, match="--bits 16, but the adapter was trained on 4 bits, whose errors it has lear"):
        evaluate(adapter=adapters(4), bits=16, **asked, out=str(tmp_path / "run"))
    settings = scores(tmp_path / "run")[0]["settings"]
    assert (settings["bits"], settings["trained_bits"]) == (16, 4)


# ------------------------------------------------------------------------------------------------- judges


@pytest.fixture
def alpaca(real, tmp_path, monkeypatch):
    """Real instructions with the reference's answers, and how they are asked; no key and no verdict is the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = json.loads((real / "tasks/alpaca_eval/alpaca-7b/annotations.json").read_text())[:5]
    fields = {"dataset": "dataset", "instruction": "instruction", "output": "output_1", "generator": "generator_1"}
    rows = [{ours: one[theirs] for ours, theirs in fields.items()} for one in found]
    write(tmp_path / "data" / "alpaca_eval" / "en.eval.jsonl", *rows)
    return {"tasks": "alpaca_eval", "data_dir": str(tmp_path / "data"), "max_tokens": 16}


def test_a_recorded_judge_says_what_the_run_was_told(alpaca, stories, tmp_path):
    alpaca |= {"model": str(stories)}
    evaluate(**alpaca, judge="longest", out=str(tmp_path / "longest"))
    record = tmp_path / "longest/predictions/alpaca_eval.en.annotations.json"
    evaluate(**alpaca, judge=str(record), out=str(tmp_path / "recorded"))
    first, second = (scores(tmp_path / name) for name in ("longest", "recorded"))
    assert [(row["metric"], row["value"]) for row in first] == [(row["metric"], row["value"]) for row in second]
    assert {row["settings"]["judge"] for row in second} == {f"recorded {record} (annotator longest)"}
    outputs = json.loads((tmp_path / "longest/predictions/alpaca_eval.en.model_outputs.json").read_text())
    assert [one["generator"] for one in outputs] == [f"{stories} (16 bits)"] * 5
    lines = predictions(tmp_path / "longest", "alpaca_eval.en")
    assert [one["output"] for one in outputs] == [line["output"] for line in lines]


def test_without_a_judge_the_answers_are_written(alpaca, stories, tmp_path, capsys):
    evaluate(model=str(stories), **alpaca, out=str(tmp_path / "run"))
    assert "alpaca_eval en: answers written (n 5" in capsys.readouterr().out
    assert {row["metric"] for row in scores(tmp_path / "run")} == {"prompts_cut", "shots_kept", "tokens_per_character"}
    assert {row["settings"]["judge"] for row in scores(tmp_path / "run")} == {None}
    assert (tmp_path / "run/predictions/alpaca_eval.en.model_outputs.json").is_file()
    assert not (tmp_path / "run/predictions/alpaca_eval.en.annotations.json").exists()


def test_a_server_judges_and_is_asked_once(alpaca, stories, tmp_path):
    with FakeJudge() as server:  # always the answer that it is shown first
        asked = alpaca | {"model": str(stories), "judge": server.url, "judge_model": "gpt-x"}
        evaluate(**asked, out=str(tmp_path / "run"))
        assert len(server.requests) == 5 and {request["model"] for request in server.requests} == {"gpt-x"}
        evaluate(**asked, out=str(tmp_path / "again"))
        assert len(server.requests) == 5
    assert (tmp_path / "run/scores.json").read_bytes() == (tmp_path / "again/scores.json").read_bytes()
    instructions = [line["prompt"] for line in predictions(tmp_path / "run", "alpaca_eval.en")]
    expected = 100 * fmean(map(is_turned, instructions))
    assert scores(tmp_path / "run", "win_rate")["alpaca_eval", "en"] == pytest.approx(expected)
    name = f"alpaca_eval_gpt4 at gpt-x ({server.url})"
    assert {row["settings"]["judge"] for row in scores(tmp_path / "run")} == {name}
    assert not any(KEY.encode() in content for content in files(tmp_path / "run").values())


def test_verdicts_that_cannot_be_read_count_for_nothing(alpaca, stories, tmp_path, capsys):
    with FakeJudge(always=content("I would rather not say.")) as server:
        asked = alpaca | {"model": str(stories), "judge": server.url, "judge_model": "gpt-x"}
        evaluate(**asked, out=str(tmp_path / "run"))
    row = next(row for row in scores(tmp_path / "run") if row["metric"] == "win_rate")
    assert (row["value"], row["stderr"], row["n"]) == (None, None, 0)
    assert all(line["score"] == {} for line in predictions(tmp_path / "run", "alpaca_eval.en"))
    assert "NaN" not in (tmp_path / "run/scores.json").read_text()


def test_a_judge_that_knows_no_verdict_may_be_replaced(alpaca, real, stories, tmp_path):
    record = str(real / "tasks/alpaca_eval/alpaca-7b/annotations.json")
    with pytest.raises(InputError, match="holds no verdict on these two answers to 'What are the names"):
        evaluate(model=str(stories), **alpaca, judge=record, out=str(tmp_path / "run"))
    evaluate(model=str(stories), **alpaca, judge="longest", out=str(tmp_path / "run"), resume=True)
    evaluate(model=str(stories), **alpaca, judge="longest", out=str(tmp_path / "whole"))
    assert files(tmp_path / "run") == files(tmp_path / "whole")


# ------------------------------------------------------------------------------------------------- few-shot


def shots_of(out, name, **flags):
    """The few-shot examples before each prompt of a run, as text."""
    evaluate(**flags, out=str(out))
    return [line["prompt"].split("\n\n")[:-1] for line in predictions(out, name)]


def test_shots_are_those_of_the_seed_from_the_validation_rows(tmp_path):
    from maple.tiny.rows import rows

    asked = {"model": "tiny", "tasks": "xquad", "languages": "en", "limit": 4, "shots": 3}
    first, again, other = (
        shots_of(tmp_path / str(number), "xquad.en", **asked, seed=seed) for number, seed in enumerate((1, 1, 2))
    )
    assert first == again and first != other
    assert len({tuple(shots) for shots in first}) == 1 and len(set(first[0])) == 3
    told = {row["context"]: row["answers"]["text"][0] for row in rows("xquad", "en", "validation")}
    for shot in first[0] + other[0]:
        context = next(context for context in told if shot.startswith(context))
        assert shot.endswith("\n" + told[context])
    assert scores(tmp_path / "0", "shots_kept") == {("xquad", "en"): 3}
    assert scores(tmp_path / "0")[0]["settings"]["shots"] == 3


def test_without_a_validation_split_an_example_is_never_its_own_shot(stories, tmp_path):
    names = ["Lily", "Tom", "Ben", "Mia"]
    rows = [
        {**XQUAD, "context": f"{name} is here.", "answers": {"text": [name], "answer_start": [0]}} for name in names
    ]
    write(tmp_path / "data" / "xquad" / "en.validation.jsonl", *rows)
    asked = {"model": str(stories), "tasks": "xquad", "data_dir": str(tmp_path / "data"), "max_tokens": 8}
    for shots, kept in ((2, 2), (9, 3)):
        evaluate(**asked, shots=shots, out=str(tmp_path / str(shots)))
        for name, line in zip(names, predictions(tmp_path / str(shots), "xquad.en"), strict=True):
            told = [other for other in names if f"Answer: {other}" in line["prompt"]]
            assert len(told) == kept and name not in told and line["shots"] == kept
        assert scores(tmp_path / str(shots), "shots_kept") == {("xquad", "en"): kept}
        assert scores(tmp_path / str(shots), "prompts_cut") == {("xquad", "en"): 0}


def test_a_window_that_is_too_small_loses_shots_first_and_then_the_beginning(stories, tmp_path):
    long = {**XQUAD, "context": "Lily is here. " + "He said so. " * 200}  # more than the window of 512
    middle = {**XQUAD, "context": "Lily is here. " + "He said so. " * 40}  # two of them are
    write(tmp_path / "data" / "xquad" / "en.validation.jsonl", long, middle, XQUAD, XQUAD)
    asked = {"model": str(stories), "tasks": "xquad", "data_dir": str(tmp_path / "data"), "max_tokens": 8, "shots": 3}
    evaluate(**asked, out=str(tmp_path / "run"))
    lines = predictions(tmp_path / "run", "xquad.en")
    assert [line["cut"] for line in lines] == [True, False, False, False]
    assert lines[0]["shots"] == 0 and all(line["shots"] < 3 for line in lines)
    assert scores(tmp_path / "run", "prompts_cut") == {("xquad", "en"): 0.25}
    assert scores(tmp_path / "run", "shots_kept") == {("xquad", "en"): fmean(line["shots"] for line in lines)}
    assert lines[0]["prompt"].startswith("Context: Lily is here."), "what was cut is told as it was meant"


def test_a_judged_task_has_no_shots(tmp_path):
    evaluate(model="tiny", tasks="alpaca_eval,xcopa", languages="en", limit=2, shots=1, out=str(tmp_path / "run"))
    assert scores(tmp_path / "run", "shots_kept") == {("alpaca_eval", "en"): 0, ("xcopa", "en"): 1}


# ------------------------------------------------------------------------------------------------- two processes


def on_two(folder, **asked):
    """The files that two processes leave."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]

    def work():
        cli.main(evaluate, [*flags, "--out", str(folder)], under=own_flags)

    forks = Forks(work, folder.with_name(f"{folder.name}.logs"))
    assert forks.wait() == [0, 0], forks.said()
    assert "Traceback" not in forks.said() and forks.said().count("Scores and predictions") == 1
    return files(folder)


@pytest.mark.parametrize(
    "asked",
    [
        {"tasks": "xnli,xquad,alpaca_eval", "languages": "en,it", "limit": 10, "batch_size": 3},
        {"tasks": "xcopa,xlsum,alpaca_eval", "languages": "de", "limit": 1, "shots": 1},
    ],
    ids=["uneven", "fewer examples than devices"],
)
def test_two_processes_leave_what_one_leaves(tmp_path, asked):
    asked |= {"model": "tiny", "device": "cpu"}
    found = on_two(tmp_path / "two", **asked)
    evaluate(**asked, out=str(tmp_path / "one"))
    expected = files(tmp_path / "one")
    assert b"devices: 2" in found.pop("config.yaml") and b"devices: 1" in expected.pop("config.yaml")
    assert found == expected


def test_what_is_wrong_is_said_by_one_of_two(tmp_path, stories):
    write(tmp_path / "data" / "xquad" / "en.validation.jsonl", XQUAD, [1])
    flags = ["--model", stories, "--tasks", "xquad", "--data-dir", tmp_path / "data", "--device", "cpu"]

    def work():
        cli.main(evaluate, [*map(str, flags), "--max-tokens=9", "--out", str(tmp_path / "run")], under=own_flags)

    forks = Forks(work, tmp_path / "logs")
    assert forks.wait() == [2, 2] and "Traceback" not in forks.said(), forks.said()
    assert forks.said().count("en.validation.jsonl:2: not an object") == 1
    assert not (tmp_path / "run").exists() or not files(tmp_path / "run")


def test_no_room_is_one_sentence_and_a_smaller_batch_goes_on(tmp_path, monkeypatch):
    from maple.evaluation import run as module

    asked, real = {"model": "tiny", "tasks": "xnli", "languages": "en,it", "limit": 4}, module.score

    def full(model, tokenizer, setting, language, requests, batch_size, advance):
        if language == "it" and batch_size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(model, tokenizer, setting, language, requests, batch_size, advance)

    monkeypatch.setattr(module, "score", full)
    with pytest.raises(InputError, match=r"out of memory .*give a smaller --batch-size than 32, with --resume"):
        evaluate(**asked, out=str(tmp_path / "run"))
    evaluate(**asked, batch_size=2, out=str(tmp_path / "run"), resume=True)
    monkeypatch.undo()
    evaluate(**asked, out=str(tmp_path / "whole"))
    assert scores(tmp_path / "run", "acc") == scores(tmp_path / "whole", "acc")
