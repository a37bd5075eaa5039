"""Score-SDE: f(score, x, times), score(x, t) = grad log p_t(x); see plain.py for times, processes and normals."""

from __future__ import annotations

from refdiff.validation.audits.protocols.plain import of_times

PROTOCOLS = (of_times("score", "f(score, x, times), score(x, t) -> grad log p_t(x)", "score"),)
