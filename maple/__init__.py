"""LoRA on 4-, 8- and 16-bit language models, and what each choice costs and buys per language.

    model = maple.load_model("mistralai/Mistral-7B-v0.1", bits=4, rank=32)
    maple.save_adapter(model, folder)
    maple.load_adapter(model, folder)

Nothing heavy is imported until one of the names is used (PEP 562), so that `--help` and errors answer at once.
"""

__version__ = "0.1.0"
_HOMES = {"load_model": "maple.model", "save_adapter": "maple.adapter", "load_adapter": "maple.adapter"}


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'maple' has no attribute {name!r}")
    import importlib

    from maple.errors import refuse_kernels_distribution

    refuse_kernels_distribution()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted([*globals(), *_HOMES])
