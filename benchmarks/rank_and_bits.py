"""What rank and bit-width do to the languages of the embedded world, and what they cost: 36 fits, a table, a picture.

    python -m benchmarks.rank_and_bits
    python -m benchmarks.rank_and_bits --show        # only the table and the picture, of the results that are there

Each fit is `python -m maple.fit --rank R --bits B --seed S` in a process of its own, so that its peak of memory is its
own; its summary goes to rank_and_bits.csv, beside this file, and a cell that stands there is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from benchmarks.ledger import commit, device
from maple.tiny.records import TRAINING, ZERO_SHOT

HERE = Path(__file__).parent
RESULTS, PICTURE = HERE / "rank_and_bits.csv", HERE / "rank_and_bits.png"
BITS, RANKS, SEEDS = (16, 8, 4), (1, 8, 32, 128), (0, 1, 2)
GROUPS = {  # by what the base and the instructions hold of them
    "most data": list(TRAINING)[:4],
    "less data": list(TRAINING)[4:],
    "base only": [code for code in ZERO_SHOT if code != "it"],
    "nowhere": ["it"],
}
COST = ("seconds", "tokens_per_second", "peak_memory_bytes", "base_bytes", "adapter_bytes")
MEASURES = ("loss before", "loss after", "match before", "match after")
CELL = ("bits", "rank", "seed")
COLUMNS = [*CELL, *COST, *(f"{m} {g}" for g in GROUPS for m in MEASURES), "device", "torch", "commit"]


def main() -> None:
    """Run what is missing, then show all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rank_and_bits", description=__doc__.splitlines()[0])
    parser.add_argument("--show", action="store_true", help="only the table and the picture of the results so far")
    if not parser.parse_args().show:
        done = {tuple(int(row[name]) for name in CELL) for row in read()}
        for cell in product(BITS, RANKS, SEEDS):
            if cell not in done:
                append(run(*cell))
                print(*(f"{name} {value}" for name, value in zip(CELL, cell, strict=True)), flush=True)
    print(table(read()))
    plot(read())


def run(bits: int, rank: int, seed: int) -> dict[str, object]:
    """One fit, as a row of the results."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        flags = ["--bits", str(bits), "--rank", str(rank), "--seed", str(seed), "--out", str(out)]
        subprocess.run([sys.executable, "-m", "maple.fit", *flags], check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    row = {"bits": bits, "rank": rank, "seed": seed, **{name: summary[name] for name in COST}}
    for group, codes in GROUPS.items():
        for measure in MEASURES:
            kind, when = measure.split()
            by_language = summary["val_loss_by_language" if kind == "loss" else "exact_match_by_language"]
            row[f"{measure} {group}"] = statistics.mean(by_language[code][when] for code in codes)
    return row | {"device": device(), "torch": summary["versions"]["torch"], "commit": commit()}


def append(row: dict[str, object]) -> None:
    """Write a row, so that what has been measured stays measured."""
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def read() -> list[dict[str, str]]:
    """All rows so far."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def spread(rows: list[dict[str, str]], column: str) -> tuple[float, float]:
    """(mean, standard deviation) over the seeds."""
    values = [float(row[column]) for row in rows]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table(rows: list[dict[str, str]]) -> str:
    """Markdown: one line for each of bits and rank, mean ± standard deviation over the seeds."""
    titles = ["bits", "rank", *(f"{g}: loss" for g in GROUPS), *(f"{g}: match" for g in GROUPS), "seconds", "peak GiB"]
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for bits, rank in product(BITS, RANKS):
        some = [row for row in rows if (row["bits"], row["rank"]) == (str(bits), str(rank))]
        if not some:
            continue
        cells = [str(bits), str(rank)]
        cells += ["{:.2f} ± {:.2f}".format(*spread(some, f"loss after {group}")) for group in GROUPS]
        for group in GROUPS:
            mean, deviation = spread(some, f"match after {group}")
            cells.append(f"{100 * mean:.0f} ± {100 * deviation:.0f} %")
        cells += [f"{spread(some, 'seconds')[0]:.0f}", f"{spread(some, 'peak_memory_bytes')[0] / 2**30:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: list[dict[str, str]]) -> None:
    """Exact match over the rank, a panel a group of languages, a line a bit-width, bars for the spread of the seeds."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(GROUPS), figsize=(12, 3.7), sharey=True, layout="constrained")
    for panel, (group, codes) in zip(panels, GROUPS.items(), strict=True):
        for shift, bits in zip(
            (0.94, 1.0, 1.06), BITS, strict=True
        ):  # side by side, so that the bars can be told apart
            cells = {rank: [r for r in rows if (r["bits"], r["rank"]) == (str(bits), str(rank))] for rank in RANKS}
            points = [(rank * shift, *spread(some, f"match after {group}")) for rank, some in cells.items() if some]
            ranks, means, deviations = ([point[i] for point in points] for i in range(3))
            percent = [100 * mean for mean in means], [100 * deviation for deviation in deviations]
            panel.errorbar(ranks, *percent, marker="o", markersize=4, capsize=3, label=f"{bits} bits")
        panel.set(title=f"{group}: {' '.join(codes)}", xlabel="LoRA rank", xscale="log")
        panel.set_xticks(RANKS, [str(rank) for rank in RANKS])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("exact match of the answers, %")
    panels[0].set_ylim(bottom=-1)
    panels[-1].legend(loc="upper left")
    figure.suptitle(f"Answers right to the letter after one epoch, mean and standard deviation of {len(SEEDS)} seeds")
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
