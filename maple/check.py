"""Look for everything that would stop a run, before a GPU hour is spent on it.

    python -m maple.check --model mistralai/Mistral-7B-v0.1 --data bactrian-x-22 --rank 32 --bits 4
    python -m maple.check --config configs/mistral-7b.yaml

The flags are fit's. No weight is read, only the headers of their files, and nothing is written but the cache of tokens
that fit would write. A problem does not end the search: all are listed together at the end, with exit code 2.
"""

from __future__ import annotations

import functools
import inspect

from maple import cli
from maple.errors import refuse
from maple.fit import fit
from maple.outputs import own_flags
from maple.terminal import without_controls


@functools.wraps(fit, assigned=["__annotations__"])  # signature and types are fit's, and so is the help of each flag
def check(**arguments) -> None:
    """Look for everything that would stop a run with these flags, all problems at once, before a weight is read."""
    names = without_controls(f"{arguments['model']} on {arguments['data']}")
    print(f"Checking {names}; loading PyTorch and transformers ...", flush=True)
    from maple.checks import Checks
    from maple.quiet import quieten

    quieten()
    refuse(Checks(arguments).run())
    print("Nothing stands in the way.")


check.__doc__ += "\n\n" + inspect.getdoc(fit).partition("\n\n")[2]


if __name__ == "__main__":
    cli.main(check, under=own_flags)
