r"""Tweedie's formulas: derivatives of the log density are moments of the posterior."""

from __future__ import annotations

import numpy as np

from refdiff.validation.cases import ModelCase
from refdiff.validation.identity import Sides, identity


@identity(
    "Tweedie, first order",
    topic="Tweedie, Stein and score matching",
    formula=r"\mathbb{E}[x_0 \mid x_t] = \frac{x_t + \sigma_t^2 \nabla \log p_t(x_t)}{\alpha_t}",
    covers=["PODA-318", "TOPA-38b", "DMI-66"],
    control="sigma in place of sigma^2",
)
def first_order(case: ModelCase, wrong: bool) -> Sides:
    """Bayes' posterior mean against the score of the pushed law."""
    c = case.process.coefficients(case.t)
    correction = (c.sigma if wrong else c.sigma**2) * case.model.score(case.x, case.t)
    denoised = case.model.denoiser(case.x, case.t)
    return Sides(denoised, (case.x + correction) / c.alpha, scale=(np.abs(case.x) + np.abs(correction)).max() / c.alpha)
