"""Slips in the loops of audit_loops: what an audit has to find, by the step and the term.

A slip is a text of a loop replaced by another, and what a finding must say: the question, and words of its text.
"""

import inspect
from dataclasses import dataclass

from audit_loops import BY_NAME


@dataclass(frozen=True)
class Slip:
    """A slip: in the loop of this name, `old` reads `new`; `said` must all be in one finding of the question."""

    loop: str
    old: str
    new: str
    said: tuple[str, ...]
    question: str = "coefficients"

    @property
    def source(self):
        text = inspect.getsource(BY_NAME[self.loop].function)
        assert text.count(self.old) == 1, (self.loop, self.old)
        return text.replace(self.old, self.new)


COEFFICIENTS, TOLD = "coefficients", "told level"
SLIPS = (
    # signs, factors
    Slip("euler", "x + d *", "x - d *", ("step 1 ", "noise of evaluation 1", "minus it")),
    Slip("euler", "/ sigmas[i]\n", "/ sigmas[i] ** 2\n", ("step 1 ", "noise of evaluation 1")),
    Slip("euler", "(sigmas[i + 1] - sigmas[i])", "(sigmas[i + 1] - sigmas[i]) / 2", ("step 1 ", "half of it")),
    Slip(
        "euler",
        "(sigmas[i + 1] - sigmas[i])",
        "(sigmas[i + 1] - sigmas[max(i - 1, 0)])",
        ("step 2 ", "noise of evaluation 2"),
    ),
    Slip("euler", "model(x, sigmas[i])", "model(x, sigmas[i + 1])", ("evaluation 1", "next"), TOLD),
    Slip("euler", "model(x, sigmas[i])", "model(x, sigmas[max(i - 1, 0)])", ("evaluation 2", "previous"), TOLD),
    Slip("euler", "range(len(sigmas) - 1)", "range(len(sigmas) - 2)", ("5 times", "6 times")),
    Slip("euler", "model(x, sigmas[i])", "model(x / sigmas[i], sigmas[i])", ("evaluation 1", "shown", "0.1 times")),
    Slip("euler", "sigmas[i + 1] - sigmas[i]", "max(sigmas[i + 1], 0.05) - sigmas[i]", ("step 6, the output",)),
    Slip("churned_euler", "sqrt(hat**2 - sigmas[i] ** 2)", "(hat - sigmas[i])", ("step 1 ", "normal 1")),
    Slip("churned_euler", "normal() * ", "1.1 * normal() * ", ("step 1 ", "normal 1", "11, should be 10")),
    Slip("churned_euler", "model(x, hat)", "model(x, sigmas[i])", ("evaluation 1",), TOLD),
    Slip("churned_euler", "(sigmas[i + 1] - hat)", "(sigmas[i + 1] - sigmas[i])", ("step 1 ", "noise of evaluation 1")),
    Slip("heun", "(d + d_2) / 2", "(d + d_2)", ("step 1 ", "noise of evaluation")),
    Slip("heun", "(d + d_2) / 2", "d", ("step 1 ", "of evaluation 2", "left out")),
    Slip("heun", "(d + d_2) / 2", "(d - d_2) / 2", ("step 1 ", "noise of evaluation 2", "minus it")),
    Slip("heun", "model(x_2, sigmas[i + 1])", "model(x_2, sigmas[i])", ("evaluation 2", "previous"), TOLD),
    Slip("heun", "model(x_2, sigmas[i + 1])", "model(x, sigmas[i + 1])", ("step 1 ", "shown to evaluation 2")),
    Slip(
        "heun",
        "model(x_2, sigmas[i + 1])) / sigmas[i + 1]",
        "model(x_2, sigmas[i + 1])) / sigmas[i]",
        ("step 1 ", "evaluation 2"),
    ),
    Slip(
        "dpm_2",
        "(log(sigmas[i]) + log(sigmas[i + 1])) / 2",
        "log((sigmas[i] + sigmas[i + 1]) / 2)",
        ("step 1 ", "evaluation 2"),
    ),
    Slip(
        "dpm_2",
        "x_2 = x + d * (mid",
        "x_2 = x + d * (sigmas[i + 1]",
        ("step 1 ", "shown to evaluation 2", "noise of evaluation 1"),
    ),
    Slip("dpm_2", "x = x + d_2 *", "x = x_2 + d_2 *", ("step 1 ", "shown to evaluation 3")),
    Slip("ancestral", "normal() * up", "normal() * up**2", ("step 1 ", "normal 1")),
    Slip("ancestral", "normal() * up", "normal() * down", ("step 1 ", "normal 1")),
    Slip("ancestral", "(down - s)", "(t - s)", ("step 1 ", "noise of evaluation 1")),
    Slip("ancestral", "if t > 0:", "if i > 0 and t > 0:", ("step 1 ", "normal 1", "left out")),
    Slip("ancestral", "if t > 0:", "if i != 3 and t > 0:", ("step 4 ", "normal 4", "left out")),
    Slip("ancestral", "/ s**2)", "/ s**3)", ("step 1 ", "normal 1")),
    Slip("dpmpp_2m", "1 / (2 * r) * old", "1 / r * old", ("step 2 ", "denoiser of evaluation 1", "twice it")),
    Slip(
        "dpmpp_2m",
        "log(sigmas[i - 1] / sigmas[i]) / h",
        "h / log(sigmas[i - 1] / sigmas[i])",
        ("step 2 ", "denoiser of evaluation"),
    ),
    Slip("dpmpp_2m", "(1 + 1 / (2 * r))", "(1 - 1 / (2 * r))", ("step 2 ", "denoiser of evaluation 2")),
    Slip(
        "dpmpp_2m",
        "if old is not None:",
        "if old is not None and i > 1:",
        ("step 2 ", "denoiser of evaluation 1", "left out"),
    ),
    Slip(
        "dpmpp_2m",
        "        old = denoised",
        "        old = old if i % 2 else denoised",
        ("step 3 ", "denoiser of evaluation"),
    ),
    Slip("dpmpp_2m", "expm1(-h) * d", "expm1(h) * d", ("step 1 ", "denoiser of evaluation 1")),
    Slip("dpmpp_2m", "return denoised", "return d", ("step 6, the output", "of evaluation 6", "left out")),
    Slip(
        "dpmpp_2s",
        "expm1(-h / 2) * denoised",
        "expm1(-h) * denoised",
        ("step 1 ", "shown to evaluation 2", "denoiser of evaluation 1"),
    ),
    Slip(
        "dpmpp_2s",
        "expm1(-h) * denoised_2",
        "expm1(-h) * denoised",
        ("step 1 ", "denoiser of evaluation 1", "does not use"),
    ),
    Slip("dpmpp_2s", "model(x_2, mid)", "model(x_2, sigmas[i])", ("evaluation 2", "previous"), TOLD),
    Slip("dpmpp_2s_ancestral_loop", "sqrt(t**2 - down**2)", "(t - down)", ("step 1 ", "normal 1")),
    Slip(
        "dpmpp_2s_ancestral_loop",
        "(1 - mid / s)",
        "(1 - down / s)",
        ("step 1 ", "shown to evaluation 2", "denoiser of evaluation 1"),
    ),
    Slip("dpmpp_2m_sde", "exp(-h) * x", "x", ("step 1 ", "the start")),
    Slip("dpmpp_2m_sde", "sqrt(-expm1(-2 * h))", "sqrt(-expm1(-h))", ("step 1 ", "normal 1")),
    Slip("dpmpp_2m_sde", "x - 0.5 * expm1", "x + 0.5 * expm1", ("step 2 ", "denoiser of evaluation")),
    Slip("dpmpp_2m_sde", "x - 0.5 * expm1(-2 * h)", "x - 0.5 * expm1(-h)", ("step 2 ", "denoiser of evaluation")),
    Slip("linear_multistep", "r / 2 * d_old", "r * d_old", ("step 2 ", "noise of evaluation 1", "twice it")),
    Slip("linear_multistep", "(1 + r / 2)", "(1 + r)", ("step 2 ", "noise of evaluation 2")),
    Slip("linear_multistep", "r = dt / (sigmas[i] - sigmas[i - 1])", "r = 1", ("step 2 ", "of evaluation 1")),
    Slip("ddim_loop", "sqrt(1 - b) * eps", "(1 - b) * eps", ("step 1 ", "noise of evaluation 1")),
    Slip("ddim_loop", "/ sqrt(a)\n", "/ a\n", ("step 1 ", "denoiser of evaluation 1")),
    Slip("ddim_loop", "sqrt(b) * x_0", "sqrt(a) * x_0", ("step 1 ", "denoiser of evaluation 1")),
    Slip("ddim_loop", "model(x, i)", "model(x, max(i - 1, 0))", ("evaluation 2", "previous"), TOLD),
    Slip("ddpm_loop", "sqrt(1 - a) * eps", "(1 - a) * eps", ("step 1 ", "noise of evaluation 1")),
    Slip("ddpm_loop", "* (1 - b) / (1 - a))", ")", ("step 1 ", "normal 1")),
    Slip("ddpm_loop", "beta = a / b, 1 - a / b", "beta = a / b, 1 - b", ("step 1 ", "noise of evaluation 1")),
    Slip(
        "unipc_loop",
        "0.5 * m_before + 0.5 * m)",
        "1.5 * m_before - 0.5 * m)",
        ("step 1 ", "never shown", "denoiser of evaluation"),
    ),
    Slip("unipc_loop", "s_s / s_0 * x_before", "s_s / s_0 * x", ("step 1 ", "never shown")),
    Slip("unipc_loop", "expm1(l_s - l_t) * m", "expm1(l_t - l_s) * m", ("step 1 ", "denoiser of evaluation 1")),
    Slip(
        "flow_midpoint",
        "x + h / 2 * k_1",
        "x + h * k_1",
        ("step 1 ", "shown to evaluation 2", "velocity of evaluation 1", "twice it"),
    ),
    Slip("flow_midpoint", "times[i] + h / 2)", "times[i] + h)", ("evaluation 2", "next"), TOLD),
    Slip("flow_rk4", "2 * k_2 + 2 * k_3", "2 * k_2 + k_3", ("step 1 ", "velocity of evaluation 3", "half of it")),
    Slip(
        "flow_rk4", "x + h / 2 * k_2", "x + h / 2 * k_1", ("step 1 ", "shown to evaluation 3", "velocity of evaluation")
    ),
    Slip("flow_rk4", "h / 6 * (k_1", "h / 6 * (k_4", ("step 1 ", "velocity of evaluation 4")),
)
