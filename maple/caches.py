"""Where what only saves time is kept: tokens and packed weights. Deleting any of it is safe."""

import os
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """$XDG_CACHE_HOME/maple/name, by default in ~/.cache; a user without a home, as in a container, has the system's
    folder for temporary files."""
    home = os.path.expanduser("~")
    root = os.environ.get("XDG_CACHE_HOME") or (os.path.join(home, ".cache") if home != "~" else tempfile.gettempdir())
    return Path(root) / "maple" / name
