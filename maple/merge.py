"""Merge an adapter into its base: a new folder with a plain 16-bit model.

    python -m maple.merge --adapter runs/0001/adapter --out merged

    W' = round16(dequantise(W) + scaling * B A)        W as packed in training, all in float32, rounded once

The base counts as it was in training: an adapter that was trained on 4 bits has learned to make up for their errors, so
it belongs to the dequantised 4-bit weights and not to those of the checkpoint. And W' stays in 16 bits: packed into 4
again, the rounding would be larger than much of what was learned.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from maple import cli
from maple.durable import whole_folder
from maple.errors import InputError
from maple.origin import Origin, check_adapter, find_origin
from maple.outputs import check_out
from maple.terminal import without_controls

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def merge(adapter: str, out: str, model: str | None = None) -> None:
    """Merge an adapter into its base, as it was packed in training, to a new 16-bit model for plain transformers.

    adapter: folder of an adapter, ours or PEFT's
    out: new folder for the merged model: weights, tokenizer, chat template, EOS
    model: the base, tiny, a folder or a hub id; may be left away where the adapter names it
    """
    check_out(out)
    origin = find_origin(model, adapter)
    folder = Path(os.path.expanduser(out)).resolve()
    check_target(folder, out, {"--adapter": check_adapter(adapter), "--model": origin.folder})
    run(origin, adapter, folder)


def check_target(folder: Path, out: str, sources: dict[str, Path]) -> None:
    """Refuse a folder inside what is merged, and one that a finished folder could not take the place of."""
    for flag, source in sources.items():
        if folder.is_relative_to(source.resolve()):
            raise InputError(f"--out {out} is inside the folder of {flag}; give another place")
    fixed = folder.is_mount() or folder == Path.cwd() or not os.access(folder.parent, os.W_OK)
    if folder.exists() and fixed:
        raise InputError(f"--out {out} is there already and cannot be replaced; give a new folder inside it")


def run(origin: Origin, adapter: str, out: Path) -> None:
    """Load, merge, write, load what was written, and say how far it is from base and adapter."""
    import transformers
    from rich.console import Console

    from maple import drift
    from maple.adapter import load_adapter
    from maple.lora import base_bytes
    from maple.merged import write_merged
    from maple.model import check_config, load_model, read_config
    from maple.tokenizer import load_tokenizer

    transformers.logging.set_verbosity_error()
    check_config(origin.folder, origin.base_bits)
    config, tokenizer = read_config(origin.folder), load_tokenizer(origin.folder)
    prompts = drift.prompts(origin.template or "plain", tokenizer, config.max_position_embeddings, config.vocab_size)
    model = load_model(**origin.load_arguments(origin.base_bits), rank=0)
    frozen = base_bytes(model)
    before = drift.logits(model, prompts)
    load_adapter(model, adapter)
    adapted = drift.logits(model, prompts)
    drifts = {"by the adapter": drift.compare(before, adapted)}
    del before
    with whole_folder(out) as partial:
        served = write_merged(model, tokenizer, origin, adapter, partial)
        del model  # there may be room for one of the two only
        merged = load_model(partial.as_posix(), bits=16, rank=0)
        drifts["by merging"] = drift.compare(adapted, drift.logits(merged, prompts))
    Console().print(drift.table(drifts, sum(len(some) for some in adapted)))
    show_end(origin, frozen, merged, served, out)


def show_end(origin: Origin, frozen: int, merged: PreTrainedModel, served: bool, out: Path) -> None:
    """What made the logits move, what the folder holds, and how it wants to be asked."""
    dtype = str(merged.config.dtype).removeprefix("torch.")
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    trained = "as the adapter was trained on" if origin.bits else "as stored, since the adapter does not say its own"
    print(f"By merging: each weight is rounded once to {dtype}. The base counts in {origin.base_bits} bits, {trained}.")
    sizes = f"{size / 1e6:,.1f} MB in {dtype}, of a base that took {frozen / 1e6:,.1f} MB in {origin.base_bits} bits"
    print(f"Merged: {without_controls(str(out))}, {sizes}.")
    print("It stays in 16 bits: packed into 4 again, it would lose part of what was learned.")
    if origin.template is None:
        print("The adapter does not name its prompt template; the tokenizer's chat template is that of the base.")
    elif served:
        print(f"Its chat template is {origin.template}, as in training.")
    else:
        print(f"It answers to the template {origin.template}, which its tokenizer cannot write as a chat template.")


if __name__ == "__main__":
    cli.main(merge)
