"""Nothing that maple reads can run code: no call in the tree that could, and a folder full of traps that stay shut."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import maple
from maple.data.prompts import prompt_ids
from maple.errors import InputError
from maple.merged import write_tokenizer
from maple.origin import Origin
from maple.tokenizer import load_tokenizer
from tests.maple.test_model import edit

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("maple", "kernels", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

MODULES = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "imp"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {"os.system", "os.popen", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "yaml.load_all", "runpy.run_path"}
LOADS = {"torch.load": "weights_only", "np.load": None, "numpy.load": None, "pandas.read_pickle": None}


def dotted(node) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def dangers(tree):
    """(line, what) of each call or import that could run what it reads."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((node.lineno, name) for name in names if name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        name, given = dotted(node.func), {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        careful = name in LOADS and given.get(LOADS[name]) is True
        if name in NAMES | CALLS or (name in LOADS and not careful) or given.get("shell") or given.get("allow_pickle"):
            yield node.lineno, name
        elif given.get("trust_remote_code", False) is not False:
            yield node.lineno, "trust_remote_code"
        elif name.startswith("Auto") and "trust_remote_code" not in given:  # its default asks on the terminal
            yield node.lineno, name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_call_could_run_what_it_reads(path):
    assert list(dangers(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_the_search_finds_what_it_is_for():
    wrong = [
        *("import pickle", "from dill import loads", "eval('1')", "torch.load(f)", "torch.load(f, weights_only=False)"),
        *("yaml.load(f, Loader=yaml.Loader)", "np.load(f, allow_pickle=True)", "subprocess.run('ls', shell=True)"),
        *("AutoModel.from_pretrained(x)", "AutoModel.from_pretrained(x, trust_remote_code=True)", "os.system(x)"),
    ]
    for line in wrong:
        assert list(dangers(ast.parse(line))), line
    for line in ("model.eval()", "torch.compile(f)", "torch.load(f, weights_only=True)", "yaml.safe_load(f)"):
        assert not list(dangers(ast.parse(line))), line


# ------------------------------------------------------------------------------------------------- traps


class Trap:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


@pytest.fixture
def trapped(stories, tmp_path):
    """A real model and tokenizer in a folder with pickles and code, each of which would leave a canary."""
    folder, canary = tmp_path / "model", tmp_path / "canary"
    shutil.copytree(stories, folder)
    pickled = pickle.dumps(Trap(canary))
    pickle.loads(pickled)
    assert canary.exists()  # the trap works
    canary.unlink()
    code = f"open({str(canary)!r}, 'w')\nclass X: pass\ndef generate(*_, **__): pass\n"
    for name in ("pytorch_model.bin", "training_args.bin", "model.pkl", "optimizer.pt", "data.npy", "rng_state.pth"):
        (folder / name).write_bytes(pickled)
    (folder / "custom_generate").mkdir()
    names = ("modeling_x", "configuration_x", "tokenization_x", "__init__", "custom_generate/generate", "conftest")
    for name in (*names, "transformers", "torch", "sitecustomize"):
        (folder / f"{name}.py").write_text(code)
    return folder, canary


def use(folder):
    """All that maple does with a model folder: read, load, tokenise, prompt, generate, adapt."""
    tokenizer = load_tokenizer(folder)
    model = maple.load_model(folder.as_posix(), bits=4, rank=2)
    ids = prompt_ids("chat" if tokenizer.chat_template else "alpaca", ["Hello"], tokenizer)
    model.generate(torch.tensor([ids]), max_new_tokens=2, do_sample=False, pad_token_id=0)
    maple.save_adapter(model, folder / "adapter")
    (folder / "adapter" / "adapter_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes())
    maple.load_adapter(model, folder / "adapter")


def test_pickles_and_code_in_a_model_folder_stay_shut(trapped, monkeypatch):
    folder, canary = trapped
    use(folder)
    monkeypatch.chdir(folder)  # where a module of any name lies in the way
    use(folder)
    assert not canary.exists()


def test_a_merged_model_gets_the_tokenizer_without_its_code(trapped, tmp_path):
    folder, _ = trapped
    for name in ("tokenizer.py", "tokenizer_x.so", "vocab.pkl"):
        (folder / name).write_text("x")
    (tmp_path / "merged").mkdir()
    write_tokenizer(load_tokenizer(folder), Origin(str(folder), folder), tmp_path / "merged")
    copied = {path.name for path in (tmp_path / "merged").iterdir()}
    assert "tokenizer.json" in copied or "tokenizer.model" in copied
    assert not [name for name in copied if Path(name).suffix not in (".json", ".model", ".txt", ".jinja")]


def refused_or_ignored(folder):
    try:
        use(folder)
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def auto_map(**classes):
    return lambda content: content.update(auto_map=classes)


SETTINGS = [
    ("config.json", auto_map(AutoConfig="configuration_x.X", AutoModelForCausalLM="modeling_x.X"), "maple never runs"),
    ("tokenizer_config.json", auto_map(AutoTokenizer=["tokenization_x.X", None]), ""),
    ("tokenizer_config.json", lambda c: c.update(tokenizer_class="X", auto_map={"AutoTokenizer": ["t.X", "t.X"]}), ""),
    ("config.json", lambda c: c.update(attn_implementation="kernels-community/x", use_kernels=True), ""),
    ("generation_config.json", lambda c: c.update(custom_generate="./custom_generate", trust_remote_code=True), ""),
    ("generation_config.json", lambda c: c.update(penalty_alpha=0.6, top_k=4), ""),  # a mode whose code is on the hub
    ("generation_config.json", lambda c: c.update(stop_strings=["a"], cache_implementation="quantized"), ""),
]


@pytest.mark.parametrize(("file", "change", "words"), SETTINGS, ids=[str(n) for n in range(len(SETTINGS))])
def test_settings_that_name_code_do_not_reach_it(trapped, file, change, words):
    folder, canary = trapped
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    edit(folder / file, change)
    found = refused_or_ignored(folder)
    assert words in found and not canary.exists()


TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{{ self._TemplateReference__context.eval_ctx.environment }}",
    "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
    "{{ messages.append(1) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{{ 10 ** (10 ** 8) }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_reaches_nothing_and_ends(trapped, template):
    folder, canary = trapped
    (folder / "chat_template.jinja").write_text(template.replace("CANARY", str(canary)))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat_template
    with pytest.raises(InputError, match="the tokenizer's template fails"):
        prompt_ids("chat", ["Hello"], tokenizer)
    assert not canary.exists()


def test_the_token_cache_is_arrow_and_json(trapped, tmp_path, monkeypatch):
    """What lies in ~/.cache is read by datasets.load_from_disk: a pickle in its place is an error, not an object."""
    from datasets import Dataset, load_from_disk

    folder, canary = trapped
    Dataset.from_dict({"a": [1]}).save_to_disk(tmp_path / "cache")
    assert json.loads((tmp_path / "cache" / "state.json").read_text())
    for name in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
        kept = (tmp_path / "cache" / name).read_bytes()
        (tmp_path / "cache" / name).write_bytes((folder / "model.pkl").read_bytes())
        with pytest.raises(Exception):  # noqa: B017 - whichever Arrow has for it
            load_from_disk(tmp_path / "cache")
        (tmp_path / "cache" / name).write_bytes(kept)
    assert not canary.exists()
