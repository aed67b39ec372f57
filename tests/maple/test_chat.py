"""Chat on the real model: what goes where, beside transformers and peft, and everything that is refused."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import maple
from maple import cli
from maple.chat import chat, talk
from maple.data.prompts import render
from maple.data.records import Record
from maple.errors import InputError, InputWarning
from maple.lora import lora_layers
from tests.maple.test_model import edit, saved


@pytest.fixture
def adapter(stories, tmp_path):
    """An adapter that turns the real model's words around, trained on 16 bits with the template alpaca."""
    return make_adapter(stories, tmp_path / "adapter")


def make_adapter(base, folder, bits=16, template="alpaca", rank=4):
    model = maple.load_model(str(base), bits=bits, rank=rank)
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_b, std=0.05)
    maple.save_adapter(model, folder, template)
    return folder


def ask(capsys, **flags):
    """(stdout, stderr) of one prompt."""
    chat(**{"prompt": "Hola, ¿qué tal?", "max_tokens": 40} | flags)
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.mark.parametrize("template", ["alpaca", "bactrian"])
def test_the_greedy_answer_is_that_of_transformers_and_peft(stories, tmp_path, capsys, template):
    peft = pytest.importorskip("peft", reason="needs the peers extra")
    adapter = make_adapter(stories, tmp_path / "adapter", template=template)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(stories), adapter)
    tokenizer = AutoTokenizer.from_pretrained(stories)
    prompt = render(template, Record("Hola, ¿qué tal?", "", "", where=""), tokenizer)[0]
    inputs = tokenizer(prompt, return_tensors="pt")
    found = theirs.generate(**inputs, max_new_tokens=40, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    out, err = ask(capsys, adapter=str(adapter))
    assert out == tokenizer.decode(found, skip_special_tokens=True) + "\n"
    assert f"in 16 bits, adapter {adapter}, template {template}" in err and "(stopped: --max-tokens 40)" in err


def test_a_base_continues_the_plain_text(stories, capsys):
    out, _ = ask(capsys, model=str(stories), prompt="Once upon a time, there was", max_tokens=24)
    assert out.startswith("a little girl named Lily. She loved to play outside in the park.")


@pytest.mark.parametrize("bits", [4, 8])
def test_the_base_is_packed_as_in_training(stories, tmp_path, capsys, bits):
    adapter = make_adapter(stories, tmp_path / "adapter", bits=bits)
    out, err = ask(capsys, adapter=str(adapter))
    assert f"in {bits} bits" in err and "warning" not in err
    assert ask(capsys, adapter=str(adapter), bits=bits) == (out, err)
    with pytest.warns(InputWarning, match=f"--bits 16, but the adapter was trained on {bits} bits"):
        ask(capsys, adapter=str(adapter), bits=16)


def test_another_template_than_that_of_the_training_is_warned_of(adapter, capsys):
    with pytest.warns(InputWarning, match="--template plain, but it was trained with alpaca"):
        ask(capsys, adapter=str(adapter), template="plain")


def test_the_same_seed_is_the_same_answer(stories, capsys):
    answers = [ask(capsys, model=str(stories), temperature=1.0, seed=seed)[0] for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_an_answer_cannot_command_the_terminal(stories, capsys, tmp_path, monkeypatch):
    from maple.conversation import Conversation

    monkeypatch.setattr(Conversation, "answer", lambda self, text, write: write("a\x1b]0;x\x07[red]b\r\n"))
    assert ask(capsys, model=str(stories))[0] == "a�]0;x�[red]b�\n\n"


# ------------------------------------------------------------------------------------------------- lines and keys


class Listener:
    """Stands for a conversation: remembers what it is told, and answers, fails or is interrupted."""

    template = "alpaca"

    def __init__(self):
        self.heard = []

    def answer(self, text, write):
        self.heard.append(text)
        write("an answer")
        if text == "too long":
            raise InputError("the prompt is too long")
        if text == "interrupt":
            raise KeyboardInterrupt


def keyboard(monkeypatch, *lines, typed=True):
    """Make stdin a terminal where these lines are typed; an exception among them is raised."""
    feed = iter(lines)

    def read(prompt):
        line = next(feed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    stdin = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(stdin, "isatty", lambda: typed, raising=False)


def test_ctrl_c_stops_an_answer_and_an_error_stops_nothing(monkeypatch, capsys):
    listener = Listener()
    keyboard(monkeypatch, "one", "  ", "interrupt", "too long", "two")
    talk(listener)  # leaves at the end of the lines, which is Ctrl-D
    assert listener.heard == ["one", "interrupt", "too long", "two"]
    captured = capsys.readouterr()
    assert "error: the prompt is too long" in captured.err and "each prompt stands alone" in captured.err
    assert captured.out.count("an answer\n") == 3


def test_ctrl_c_at_the_prompt_leaves(monkeypatch):
    keyboard(monkeypatch, "one", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        talk(Listener())


@pytest.mark.parametrize(("line", "error"), [("too long", InputError), ("interrupt", KeyboardInterrupt)])
def test_where_nobody_types_the_first_error_ends_it(monkeypatch, line, error):
    keyboard(monkeypatch, line, "two", typed=False)
    with pytest.raises(error):
        talk(Listener())


def command(*flags, **options):
    """`python -m maple.chat` in a process of its own."""
    words = [sys.executable, "-m", "maple.chat", "--max-tokens", "5", *map(str, flags)]
    return subprocess.run(words, capture_output=True, timeout=300, **options)


def test_each_line_of_a_pipe_is_a_prompt(stories):
    done = command("--model", stories, input=b"Once upon a time\n\nLily\xff was\nOne day")
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert len(done.stdout.decode().splitlines()) == 3 and done.stdout.startswith(b", there was")
    assert b"> " not in done.stdout and b"Ctrl" not in done.stderr


def test_a_terminal_is_left_by_ctrl_d(stories):
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "maple.chat", "--model", stories, "--max-tokens", "5"]
    child = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: os.login_tty(0))
    os.close(theirs)
    read_until(ours, b"> ")
    os.write(ours, b"Once upon a time\n")
    assert b", there was" in read_until(ours, b"> ")
    os.write(ours, b"\x04")
    assert child.wait(timeout=300) == 0
    os.close(ours)


def read_until(terminal, words):
    seen = b""
    while words not in seen:
        seen += os.read(terminal, 1000)
    return seen


def test_a_reader_that_leaves_early_is_no_error(stories):
    words = f"{sys.executable} -m maple.chat --model {stories} --prompt Once --max-tokens 200 | head -c 1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, timeout=300)
    assert done.stdout and b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


# ------------------------------------------------------------------------------------------------- refused


def copied(stories, folder):
    shutil.copytree(stories, folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    return folder


def nameless(adapter):
    """As peft writes it: no metadata of ours."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    (adapter / "SHA256SUMS").unlink()


def without(name):
    return lambda at: (at.model / name).unlink()


def no_eos(at):
    (at.model / "generation_config.json").write_text('{"eos_token_id": "x"}')


REFUSED = [
    (no_eos, "--model MODEL --prompt x", "generation_config.json: eos_token_id is 'x'; a token id"),
    (None, "", "give --model, or an --adapter that names its base"),
    (None, "--model MODEL --temperature -1", "--temperature is -1.0, must be at least 0"),
    (None, "--model MODEL --temperature nan", "--temperature is nan"),
    (None, "--model MODEL --max-tokens 0", "--max-tokens is 0, must be at least 1"),
    (None, "--model MODEL --seed -1", "--seed is -1"),
    (None, "--model MODEL --bits 5", "--bits is 5, expected one of 4, 8, 16"),
    (
        None,
        "--model MODEL --template llama",
        "--template is llama, expected one of 'alpaca', 'bactrian', 'chat', 'plain'",
    ),
    (None, "--model MODEL --adaptor x", "unknown flag --adaptor; did you mean '--adapter'?"),
    (None, "--model MODEL --prompt=", "--prompt is empty"),
    (None, "--model MODEL --prompt \udcff", "--prompt is not UTF-8 (character 0)"),
    (None, "--model ./nowhere --prompt x", "--model ./nowhere: there is no such folder"),
    (None, "--model MODEL --adapter ./nowhere", "--adapter ./nowhere: there is no such folder"),
    (None, "--model MODEL --adapter MODEL", "has no adapter_config.json, so it holds no adapter"),
    (None, "--model OTHER --adapter ADAPTER", "is for the base MODEL, --model is OTHER"),
    (None, "--model SAME/model --adapter ADAPTER --prompt x", "is the adapter for another base?"),
    (None, "--model MODEL --prompt x --template chat", "this tokenizer has no chat template; use --template alpaca"),
    (None, f"--model MODEL --prompt {'x' * 600}", "leaves no room in the model's window of 512"),
    (
        nameless,
        "--adapter ADAPTER --prompt x",
        "does not say which prompt template it was trained with; give --template",
    ),
    (without("tokenizer.model"), "--model MODEL --prompt x", "neither tokenizer.json nor tokenizer.model is there"),
    (without("model.safetensors"), "--model MODEL --prompt x", "neither model.safetensors nor"),
    (without("config.json"), "--model MODEL --prompt x", "has no config.json"),
]


@pytest.mark.parametrize(("harm", "flags", "words"), REFUSED, ids=[words[:40] for _, _, words in REFUSED])
def test_wrong_input_is_one_sentence_and_exit_code_2(stories, tmp_path, capsys, monkeypatch, harm, flags, words):
    monkeypatch.chdir(tmp_path)
    at = SimpleNamespace(model=copied(stories, tmp_path / "model"), adapter=tmp_path / "adapter")
    if "ADAPTER" in flags:
        make_adapter(at.model, at.adapter)
    if harm:
        harm(at.adapter if harm is nameless else at)
    saved(tmp_path / "OTHER", vocab_size=512)
    shutil.copytree(tmp_path / "OTHER", tmp_path / "SAME" / "model")
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copyfile(stories / name, tmp_path / "SAME" / "model" / name)
    names = {"MODEL": str(at.model), "ADAPTER": str(at.adapter)}
    for name, path in names.items():
        flags, words = flags.replace(name, path), words.replace(name, path)
    with pytest.raises(SystemExit) as leaving:
        cli.main(chat, flags.split())
    captured = capsys.readouterr()
    assert leaving.value.code == 2 and captured.out == ""
    assert words in captured.err and captured.err.splitlines()[-1].startswith("error: ")


def test_a_merged_or_chat_model_whose_template_is_gone(stories, tmp_path):
    folder = copied(stories, tmp_path / "model")
    edit(folder / "config.json", lambda c: c.update(maple={"template": "chat"}))
    with pytest.raises(InputError, match="this tokenizer has no chat template"):
        chat(model=str(folder), prompt="x")


def test_a_closed_input(stories):
    done = command("--model", stories, preexec_fn=lambda: os.close(0))
    assert done.returncode == 2 and done.stderr == b"error: there is no input to read prompts from; give --prompt\n"


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--help"], 0, "--max-tokens"),
        (["--max-tokens", "0"], 2, "--max-tokens is 0"),
        (["--model", "./nowhere"], 2, "no such folder"),
        (["--adapter", "./nowhere"], 2, "no such folder"),
        (["--adapter", "ADAPTER", "--model", "./nowhere"], 2, "no such folder"),
    ],
)
def test_it_answers_without_importing_torch(adapter, argv, code, words):
    argv = [str(adapter) if word == "ADAPTER" else word for word in argv]
    script = textwrap.dedent(f"""
        import sys
        from maple import cli
        from maple.chat import chat
        try:
            cli.main(chat, {json.dumps(argv)})
        except SystemExit as leaving:
            print("CODE", leaving.code, [m for m in ("torch", "transformers", "lightning") if m in sys.modules])
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert f"CODE {code} []" in done.stdout and words in (done.stderr if code else done.stdout)
