"""refdiff's own tables presented as foreign samplers, right ones and mutated ones, for tests of audits."""

from dataclasses import replace

import numpy as np

from refdiff import VPLinear
from refdiff.samplers import families, to_coordinate, to_prediction
from refdiff.schedules import VEPower
from refdiff.validation.audits.subject import Claim, Sampler, Subject

VP, VE = VPLinear(), VEPower(T=40.0)


def plain(table, dtype=np.float64):
    """A table as others write samplers: a loop in the number type, which draws normals when it needs them."""

    def kept(weight):
        return dtype(np.ravel(weight)[0])

    def sampler(model, x, normal):
        stages, outputs, drawn = [np.asarray(x, dtype=dtype)], {}, []
        for k in range(table.stages):
            if k:
                while len(drawn) < table.normals[k]:
                    drawn.append(np.asarray(normal(), dtype=dtype))
                parts = zip((stages, outputs, drawn), table.row(k), strict=True)
                stages.append(sum((kept(w) * of[j] for of, row in parts for j, w in row), np.zeros_like(stages[0])))
            if table.evaluated[k]:
                shown = stages[k] if table.coordinate == "x" else stages[k] * dtype(table.scale[k])
                outputs[k] = np.asarray(model(shown.astype(float), dtype(table.times[k])), dtype=dtype)
        return stages[-1].astype(float)

    return sampler


def seeded(play):
    """The same sampler with normals of its own."""

    def sampler(model, x, seed):
        rng = np.random.default_rng(seed)
        return play(model, x, lambda: rng.standard_normal(x.shape))

    return sampler


def grid_of(name, process, steps, dtype=np.float64, span=(0.98, 0.04)):
    """Equal steps of the family's clock, in numbers of the type."""
    start, end = (part * process.T for part in span)
    return families()[name].grid(process, steps, start, end).astype(dtype).astype(float)


def of_family(
    name, process=VP, steps=12, *, dtype=np.float64, mutate=None, prediction=None, coordinate="x", grid=None, **options
):
    """A family as a foreign sampler; `mutate` turns the table that is played, and not the claimed one, into another."""
    family = families()[name]
    times = grid_of(name, process, steps, dtype) if grid is None else np.asarray(grid, dtype=float)

    def build(these):
        return family(process, these, **options)

    played = build(times)
    answers = played.prediction if prediction is None else prediction
    played = to_coordinate(to_prediction(played, answers), coordinate)
    if mutate is not None:
        played = mutate(played)
    play = plain(played, dtype)
    # the network is shown x in all coordinates; alpha is 1, or what keeps the variance
    shown = np.ones_like if coordinate == "x" or process is VE else lambda rho: 1 / np.sqrt(1 + rho * rho)
    claim = Claim(build, times, process, answers, coordinate, shown, family.order)
    return Sampler(name, play, np.dtype(dtype), claim, float, process, seeded=seeded(play))


def subject(name, process=VP, **options):
    """A family as the subject of an audit."""
    return Subject(name, lambda steps: of_family(name, process, steps, **options), protocol="table")


def with_weight(table, part, stage, place, change):
    """The table with one of its weights changed: `part` of states, outputs, noise, at (stage, place)."""
    array = getattr(table, part).copy()
    array[stage, place] = change(array[stage, place])
    return replace(table, **{part: array})
