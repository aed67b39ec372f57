"""Score a model or an adapter on multilingual tasks.

    python -m maple.evaluate --model tiny --adapter runs/0001/adapter
    python -m maple.evaluate --model mistralai/Mistral-7B-v0.1 --bits 4 --adapter runs/0001/adapter --tasks xnli,xcopa
    python -m maple.evaluate --model tiny --tasks xquad --languages de,sw --limit 20

An adapter is asked in the prompt template that it was trained with. Everything that can be wrong with flags and data is
found before weights are read; a run that is stopped goes on with --resume behind the last task and language that it
finished. What a run leaves is listed in the README.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from maple import cli, ranks
from maple.choices import Bits, Device, Precision, Template
from maple.errors import InputError
from maple.evaluation.plan import Plan, make_plan
from maple.origin import choose_bits, choose_template, find_origin
from maple.outputs import check_out, claim, own_flags
from maple.terminal import without_controls


def evaluate(
    model: str | None = None,
    adapter: str | None = None,
    bits: Bits | None = None,
    revision: str | None = None,
    tasks: str | None = None,
    languages: str | None = None,
    data_dir: str | None = None,
    limit: int | None = None,
    out: str | None = None,
    setting: str | None = None,
    template: Literal[Template, "plain"] | None = None,
    shots: int | None = None,
    max_tokens: int | None = None,
    judge: str | None = None,
    judge_model: str | None = None,
    judge_style: Literal["alpaca_eval_gpt4", "weighted_alpaca_eval_gpt4_turbo"] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    device: Device = "auto",
    devices: int | None = None,
    precision: Precision = "auto",
    resume: bool = False,
) -> None:
    """Score a model or an adapter on multilingual tasks, per language, with standard errors.

    model: tiny, a folder or a hub id; may be left away where the adapter names its base
    adapter: folder of an adapter, ours or PEFT's; without one the model alone is scored
    bits: of the base: 4 is NF4, 8 is int8 per row; by default what the adapter was trained on, else 16
    revision: branch, tag or commit of a hub id; by default the one that the adapter was trained on
    tasks: names, as xnli,xcopa; by default all of xnli, xcopa, xquad, mlqa, belebele, xlsum and alpaca_eval
    languages: codes, as it,sw, of each task those that it has; by default all
    data_dir: folder of <task>/<language>.<split>.jsonl, or tiny for the embedded world's own tasks, which is what the
        model tiny gets by default; any other model gets the published data from the hub
    limit: score the first so many examples of each task and language
    out: folder of the run; by default a fresh numbered one under runs/
    setting: how a task is asked: harness (as lm-evaluation-harness), mega (as MEGA), tiny (the embedded world's way);
        by default the first that the task has; alpaca_eval has one of its own
    template: prompt format around each prompt; by default what the adapter or merged model was trained with, plain for
        any other model
    shots: few-shot examples before each prompt, but in alpaca_eval; by default what the setting has
    max_tokens: the longest generated answer; by default what the setting has
    judge: of alpaca_eval: longest, an annotations.json, or the URL of an OpenAI-compatible server; by default the
        answers are written and not judged, but in the embedded world, which knows the right ones
    judge_model: name of the model that such a server has
    judge_style: how it is asked: by default as AlpacaEval 1; as AlpacaEval 2 it needs a server with log-probabilities
    batch_size: examples at once
    seed: of the choice of few-shot examples
    device: auto takes a GPU where there is one
    devices: GPUs, or processes on a CPU, that share the examples; by default 1, or as many as torchrun or SLURM started
    precision: what the model computes in; auto is float32 on a CPU and bfloat16 on a GPU that has it
    resume: go on with the run in --out; its own flags need not be given again
    """
    arguments = dict(locals())
    check_ranges(arguments)
    check_out(out, resume)
    plan = settle(arguments)
    ranks.check_world(arguments)
    if arguments["devices"] > 1 and ranks.here().world == 1:
        from maple.launch import launch

        launch(arguments, "maple.evaluate", f"Scoring {named(arguments)}")
    else:
        run(arguments, plan)


def settle(arguments: dict) -> Plan:
    """Fill in what model and adapter say of themselves; what is to be scored. Raises InputError."""
    adapter = arguments["adapter"]
    origin = find_origin(arguments["model"], adapter, arguments["revision"])
    arguments["model"] = origin.model
    arguments["template"] = choose_template(arguments["template"], origin, adapter)
    arguments["bits"] = choose_bits(arguments["bits"], origin)
    return make_plan(arguments)


def check_ranges(arguments: dict) -> None:
    """Refuse numbers that cannot be meant, all of them in one message."""
    least = {"limit": 1, "shots": 0, "max_tokens": 1, "batch_size": 1, "seed": 0, "devices": 1}
    wrong = [
        f"--{name.replace('_', '-')} is {arguments[name]}, must be at least {smallest} and below 2147483648"
        for name, smallest in least.items()
        if arguments[name] is not None and not smallest <= arguments[name] < 2**31
    ]
    if wrong:
        raise InputError("; ".join(wrong))


def named(arguments: dict) -> str:
    """What is scored, for the terminal."""
    adapter = f" with {arguments['adapter']}" if arguments["adapter"] else ""
    return without_controls(f"{arguments['model']}{adapter} in {arguments['bits']} bits")


def run(arguments: dict, plan: Plan) -> None:
    """Claim the folder of the run, and score there; of several processes each its part."""
    if arguments["devices"] == 1:
        with claim(arguments["out"], arguments["resume"]) as out:
            print(f"Scoring {named(arguments)}; loading PyTorch, Lightning and transformers ...", flush=True)
            work(arguments, plan, out)
    else:
        from maple.devices import joined

        with joined(arguments, "maple.evaluate") as out:
            work(arguments, plan, out)


def work(arguments: dict, plan: Plan, out: Path) -> None:
    """Score all that is planned and not there yet."""
    from maple.evaluation.run import Run
    from maple.quiet import quieten

    quieten()
    Run(arguments, plan, out).go()


if __name__ == "__main__":
    cli.main(evaluate, under=own_flags)
