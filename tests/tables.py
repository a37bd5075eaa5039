"""Random tables for tests, and a sampler run term by term from its unrolled form."""

import numpy as np
from hypothesis import strategies as st

from refdiff import FlowMatching, VPLinear, backends
from refdiff.samplers.recorder import Recorder
from refdiff.samplers.running import run

EPS, MOVE = np.finfo(float).eps, 2.0**-28
NORMAL = 5.0  # no normal of these tests is larger
PROCESSES = {"VP": VPLinear(), "FM": FlowMatching()}


@st.composite
def tableaus(draw, process=None, noise=True, prediction=None, per_axis=None):
    """An arbitrary sampler: random weights on random earlier stages, outputs and normals, some stages not evaluated."""
    process = draw(st.sampled_from(list(PROCESSES.values()))) if process is None else process
    kind = draw(st.sampled_from(["denoiser", "noise", "velocity"])) if prediction is None else prediction
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 5))
    times = np.sort(rng.uniform(0.05, 0.95, count + 1))[::-1]
    rec = Recorder("random", process, times, kind)

    def weight():
        value = 0.6 * rng.standard_normal(() if per_axis is None else per_axis)
        return float(value) if per_axis is None else value

    stages, outputs, normals = [rec.start], [], []
    for k, point in enumerate(rec.points[:-1]):
        if k == 0 or draw(st.booleans()):
            outputs.append(rec.evaluate(stages[-1], point))
        if noise and draw(st.booleans()):
            normals.append(rec.normal())
        terms = [weight() * part for part in stages[-2:] + outputs[-2:] + normals[-2:]]
        x = terms[0]
        for term in terms[1:]:
            x = x + term
        stages.append(x if k == count - 1 else rec.keep(x, rec.points[k + 1]))
    return rec.finish(stages[-1])


def follow(tableau, model, x, normals):
    """Every stage from the unrolled form, term by term: y_k = start_k x + sum outputs_kj o_j + sum noise_km z_m."""
    start, outputs, noise = tableau.unroll()
    answers, stages = {}, []
    for k in range(tableau.stages):
        y = start[k] * x
        for j, answer in answers.items():
            y = y + outputs[k, j] * answer
        for m in range(tableau.draws):
            y = y + noise[k, m] * normals[m]
        if tableau.evaluated[k]:
            answers[k] = model(y, tableau.times[k])
        stages.append(y)
    return np.array(stages)


def unit(tableau, model, x, seed, expected):
    """For every stage, shape (s,), what moves of the size of one rounding do to it: what a run's error is measured in.

    The NumPy loop, whose stages are `expected`, is run again with each of the model's arguments and answers moved by
    2^-28 of the largest. The unit is what that does to a stage, scaled to eps, and the size of the terms that are
    summed for it.
    """
    rng, answers = np.random.default_rng(1), []

    def moved(a):
        return a + MOVE * np.abs(a).max() * rng.standard_normal(a.shape)

    def answer(y, t):
        with backends.use("numpy"):
            answers.append(moved(model.predict(moved(y), t, tableau.prediction)))
        return answers[-1]

    paths = run(tableau, answer, x, seed, trajectory=True)
    size = np.abs(paths - expected).max(axis=(1, 2)) / MOVE
    stages = np.abs(expected).max(axis=(1, 2))
    outputs = dict(zip(np.flatnonzero(tableau.evaluated), (np.abs(a).max() for a in answers), strict=True))
    sizes = stages, outputs, dict.fromkeys(range(tableau.draws), NORMAL)
    terms = [
        sum(np.abs(w).max() * sizes[kind][j] for kind, part in enumerate(tableau.row(k)) for j, w in part)
        for k in range(tableau.stages)
    ]
    return EPS * (size + stages + terms)
