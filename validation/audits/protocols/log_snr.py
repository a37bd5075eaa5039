"""Networks that are told lambda = log(alpha / sigma) in place of t (VDM's gamma is -2 lambda); else as plain.py."""

from __future__ import annotations

from refdiff.validation.audits.protocols.plain import of_times

PROTOCOLS = (
    of_times(
        "log-snr",
        "f(model, x, times), model(x, log(alpha / sigma)) -> what the family asks for",
        told=lambda process, log_snr: float(process.time_of_log_snr(float(log_snr))),
    ),
)
