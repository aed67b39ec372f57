"""Batched generation beside transformers' own, one prompt at a time."""

import numpy as np
import pytest
import torch

import maple
from maple import decoding
from maple.decoding import Decoder, Text, choose, generate
from maple.errors import InputError
from maple.graphs import Graphs, length_bucket, power_of_two
from tests.maple.test_likelihood import FAMILIES, loaded

LENGTHS = [7, 1, 40, 13, 2, 25, 7, 3]


@pytest.fixture
def prompts():
    return [torch.randint(99, (length,)).tolist() for length in LENGTHS]


@torch.no_grad()
def theirs(model, prompt, count, stop=None):
    ids = torch.tensor([prompt])
    settings = {"do_sample": False, "pad_token_id": 0, "eos_token_id": stop}
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, **settings)[
        0, len(prompt) :
    ].tolist()


# ------------------------------------------------------------------------------------------------- the tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(tmp_path, prompts, family):
    """In float64, where no two logits are as near as rounding; windows of 5 tokens are full soon."""
    model = loaded(tmp_path, family)
    expected = [theirs(model, prompt, 20) for prompt in prompts]
    for batch_size in (1, 3, 8):
        assert generate(model, prompts, 20, batch_size=batch_size) == expected


@pytest.mark.parametrize("bits", [4, 16])
def test_greedy_tokens_in_float32(stories, bits):
    """A trained model is surer of its tokens than rounding is large."""
    model = maple.load_model(stories.as_posix(), bits=bits, rank=0)
    prompts = [[1], [1, 403, 407], [1, 261, 378, 432, 286], [1] * 9]
    expected = [theirs(model, prompt, 40, stop=[2]) for prompt in prompts]
    assert generate(model, prompts, 40, stop={2}, batch_size=3) == expected


def test_texts_end_at_stop_ids_and_others_take_their_rows(tmp_path, prompts):
    model = loaded(tmp_path)
    full = generate(model, prompts, 30)
    stop = {text[i % 9] for i, text in enumerate(full)}
    expected = [theirs(model, prompt, 30, stop=sorted(stop)) for prompt in prompts]
    assert any(len(text) < 30 for text in expected)
    for batch_size in (1, 2, 3, 8):
        assert generate(model, prompts, 30, stop=stop, batch_size=batch_size) == expected


def test_prompts_read_in_small_pieces(tmp_path, prompts, monkeypatch):
    model = loaded(tmp_path, "mistral")
    expected = generate(model, prompts, 8)
    for tokens in (1, 5, 16, 30):
        monkeypatch.setattr(decoding, "PREFILL", tokens)
        seen = []
        hook = model.base_model.register_forward_pre_hook(
            lambda _, __, given, seen=seen: seen.append(given["input_ids"].shape), with_kwargs=True
        )
        assert generate(model, prompts, 8, batch_size=4) == expected
        hook.remove()
        assert all(rows * length <= max(tokens, rows) for rows, length in seen)


def test_a_finished_text_leaves_the_batch(tmp_path, prompts):
    model, sizes = loaded(tmp_path), []
    full = generate(model, prompts, 20)
    stop = {full[0][3]}
    model.base_model.register_forward_pre_hook(
        lambda _, __, given: sizes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    made = generate(model, prompts, 20, stop=stop, batch_size=len(prompts))
    steps = [rows for rows, length in sizes if length == 1]
    assert len(made[0]) <= 4 and steps == sorted(steps, reverse=True) and steps[-1] < len(prompts)
    assert sum(steps) == sum(len(text) - 1 for text in made)  # no row without a text


@torch.no_grad()
def test_only_the_last_position_of_a_prompt_becomes_logits(tmp_path, prompts):
    model = loaded(tmp_path)
    assert Decoder(model, 8, 50).prefill(0, prompts).shape == (8, 99)


def test_tokens_are_handed_on_as_they_come(tmp_path, prompts):
    model, heard = loaded(tmp_path), [[] for _ in prompts]
    assert generate(model, prompts, 9, batch_size=3, on_token=lambda i, token: heard[i].append(token)) == heard


def test_transformers_own_generate_still_takes_a_batch(tmp_path):
    model = loaded(tmp_path)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    batch = model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0, eos_token_id=None)[:, 3:].tolist()
    assert generate(model, ids.tolist(), 10) == batch


# ------------------------------------------------------------------------------------------------- the window


def test_no_token_at_all_is_nothing_to_ask_for(tmp_path):
    with pytest.raises(InputError, match="max_new_tokens is 0; at least 1 is needed"):
        generate(loaded(tmp_path), [[1]], 0)


def test_a_text_ends_where_the_window_does(tmp_path):
    made = generate(loaded(tmp_path), [[1] * 120, [1] * 127, [2]], 50)
    assert list(map(len, made)) == [8, 1, 50]


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ([1] * 128, "prompt 1 takes 128 tokens, which leaves no room in the model's window of 128"),
        ([], "prompt 1 has no token"),
        ([99], "id 99, the model's embedding has 99 rows"),
    ],
)
def test_a_prompt_that_does_not_fit(tmp_path, prompt, words):
    with pytest.raises(InputError, match=words):
        generate(loaded(tmp_path), [[1], prompt], 5)


def test_a_decoder_is_used_again_and_has_only_so_much_room(tmp_path, prompts):
    decoder = Decoder(loaded(tmp_path), 3, 45)
    first, again = (decoder.generate(prompts, 30) for _ in range(2))
    assert first == again and list(map(len, first)) == [min(30, 45 - length) for length in LENGTHS]
    with pytest.raises(InputError, match="prompt 0 takes 45 tokens, which leaves no room in a cache of 45"):
        decoder.generate([[1] * 45], 5)


def test_no_prompts_no_texts(tmp_path):
    assert generate(loaded(tmp_path), [], 5) == []


# ------------------------------------------------------------------------------------------------- sampling


def test_a_sample_depends_on_its_seed_and_place_and_not_on_the_batch(tmp_path, prompts):
    model = loaded(tmp_path)
    samples = [generate(model, prompts, 12, temperature=1.0, seed=5, batch_size=size) for size in (1, 3, 8)]
    assert samples[0] == samples[1] == samples[2]
    assert samples[0] != generate(model, prompts, 12, temperature=1.0, seed=6)
    same = generate(model, [prompts[0]] * 2, 12, temperature=1.0, seed=5)
    assert same[0] == samples[0][0] != same[1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature):
    torch.manual_seed(0)
    logits, draws = torch.randn(7), 20_000
    logits[2] = -torch.inf
    texts = [Text(i, [], 1, np.random.default_rng([1, i])) for i in range(draws)]
    counts = np.bincount(choose(logits.expand(draws, -1), texts, temperature), minlength=7)
    expected = (logits.double() / temperature).softmax(0).numpy() * draws
    assert counts[2] == 0
    likely = expected > 0
    # chi-squared of 5 degrees of freedom: above 25.7 once in 10,000
    assert ((counts - expected)[likely] ** 2 / expected[likely]).sum() < 25.7


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-5])
def test_a_low_temperature_takes_the_likeliest(temperature):
    logits = torch.randn(50, 300) * 50
    texts = [Text(i, [], 1, np.random.default_rng(i)) for i in range(50)]
    assert choose(logits, texts, temperature) == choose(logits, texts, 0.0)


# ------------------------------------------------------------------------------------------------- the step


@torch.no_grad()
def test_slots_beyond_a_text_and_rows_of_others_are_not_seen(tmp_path):
    model = loaded(tmp_path)
    decoder = Decoder(model, 4, 40)
    expected = decoder.prefill(1, [[1, 2, 3]])
    others, beyond = torch.tensor([0, 2, 3]), torch.arange(3, 40)
    for tensor in (tensor for layer in decoder.cache.layers for tensor in layer):
        tensor.index_fill_(0, others, 1e9).index_fill_(2, beyond, 1e9)
    torch.testing.assert_close(decoder.prefill(1, [[1, 2, 3]]), expected)
    decoder.cache.move(1, 0)
    alone = model(torch.tensor([[1, 2, 3, 4]])).logits[0, -1]
    torch.testing.assert_close(decoder.advance([4], [3])[0], alone)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_has_fixed_shapes_and_waits_for_nothing(tmp_path, family):
    """One graph without a break is what a compiler makes only of code that asks no tensor for its value."""
    model = loaded(tmp_path, family, bits=4)
    decoder = Decoder(model, 4, 40)
    decoder.prefill(0, [[1, 2, 3], [4], [5, 6]])
    decoder.inputs[:] = torch.tensor([[7, 8, 9, 0], [3, 1, 2, 0]])
    expected = decoder.step(4, 16)
    torch.testing.assert_close(decoder.step(4, 16), expected)  # writes the same again
    torch._dynamo.reset()
    compiled = torch.compile(decoder.step, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(4, 16), expected)
    decoder.inputs[:] = torch.tensor([[1, 2, 3, 4], [4, 2, 3, 1]])
    with torch._dynamo.config.patch(error_on_recompile=True):  # other texts, the same code
        torch.testing.assert_close(compiled(4, 16), decoder.step(4, 16))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_step_touches_nothing_on_the_cpu(tmp_path, family, bits):
    """On a device without values another device's tensor is an error, and so is asking for a value, as in a capture."""
    decoder = Decoder(loaded(tmp_path, family, bits).to("meta"), 4, 64)
    logits = decoder.step(3, 32)
    assert logits.is_meta and logits.shape == (3, 99)
    decoder.inputs = torch.zeros(2, 4, dtype=torch.long)
    with pytest.raises(RuntimeError, match="device"):
        decoder.step(3, 32)


class Played(Graphs):
    """Graphs without a GPU: a replay runs the captured bucket and leaves the result where the capture left it."""

    def capture(self, step, rows, length):
        result = torch.full_like(step(rows, length), torch.nan)
        return lambda: result.copy_(step(rows, length)), result


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_steps_in_buckets_give_the_same_texts(tmp_path, prompts, family, monkeypatch):
    model, runs = loaded(tmp_path, family), []
    full = generate(model, prompts, 30)
    stop = {text[i % 9 + 2] for i, text in enumerate(full)}
    expected = generate(model, prompts, 30, stop=stop)

    class Bucketed(Decoder):
        def __init__(self, model, rows, length):
            super().__init__(model, rows, length)
            self.graphs = Played(rows, length)
            runs.append(self.graphs)

    monkeypatch.setattr(decoding, "Decoder", Bucketed)
    for batch_size in (1, 3, 7):
        assert generate(model, prompts, 30, stop=stop, batch_size=batch_size) == expected
    assert {rows for rows, _ in runs[-1].captured} <= {1, 2, 4, 7}
    assert {length for _, length in runs[-1].captured} <= {64, 70}


def test_buckets():
    assert [power_of_two(rows) for rows in (1, 2, 3, 5, 16, 17)] == [1, 2, 4, 8, 16, 32]
    lengths = [length_bucket(length) for length in (1, 64, 65, 81, 129, 1000, 1025, 4096)]
    assert lengths == [64, 64, 80, 96, 160, 1024, 1280, 4096]
    assert all(length <= length_bucket(length) <= max(64, 1.25 * length) for length in range(1, 5000))


def test_a_capture_warms_up_on_its_stream_and_returns_what_a_replay_fills(monkeypatch):
    """The calls of a GPU, played: their order is all that can be seen here."""
    log = []

    def noted(name, result=None):
        return lambda *args, **kwargs: (log.append(name), result)[1]

    class Context:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            log.append(f"{self.name} {{")

        def __exit__(self, *_):
            log.append("}")

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

    side, current = Context("side"), Context("current")
    played = {
        "Stream": noted("new stream", side),
        "current_stream": lambda: current,
        "stream": lambda stream: stream,
        "graph_pool_handle": noted("new pool", "pool"),
        "CUDAGraph": lambda: type("Graph", (), {"replay": noted("replay")})(),
        "graph": lambda graph, pool, stream: Context(f"capture in {pool} on {stream.name}"),
    }
    for name, function in played.items():
        monkeypatch.setattr(torch.cuda, name, function)

    def step(rows, length):
        log.append(f"step {rows} {length}")
        return rows, length

    graphs = Graphs(6, 1000)
    assert graphs.run(step, 3, 70) == graphs.run(step, 4, 80) == (4, 80)
    warm = ["side {", "step 4 80", "step 4 80", "}"]
    first = ["side waits for current", *warm, "current waits for side", "capture in pool on side {", "step 4 80", "}"]
    assert log == ["new stream", "new pool", *first, "replay", "replay"]
    assert graphs.run(step, 5, 999) == (6, 1000)
    assert "new stream" not in log[len(first) + 4 :]
