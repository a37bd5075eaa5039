r"""Reading the table of a foreign sampler.

A linear sampler's states and output are  start x + sum_j outputs_j o_j + sum_m noise_m z_m  whatever the numbers x, o
and z are. Give it a batch of points that do not interact: in the first x = 1 and all else 0, in the next o_0 = 1 and
all else 0, and so on; one run of the batch shows every weight, at every state that it asks the model about. A second
run on random numbers tells whether the sampler was linear at all. Source: linearity alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refdiff.arguments import Array
from refdiff.processes import AffineProcess
from refdiff.samplers.tableau import Tableau
from refdiff.schedules import Coefficients, Schedule

# A sampler as others write it: it calls model(x, t), draws normals of the shape of x by normal(), and returns points.
Sampler = Callable[[Callable[[Array, Any], Array], Array, Callable[[], Array]], Array]


class NotLinear(ValueError):
    """The sampler is no table: its output is not linear in its start, its model's outputs and its normals."""


class NotFinite(ValueError):
    """The sampler gives what is no number."""


class Heard(NamedTuple):
    """What impulses show of a sampler.

    Attributes:
        rows: weights of (start, outputs, normals) in what each evaluation is asked about, and at last in the output,
            shape (nfe + 1, 1 + nfe + draws).
        times: what the sampler passed as t, one for each evaluation.
        drawn_by: how many normals had been drawn by each evaluation.
    """

    rows: Array
    times: tuple[Any, ...]
    drawn_by: tuple[int, ...]

    @property
    def draws(self) -> int:
        """How many normals are drawn in all."""
        return int(self.rows.shape[1]) - 1 - len(self.times)


def listen(sampler: Sampler, *, tolerance: float = 1e-9) -> Heard:
    """The weights of a sampler, read from impulses, with times and states as it has them.

    Args:
        sampler: as for `impulse_response`.
        tolerance: how far a random run may be from the weights, relative to the size of its terms.

    Raises:
        NotLinear: as for `impulse_response`.
        NotFinite: impulses of one give NaN or infinity.
        ValueError: points of another shape than x, or a time that is no number.
    """
    silent = _Listener(np.zeros((1, 1)), np.zeros((0, 1)), np.zeros((0, 1)))
    silent.listen(sampler)
    nfe, draws = len(silent.times), silent.drawn
    # one batch member for the start, one for each output and for each normal
    pulses = np.eye(1 + nfe + draws)
    heard = _Listener(pulses[:, :1], pulses[1 : 1 + nfe], pulses[1 + nfe :])
    rows = heard.listen(sampler)
    _check_calls(silent, heard)
    table = _unrolled(rows, heard, nfe)
    _check_linear(sampler, table, silent, tolerance)
    return Heard(table, tuple(heard.times), tuple(heard.drawn_by))


def impulse_response(
    sampler: Sampler,
    process: AffineProcess | Schedule,
    *,
    prediction: str = "denoiser",
    name: str = "read from impulses",
    start_time: float | None = None,
    end_time: float = 0.0,
    time: Callable[[Any], float] = float,
    tolerance: float = 1e-9,
) -> Tableau:
    """The table of a sampler given as a function (model, x, normal) -> output.

    Args:
        sampler: called with a model (x, t) -> o, points x of shape (n, 1), and normal() -> (n, 1). It must treat the
            points of a batch independently, and call the model with all of them at one time.
        process: what the times mean: an AffineProcess that is the same on all axes, or a Schedule.
        prediction: what the sampler takes the model's answer for.
        name: of the table.
        start_time, end_time: the times of x and of the output; the first evaluation's time where none is given.
        time: turns what the sampler passes as t into a time of the process.
        tolerance: how far a random run may be from the table, relative to the size of its terms.

    Returns:
        The table in unrolled form: every stage but the first refers to the start, to outputs and to normals.

    Raises:
        NotLinear: the sampler clips, adapts its steps to what it sees, or mixes the points of a batch.
        ValueError: a process with one schedule for each axis or with matrices; points of another shape than x, or a
            time that is no number.

    Examples:
        >>> from refdiff import FlowMatching
        >>> from refdiff.samplers import families, impulse_response
        >>> def euler(model, x, normal):
        ...     for s, t in ((1.0, 0.5), (0.5, 0.25)):
        ...         x = x + (t - s) * (x - model(x, s)) / s
        ...     return x
        >>> found = impulse_response(euler, FlowMatching(), end_time=0.25)
        >>> found.close(families()["ddim"](FlowMatching(), [1.0, 0.5, 0.25]))
        True
    """
    if isinstance(process, Schedule):
        process = AffineProcess(process)
    if not isinstance(process, AffineProcess) or process.per_axis:
        raise ValueError(f"process must be the same on all axes to read a sampler point by point, got {process!r}")
    heard = listen(sampler, tolerance=tolerance)
    times, nfe, draws = np.array([time(t) for t in heard.times]), len(heard.times), heard.draws
    first = times[0] if start_time is None and nfe else start_time
    stages = np.concatenate([[process.T if first is None else first], times, [end_time]])
    each = [process.coefficients(float(t)) for t in stages]
    return Tableau(
        name=name,
        prediction=prediction,
        times=stages,
        coefficients=Coefficients(*(np.array([getattr(c, part) for c in each]) for part in Coefficients._fields)),
        evaluated=np.array([False] + [True] * nfe + [False]),
        normals=np.concatenate([[0], heard.drawn_by, [draws]]),
        **_bands(heard.rows, nfe, draws, list(heard.drawn_by)),
    )


class _Listener:
    """A model and a source of normals with given answers, which keeps what it is asked."""

    def __init__(self, start: Array, outputs: Array, normals: Array) -> None:
        self.start, self.outputs, self.normals = start, outputs, normals
        self.states: list[Array] = []
        self.times: list[Any] = []
        self.drawn_by: list[int] = []
        self.drawn = 0

    def listen(self, sampler: Sampler) -> Array:
        output = np.asarray(sampler(self.model, self.start.copy(), self.normal), dtype=float)
        if output.shape != self.start.shape:
            raise ValueError(f"sampler must return points of the shape of x, {self.start.shape}, got {output.shape}")
        return output[:, 0]

    def model(self, x: Array, t: Any) -> Array:
        done = len(self.times)
        times = np.ravel(np.asarray(t))
        if times.size > 1 and (times != times[0]).any():
            raise NotLinear(f"sampler must ask about one time in a call, got {times.min()} to {times.max()}")
        self.states.append(np.array(x, dtype=float)[:, 0])
        self.times.append(times[0])
        self.drawn_by.append(self.drawn)
        return self._answer(self.outputs, done, x)

    def normal(self) -> Array:
        self.drawn += 1
        return self._answer(self.normals, self.drawn - 1, self.start)

    @staticmethod
    def _answer(given: Array, index: int, like: Array) -> Array:
        return given[index][:, None].copy() if index < len(given) else np.zeros_like(like, dtype=float)


def _unrolled(rows: Array, heard: _Listener, nfe: int) -> Array:
    """Weights of (start, outputs, normals) at the evaluated states and at the output, shape (nfe + 1, 1 + nfe + m)."""
    table = np.array([*heard.states, rows])
    bad = np.flatnonzero(~np.isfinite(table).all(axis=1))
    if bad.size:
        where = f"evaluation {bad[0] + 1} is asked about" if bad[0] < nfe else "the output is"
        raise NotFinite(f"sampler must give numbers: {where} {table[bad[0]][~np.isfinite(table[bad[0]])][0]}")
    ahead = table[:nfe, 1 : 1 + nfe]
    if np.triu(ahead).any():
        raise NotLinear("sampler must not answer before it asks: a state depends on a later output")
    return table


def _check_calls(one: _Listener, other: _Listener) -> None:
    """The same evaluations at the same times, and as many normals, whatever the answers were."""
    calls = [f"{len(run.times)} calls and {run.drawn} normals" for run in (one, other)]
    if calls[0] != calls[1]:
        raise NotLinear(f"sampler must make the same calls whatever its model answers, got {calls[0]}, then {calls[1]}")
    if np.isnan(one.times).any():
        raise ValueError("sampler must ask at times that are numbers, got nan")
    changed = [(first, second) for first, second in zip(one.times, other.times, strict=True) if first != second]
    if changed:
        raise NotLinear(f"sampler must ask at the same times whatever its model answers, got {changed[0][0]}, then "
                        f"{changed[0][1]}")  # fmt: skip


def _check_linear(sampler: Sampler, table: Array, silent: _Listener, tolerance: float) -> None:
    # numbers of many sizes: what clips does so at one of them
    values = np.random.default_rng(0).standard_normal((table.shape[1], 5)) * [0.01, 1.0, 100.0, 1e4, 1e8]
    heard = _Listener(values[0][:, None], values[1 : len(table)], values[len(table) :])
    output = heard.listen(sampler)
    _check_calls(silent, heard)
    states = np.array([*heard.states, output])
    expected, size = table @ values, np.abs(table) @ np.abs(values)
    gap = np.abs(states - expected) / np.maximum(size, np.finfo(float).tiny)
    if not np.isfinite(gap).all() or gap.max() > tolerance:
        raise NotLinear(f"sampler must be linear in its start, outputs and normals, got a deviation of {gap.max():.3g}")


def _bands(table: Array, nfe: int, draws: int, drawn_by: list[int]) -> dict[str, Any]:
    """The unrolled weights in the layout of a Tableau, whose stage 0 is the start and whose last is the output."""
    size = nfe + 2
    states, outputs = np.zeros((size, size - 1)), np.zeros((size, max(size - 2, 1)))
    noise, counts = np.zeros((size, draws)), [0, *drawn_by, draws]
    for k in range(1, size):
        row = table[k - 1]
        states[k, k - 1] = row[0]
        for j in range(min(k - 1, nfe)):
            outputs[k, k - 2 - j] = row[1 + j]
        for m in range(counts[k]):
            noise[k, counts[k] - 1 - m] = row[1 + nfe + m]
    return {"states": states, "outputs": outputs, "noise": noise}
