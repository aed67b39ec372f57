"""How many inputs the fuzzers tried, and how many of them were taken, at the end of the run."""

from collections import Counter

TRIED, TAKEN = Counter(), Counter()


def pytest_terminal_summary(terminalreporter):
    if TRIED:
        each = ", ".join(f"{name} {number:,} ({TAKEN[name]:,} taken)" for name, number in sorted(TRIED.items()))
        terminalreporter.write_line(f"fuzzing: {TRIED.total():,} inputs: {each}")
