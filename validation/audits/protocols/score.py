"""Score-SDE: f(score, x, times), score(x, t) = grad log p_t(x); see plain.py for times, processes and normals."""

from __future__ import annotations

from refdiff.validation.audits.protocols.plain import wrap_score
from refdiff.validation.audits.protocols.protocol import Protocol

PROTOCOLS = (Protocol("score", "f(score, x, times), score(x, t) -> grad log p_t(x)", wrap_score),)
