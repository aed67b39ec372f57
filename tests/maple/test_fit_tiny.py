"""What a newcomer runs: fit with nothing but its defaults, and a chat with what it made."""

import json

import yaml

from maple.chat import chat
from maple.fit import TINY_RECIPE, fit
from maple.merge import merge
from maple.tiny.records import LANGUAGES, TRAINING


def test_the_embedded_model_learns_every_language_of_its_instructions_and_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fit(max_steps=100)  # of 254
    run = tmp_path / "runs" / "0001"
    summary = json.loads((run / "summary.json").read_text())
    assert list(summary["val_loss_by_language"]) == list(LANGUAGES)
    for language in TRAINING:
        loss, match = (summary[f"{name}_by_language"][language] for name in ("val_loss", "exact_match"))
        assert loss["after"] < loss["before"] - 0.7
        assert match["after"] > match["before"] + 0.04
    assert summary["exact_match_after"] > 0.15 > 0.05 > summary["exact_match_before"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["model"], config["data"], config["rank"], config["bits"]) == ("tiny", "tiny", 32, 4)
    assert {name: config[name] for name in TINY_RECIPE} == TINY_RECIPE

    capsys.readouterr()
    question = "Nora has a cat. Where does Nora live? Nora lives in Rome."
    chat(adapter=str(run / "adapter"), prompt=question)
    answer = capsys.readouterr()
    assert answer.out.strip() and "tiny in 4 bits" in answer.err and "template alpaca" in answer.err
    merge(adapter=str(run / "adapter"), out="merged")
    capsys.readouterr()
    chat(model="merged", prompt=question)
    assert capsys.readouterr().out.strip()
