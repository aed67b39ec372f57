"""The embedded world: a small pre-trained base, its tokenizer, its languages. All of its text is written here."""

from pathlib import Path

NAME = "tiny"  # of the model; ./tiny would be a folder
BASE = Path(__file__).with_name("base")
