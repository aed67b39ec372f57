"""The win rate that the model would have if its answers were as long as the reference's: AlpacaEval's smallest form.

Judges like long answers. AlpacaEval explains each preference by a logistic regression and then asks it about answers of
equal length:

    P(model preferred) = sigmoid(w_length * tanh(d / std(d)) + w_model),      d = len(output_1) - len(output_2)
    win rate           = 100 * sigmoid(w_model)

This is its `length_controlled_minimal`. The published `length_controlled_v1` has a third term, how hard each
instruction is, and two models that were told to be brief and to be verbose pull on its weights; both come from files
that are only on its hub. The two forms are not comparable: beside a figure of this one belongs its name.

A preference p between 0 and 1 is two rows, one labelled 1 of weight p, one labelled 0 of weight 1 - p. The penalty is
L1; its strength is the one of ten that predicts left-out fifths best.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from maple.errors import InputError
from maple.judging.annotations import Annotation, share
from maple.metrics.example import Estimate

NAME = "length_controlled_minimal"
FOLDS = 5
STRENGTHS = 10  # of 1 / penalty, evenly on a logarithmic scale from 1e-4 to 1e4: scikit-learn's own
SEED = 123  # AlpacaEval's, of the order in which the solver visits its coordinates


def length_controlled_win_rate(annotations: Sequence[Annotation]) -> Estimate | None:
    """The win rate at equal lengths, in percent; None of fewer verdicts than `FOLDS`, since nothing could be left out.

    It has no standard error: the regression predicts one number for all instructions. Raises InputError where
    scikit-learn is not installed.
    """
    try:
        import numpy as np
        import sklearn.linear_model  # noqa: F401
    except ImportError as error:
        raise InputError("the length-controlled win rate needs scikit-learn: pip install scikit-learn") from error
    preferences = np.array([math.nan if a.preference is None else share(a.preference) for a in annotations])
    judged = ~np.isnan(preferences)
    if judged.sum() < FOLDS:
        return None
    # The spread is that of all answers, also of those whose verdict could not be read, as in AlpacaEval.
    differences = np.array([len(a.output_1) - len(a.output_2) for a in annotations], dtype=float)
    spread = differences.std(ddof=1)
    lengths = np.tanh(differences / spread) if spread else differences * 0  # all differ alike: nothing to learn from
    features = np.stack([lengths, np.ones_like(lengths)], axis=1)[judged]
    value = _at_equal_length(features, preferences[judged])
    return Estimate(100 * value, None, int(judged.sum()))


def _at_equal_length(features, preferences) -> float:
    import numpy as np

    folds = np.arange(len(preferences))[::-1] % FOLDS  # what scikit-learn's GroupKFold gives where no group is larger
    strengths = np.logspace(-4, 4, STRENGTHS)
    losses = [
        np.mean([_loss(features, preferences, folds == fold, strength) for fold in range(FOLDS)])
        for strength in strengths
    ]
    return _fit(features, preferences, strengths[np.argmin(losses)])([[0.0, 1.0]]).item()


def _loss(features, preferences, left_out, strength: float) -> float:
    """The cross-entropy of the rows left out, by the regression that did not see them."""
    import numpy as np

    predict = _fit(features[~left_out], preferences[~left_out], strength)
    wanted, predicted = preferences[left_out], predict(features[left_out]).clip(1e-15, 1 - 1e-15)
    return -np.mean(wanted * np.log(predicted) + (1 - wanted) * np.log(1 - predicted))


def _fit(features, preferences, strength: float):
    """The regression, as the function from features to probabilities."""
    import numpy as np
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, l1_ratio=1, solver="liblinear", fit_intercept=False, random_state=SEED)
    ones = np.ones(len(preferences), dtype=int)
    weights = np.concatenate([preferences, 1 - preferences])
    if not 0 < preferences.sum() < len(preferences):  # one label alone: liblinear complains of the other's weight
        weights = weights.clip(1e-12)
    with warnings.catch_warnings():  # of few verdicts it finds no end under a weak penalty; AlpacaEval takes that too
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(np.concatenate([features, features]), np.concatenate([ones, 0 * ones]), sample_weight=weights)
    return lambda rows: model.predict_proba(np.asarray(rows))[:, 1]
