"""Shares of languages, the order of an epoch, and the validation split."""

import numpy as np
import pytest

from maple.data.mixture import epoch_counts, epoch_order, split
from maple.errors import InputError

SIZES = {"en": 1000, "es": 100, "sw": 10}


def test_the_natural_mixture_is_every_record_once():
    assert epoch_counts(SIZES) == SIZES
    training = {language: np.arange(size) for language, size in SIZES.items()}
    order = epoch_order(training, SIZES, None, seed=3, epoch=0)
    assert sorted(order) == sorted((language, i) for language, size in SIZES.items() for i in range(size))


def test_temperature_flattens():
    assert epoch_counts(SIZES, temperature=1e9) == {"en": 370, "es": 370, "sw": 370}
    counts = epoch_counts(SIZES, temperature=2)
    weights = {language: size**0.5 for language, size in SIZES.items()}
    assert all(abs(counts[la] - 1110 * weights[la] / sum(weights.values())) < 1 for la in SIZES)
    assert sum(counts.values()) == 1110


def test_english_share_and_cap():
    assert epoch_counts(SIZES, english_share=0.5) == {"en": 555, "es": 505, "sw": 50}
    assert epoch_counts(SIZES, english_share=0)["en"] == 0
    assert epoch_counts(SIZES, english_share=1) == {"en": 1110, "es": 0, "sw": 0}
    assert epoch_counts(SIZES, language_cap=50) == {"en": 50, "es": 50, "sw": 10}


def test_a_share_of_english_needs_english_and_others():
    with pytest.raises(InputError, match="the data has no English, only es, sw"):
        epoch_counts({"es": 5, "sw": 5}, english_share=0.1)
    with pytest.raises(InputError, match="no language but English"):
        epoch_counts({"en": 5}, english_share=0.1)


def test_a_language_without_records_to_train_on_is_left_out_and_counts_as_absent():
    assert epoch_counts({"es": 8, "tr": 0, "en": 2}) == {"es": 8, "tr": 0, "en": 2}
    assert epoch_counts({"es": 8, "tr": 0}, temperature=1e9, language_cap=5) == {"es": 5, "tr": 0}
    assert epoch_counts({"es": 8, "en": 0}, english_share=0) == {"es": 8, "en": 0}
    order = epoch_order({"es": np.arange(3), "tr": np.arange(0)}, {"es": 3, "tr": 0}, None, seed=0, epoch=0)
    assert sorted(order) == [("es", 0), ("es", 1), ("es", 2)]
    with pytest.raises(InputError, match="the data has no English, only es"):
        epoch_counts({"es": 8, "en": 0}, english_share=0.5)
    with pytest.raises(InputError, match="--data: tr, th: no record to train on"):
        epoch_counts({"tr": 0, "th": 0})


def test_a_capped_language_keeps_the_same_records_in_every_epoch_and_a_small_one_repeats():
    training = {"en": np.arange(1000), "sw": np.arange(10)}
    counts = {"en": 20, "sw": 25}
    epochs = [epoch_order(training, counts, 20, seed=1, epoch=epoch) for epoch in range(2)]
    english = [{i for language, i in order if language == "en"} for order in epochs]
    assert english[0] == english[1] and len(english[0]) == 20
    swahili = [i for language, i in epochs[0] if language == "sw"]
    assert sorted({swahili.count(i) for i in range(10)}) == [2, 3]
    assert epochs[0] != epochs[1] and epochs[0] == epoch_order(training, counts, 20, seed=1, epoch=0)
    assert epochs[0] != epoch_order(training, counts, 20, seed=2, epoch=0)


@pytest.mark.parametrize(("size", "kept"), [(2, 1), (15, 1), (500, 50), (5000, 100)])
def test_the_validation_split_is_disjoint_and_always_the_same(size, kept):
    training, validation = split(size, "es")
    assert len(validation) == kept and sorted([*training, *validation]) == list(range(size))
    assert np.array_equal(validation, split(size, "es")[1])


def test_one_record_is_too_few():
    with pytest.raises(InputError, match="sw has 1 record; two are needed"):
        split(1, "sw")
