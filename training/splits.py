"""Folds by patient, stratified by lesion load, seeded."""

from __future__ import annotations

from collections import defaultdict

import numpy as np


def make_folds(cases: list[dict], folds: int, seed: int) -> dict[str, int]:
    """patient -> the fold that holds the patient out.

    Args:
        cases: rows with 'patient' and 'lesion_ml'.
        folds: how many.
        seed: of the draw.

    Patients are ranked by lesion volume and dealt out in groups of `folds`, so that each fold gets one of every rank.
    """
    load: dict[str, float] = defaultdict(float)
    for case in cases:
        load[case["patient"]] += case["lesion_ml"]
    ranked = sorted(load, key=lambda patient: (load[patient], patient))
    rng = np.random.default_rng(seed)
    assignment = {}
    for first in range(0, len(ranked), folds):
        for patient, fold in zip(ranked[first : first + folds], rng.permutation(folds)):
            assignment[patient] = int(fold)
    return assignment
