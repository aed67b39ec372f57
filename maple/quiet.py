"""What the libraries say of themselves, switched off."""

import logging
import sys
import warnings

import datasets
import huggingface_hub
import transformers


def quieten() -> None:
    """Lightning's and transformers' greetings and advertisements; their errors stay."""
    datasets.disable_progress_bars()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="lightning")
