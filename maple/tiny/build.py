"""Make the embedded base: its tokenizer, then its pre-training on the plain text of the world.

    python -m maple.tiny.build --out maple/tiny/base

The same command on the same machine and versions gives the same bytes, but for the seconds in `build.log`. It leaves a
folder in Hugging Face's layout, with that log: the loss on the way, and how well the base copies from its context.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maple import cli
from maple.data.prompts import TEMPLATES
from maple.outputs import check_out, create_out
from maple.tiny.language import Language, language
from maple.tiny.text import SHARES, document, documents
from maple.tiny.world import KINDS, VALIDATION_PEOPLE, draw_scene

if TYPE_CHECKING:
    from torch import Tensor

    from maple.data.packing import Batch

VOCABULARY = 3072  # of it 256 bytes; a word of every language is one to three pieces
WITHOUT_SPACES = ("zh", "th")
BOUNDARY = "\x1f"  # no piece crosses it
TOKENIZER_DOCUMENTS = 700  # of each language alike: the share of a language shall not decide how its words are cut

# A Llama of 1.2 M parameters. Smaller and longer trained beats larger: what counts is that it has learnt to copy a word
# from its context (an induction head), which comes late and abruptly. All widths are multiples of NF4's block of 64.
ARCHITECTURE = {
    **{"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
}
ROW, ROWS = 384, 5  # tokens of a row, rows of a step; documents have 20 to 350 tokens
AT_ONCE = 1024  # documents packed together
LEARNING_RATE, WARMUP = 6e-3, 200
FINAL_LR = 0.02  # of the peak, at the end of the half cosine
LOG_EVERY, PROBE_EVERY = 200, 1000  # steps
PROBES = 40  # questions a language


def build(out: str, steps: int = 9000, seed: int = 0) -> None:
    """Train the tokenizer and the base of the embedded world.

    out: folder to write, which must be empty or absent
    steps: of pre-training, 1,920 tokens each, padding included
    seed: of the weights and the text
    """
    check_out(out)
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)  # sums depend on how many threads share them, and so do the bytes
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    folder = create_out(out)
    train_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    with (folder / "build.log").open("w", encoding="utf-8") as log:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=log, flush=True)

        model = pretrain(tokenizer, steps, seed, say)
        model.to(torch.bfloat16).save_pretrained(folder)
        model.float()
        say(f"as stored, in bfloat16: {copy_report(model, tokenizer)}")


def train_tokenizer(folder: Path) -> None:
    """BPE with byte fallback (sentencepiece), on as much text of every language of the base.

    Where words are not set apart by spaces, a boundary is drawn around each name and value: BPE would else merge them
    with their neighbours, and a word that is to be copied would be cut differently each time. The fixed phrases of the
    prompt templates are one piece each: they are a fifth of the tokens so, and prompts here are short.
    """
    import sentencepiece

    rng = random.Random(0)
    marked = {code: Language(code, BOUNDARY if code in WITHOUT_SPACES else "") for code in SHARES}
    text = [document(rng, lang) for lang in marked.values() for _ in range(TOKENIZER_DOCUMENTS)]
    # the words of the instructions too, which the base does not read
    text += [f"{lang.in_a_sentence('')} {lang.repeat}" for lang in marked.values()] * (TOKENIZER_DOCUMENTS // 10)
    phrases = {
        part for pair in TEMPLATES.values() for template in pair for part in re.split(r"{\w+}", template) if part
    }
    with (folder / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text),
            model_writer=file,
            model_type="bpe",
            vocab_size=VOCABULARY,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            pretokenization_delimiter=BOUNDARY,
            user_defined_symbols=["\n", *sorted(phrases, key=len, reverse=True)],
            **{"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1},
            max_sentence_length=20_000,
            num_threads=1,
            minloglevel=2,
        )
    config = {
        "tokenizer_class": "LlamaTokenizer",
        **{"add_bos_token": True, "add_eos_token": False, "legacy": False, "clean_up_tokenization_spaces": False},
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        "model_max_length": ARCHITECTURE["max_position_embeddings"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def pretrain(tokenizer, steps: int, seed: int, say):
    """A Llama trained on the plain text, in float32."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import LlamaConfig, LlamaForCausalLM

    from maple.data.packing import IGNORED

    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **ids, **ARCHITECTURE)
    model = LlamaForCausalLM(config)
    say(f"{model.num_parameters():,} parameters; {steps:,} steps of {ROW * ROWS:,} tokens")
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr_factor(step, steps))
    start, total = time.perf_counter(), 0.0
    for step, batch in enumerate(islice(batches(tokenizer, seed), steps), start=1):
        logits = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        total += loss.item()
        if step % LOG_EVERY == 0:
            say(f"step {step:6}  loss {total / LOG_EVERY:.4f}  {time.perf_counter() - start:5.0f} s")
            total = 0.0
        if step % PROBE_EVERY == 0:
            say(copy_report(model, tokenizer))
    return model


def _lr_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a half cosine."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    progress = (step - WARMUP) / max(steps - WARMUP, 1)
    return FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * progress))


def batches(tokenizer, seed: int) -> Iterator[Batch]:
    """Endless batches of packed documents, each between BOS and EOS and none seeing another."""
    from maple.data.packing import collate, pack

    texts = documents(seed)
    while True:
        encoded = tokenizer([text for _, text in islice(texts, AT_ONCE)])["input_ids"]
        samples = [(np.array([*ids, tokenizer.eos_token_id]), 0) for ids in encoded]
        rows = [[samples[i] for i in row] for row in pack([len(ids) - 1 for ids, _ in samples], ROW)]
        for first in range(0, len(rows) - ROWS + 1, ROWS):
            yield collate(rows[first : first + ROWS], ROW, tokenizer.eos_token_id)


def copy_report(model, tokenizer) -> str:
    """One line: how well each language copies."""
    shares = {code: copy_accuracy(model, tokenizer, language(code), PROBES) for code in SHARES}
    return "  percent copied: " + " ".join(f"{code} {100 * share:.0f}" for code, share in shares.items())


def copy_accuracy(model, tokenizer, lang: Language, probes: int) -> float:
    """Share of questions, each after a passage that tells the fact, of which the base finds the right answer likeliest.

    The choices are all values of the kind, 7 to 16 of them. The people and facts are those of validation: none of them
    stands so in the plain text.
    """
    rng, right = random.Random(0), 0
    for _ in range(probes):
        facts = draw_scene(rng, VALIDATION_PEOPLE, kinds=2, in_text=False)
        asked = rng.choice(facts)
        passage = "\n".join([*(lang.statements(fact)[0] for fact in facts), lang.question(asked)]) + "\n"
        values = VALIDATION_PEOPLE if asked.kind == "friend" else range(KINDS[asked.kind])
        answers = [lang.answer(replace(asked, value=value)) for value in values]
        scores = log_likelihoods(model, tokenizer, passage, answers)
        right += values[int(scores.argmax())] == asked.value
    return right / probes


def log_likelihoods(model, tokenizer, passage: str, answers: list[str]) -> Tensor:
    """log p(answer | passage) of each answer, [answers]."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    given = len(tokenizer(passage)["input_ids"])
    texts = [torch.tensor(tokenizer(passage + answer)["input_ids"]) for answer in answers]
    ids = pad_sequence(texts, batch_first=True)
    labels = pad_sequence(texts, batch_first=True, padding_value=-100)[:, given:]
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[:, given - 1 : -1]
    return -cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(dim=1)


if __name__ == "__main__":
    cli.main(build)
