"""How many records of each language an epoch holds, in which order, and which are kept for validation."""

from __future__ import annotations

import numpy as np

from maple.errors import InputError

# The validation split is the same for every run on the same data, whatever its seed, so that runs can be compared.
VALIDATION_SEED = 42
VALIDATION_RECORDS = 100  # a language, and at most a tenth of it


def split(size: int, language: str) -> tuple[np.ndarray, np.ndarray]:
    """(training, validation) indices of a language's records, disjoint. Raises InputError below two records."""
    if size < 2:
        raise InputError(f"--data: {language} has {size} record; two are needed, one to train and one to validate on")
    order = _generator(VALIDATION_SEED, 0, language).permutation(size)
    kept = max(1, min(VALIDATION_RECORDS, size // 10))
    return np.sort(order[kept:]), np.sort(order[:kept])


def epoch_counts(
    sizes: dict[str, int],
    temperature: float = 1.0,
    english_share: float | None = None,
    language_cap: int | None = None,
) -> dict[str, int]:
    """Records of each language in an epoch; their sum is that of the (capped) sizes.

    With n_l records of language l after the cap, its share is p_l ~ n_l^(1 / temperature) (arXiv 1911.02116, where
    1 / temperature is alpha): 1 is the natural mixture, larger is flatter. `english_share` fixes p_en and divides the
    rest in those proportions. A language that gets more than it has repeats some, one that gets fewer leaves some out,
    one that has none gets none: it is only measured.
    """
    capped = {language: min(size, language_cap or size) for language, size in sizes.items() if size}
    if not capped:
        raise InputError(f"--data: {', '.join(sizes)}: no record to train on, only records to validate on")
    weights = {language: size ** (1 / temperature) for language, size in capped.items()}
    if english_share is not None and not (english_share == 0 and "en" not in capped):
        if "en" not in capped:
            raise InputError(f"--english-share {english_share}: the data has no English, only {', '.join(capped)}")
        others = sum(weight for language, weight in weights.items() if language != "en")
        if others == 0 and english_share < 1:
            raise InputError(f"--english-share {english_share}: the data has no language but English")
        rest = (1 - english_share) / others if others else 0
        weights = {language: weight * rest for language, weight in weights.items()} | {"en": english_share}
    total, weight = sum(capped.values()), sum(weights.values())
    exact = {language: total * weights[language] / weight for language in capped}
    counts = {language: int(share) for language, share in exact.items()}
    # largest remainders first, so that the counts add up
    by_remainder = sorted(exact, key=lambda language: (counts[language] - exact[language], language))
    for language in by_remainder[: total - sum(counts.values())]:
        counts[language] += 1
    return {language: counts.get(language, 0) for language in sizes}


def epoch_order(
    training: dict[str, np.ndarray], counts: dict[str, int], language_cap: int | None, seed: int, epoch: int
) -> list[tuple[str, int]]:
    """(language, index) of every record of an epoch, shuffled: a function of seed and epoch alone."""
    drawn = []
    for language, indices in training.items():
        pool = _generator(seed, 0, language).permutation(indices)[:language_cap]  # the same records in every epoch
        shuffled = _generator(seed, epoch + 1, language).permutation(pool)
        drawn += [(language, int(index)) for index in np.resize(shuffled, counts[language])]
    return [drawn[i] for i in _generator(seed, epoch + 1, "").permutation(len(drawn))]


def _generator(seed: int, epoch: int, language: str) -> np.random.Generator:
    return np.random.default_rng([seed, epoch, *language.encode()])
