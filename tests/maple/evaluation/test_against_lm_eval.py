"""The same model and the same local files, scored by lm-evaluation-harness itself.

In float64: in float32 both are about 1e-4 away from it where a text of XNLI has a log-likelihood of -1000.
"""

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from torchmetrics.functional.text import squad

import maple
from maple.evaluation.data import read_examples
from maple.evaluation.prompting import Prompter
from maple.evaluation.scoring import score
from maple.evaluation.task import Choice
from maple.model import read_config
from maple.tasks import find
from maple.tokenizer import load_tokenizer
from tests.harness import FOLDER

FILES = {"xcopa": "default_{}.yaml"}
CHOOSING = {"xnli": ["en", "sw"], "xcopa": ["it", "qu", "zh"], "belebele": ["de"]}
LIMIT = 40
WRITTEN = 20


@pytest.fixture(scope="module")
def theirs(stories):
    return HFLM(pretrained=str(stories), device="cpu", dtype="float64", batch_size=16)


@pytest.fixture(scope="module")
def ours(stories):
    return maple.load_model(str(stories), bits=16, rank=0, dtype=torch.float64).eval()


def scored_by_them(model, real, task, language, limit):
    """Its own task of that language, on the local file."""
    spec = find(task)
    code = spec.languages[language]
    # Its function that scores XQuAD imports what transformers had until 5.17.
    name = FILES.get(task, f"{task}_{{}}.yaml").format(code)
    config = load_yaml(FOLDER / task / name, resolve_func=task != "xquad")
    file = real / "tasks" / task / f"{code}.{spec.split}.jsonl"
    for name in ("dataset_name", "training_split", "validation_split", "tag", "fewshot_split", "fewshot_config"):
        config.pop(name, None)
    config |= {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test"}
    if task == "xquad":
        config["process_results"] = squad_scores
    settings = {"limit": limit, "log_samples": True, "bootstrap_iters": 0}
    manager = TaskManager(include_defaults=False)  # reading the files of its thousands of tasks takes half a minute
    found = lm_eval.simple_evaluate(model=model, tasks=[config], task_manager=manager, **settings)
    return found["results"][config["task"]], found["samples"][config["task"]]


def squad_scores(doc, results):
    """What transformers' functions give, by torchmetrics, which has their rule."""
    answers = {"text": doc["answers"]["text"][:1], "answer_start": [0]}
    one = squad({"prediction_text": results[0], "id": "1"}, {"answers": answers, "id": "1"})
    return {name: value.item() / 100 for name, value in one.items()}


def scored_by_us(model, real, stories, task, language, limit):
    spec, tokenizer = find(task), load_tokenizer(stories)
    setting = spec.settings["harness"]
    examples, _ = read_examples(spec, language, spec.split, str(real / "tasks"), limit)
    prompter = Prompter(task, setting, "plain", tokenizer, read_config(stories))
    requests = [prompter.request(number, example, []) for number, example in enumerate(examples)]
    return requests, *score(model, tokenizer, setting, language, requests, 16)


@pytest.mark.parametrize(("task", "language"), [(task, one) for task, codes in CHOOSING.items() for one in codes])
def test_every_choice_is_as_likely_and_the_accuracies_are_equal(real, stories, theirs, ours, task, language):
    results, samples = scored_by_them(theirs, real, task, language, LIMIT)
    requests, estimates, answers = scored_by_us(ours, real, stories, task, language, LIMIT)
    for name in set(results) & {"acc,none", "acc_norm,none"}:
        assert estimates[name.partition(",")[0]].value == results[name]
    for sample, request, answer in zip(samples, requests, answers, strict=True):
        assert isinstance(request.asked, Choice)
        assert [context + choice for context, choice in sample["arguments"]] == [
            request.prompt + " " + choice for choice in request.asked.choices
        ]
        expected = torch.tensor([one[0][0] for one in sample["resps"]], dtype=torch.float64)
        found = torch.tensor(answer.log_likelihoods, dtype=torch.float64)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
        assert request.cut == (max(request.tokens + len(ids) for ids in request.continuations) > 513)


@pytest.mark.parametrize("language", ["en", "es"])
def test_written_answers_and_their_f1_are_equal(real, stories, theirs, ours, language):
    results, samples = scored_by_them(theirs, real, "xquad", language, WRITTEN)
    requests, estimates, answers = scored_by_us(ours, real, stories, "xquad", language, WRITTEN)
    assert [request.prompt for request in requests] == [sample["arguments"][0][0] for sample in samples]
    assert [answer.output for answer in answers] == [sample["resps"][0][0] for sample in samples]
    for name in ("f1", "exact_match"):
        assert estimates[name].value == pytest.approx(results[f"{name},none"], rel=1e-6)
    torch.testing.assert_close(
        torch.tensor([answer.scores["f1"] for answer in answers]), torch.tensor([sample["f1"] for sample in samples])
    )
