r"""The semilinear probability flow and its exponential integrator.

    dx/dt = f x + g^2 eps / (2 sigma)         x_s = (alpha_s / alpha_t) x_t + int (alpha_s / alpha) g^2 eps / (2 sigma)
    dx/dlambda = (log alpha)' x - sigma eps   x_s = (alpha_s / alpha_t) x_t - alpha_s int e^-lambda eps dlambda
                                              x_s = (sigma_s / sigma_t) x_t + sigma_s int e^lambda x* dlambda

The linear part is exact because exp(int f) = alpha_s / alpha_t; the weight of a frozen eps is exact because
g^2 / (2 sigma alpha) = (sigma / alpha)'. Along a trajectory of Gaussian data eps and x* are known in closed form,
so the integrals are quadratures; times s < t, the step goes from t to s.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import expm

from refdiff.arguments import Array
from refdiff.schedules import FlowMatching, VEPower
from refdiff.validation.cases import Case, ModelCase, ProcessCase, with_gaussian_data
from refdiff.validation.conditions import preserving, smooth
from refdiff.validation.identities.ddim_coordinates import ends, step, terms
from refdiff.validation.identity import DERIVATIVE, ORDER, QUADRATURE, Sides, identity
from refdiff.validation.laws import gaussian_flow
from refdiff.validation.numeric import derivative, extrapolate, integral

TOPIC = "Exponential integrators"


@identity(
    "Integrating factor and weight of a frozen noise prediction",
    topic=TOPIC,
    formula=r"\exp\int_t^s f = \frac{\alpha_s}{\alpha_t},\qquad \int_t^s"
    r" \frac{g^2}{2\sigma}\frac{\alpha_s}{\alpha_u}\,du ="
    r" \alpha_s\Big(\frac{\sigma_s}{\alpha_s} - \frac{\sigma_t}{\alpha_t}\Big) ="
    r" -\alpha_s\int_{\lambda_t}^{\lambda_s} e^{-\lambda}d\lambda",
    covers=["PODC9-07", "PODC9-20", "PODC9-04", "PODC9-05"],
    refutes=["PODC9-05"],
    over="processes",
    control="the factor exp(f(t) (s - t)) with f frozen",
    evidence=QUADRATURE,
    needs=smooth,
)
def weights(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Quadrature in t of the schedule's f and g^2 against ratios of alpha and sigma."""
    schedule = case.schedule
    a, b = schedule.coefficients(case.t), schedule.coefficients(case.s)
    growth = a.f * (case.s - case.t) if wrong else integral(schedule.f, case.t, case.s)

    def kernel(times: Array) -> Array:
        c = schedule.coefficients(times)
        return np.asarray(c.g2 / (2 * c.sigma) * b.alpha / c.alpha)

    exact = b.sigma - b.alpha * a.sigma / a.alpha
    lam = -b.alpha * integral(
        lambda lam: np.exp(-lam), float(schedule.log_snr(case.t)), float(schedule.log_snr(case.s))
    )
    return [
        Sides(np.exp(growth), b.alpha / a.alpha),
        Sides(integral(kernel, case.t, case.s), exact),
        Sides(lam, exact),
    ]


@identity(
    "Freezing the noise is DDIM, freezing the score is not",
    topic=TOPIC,
    formula=r"x_s = \frac{\alpha_s}{\alpha_t}x_t + \epsilon^*(x_t)\int_t^s"
    r" \frac{g^2}{2\sigma}\frac{\alpha_s}{\alpha_u}du"
    r" = \frac{\sigma_s}{\sigma_t}x_t + x^*(x_t)\int_t^s \alpha\lambda'\frac{\sigma_s}{\sigma_u}du = \alpha_s x^* +"
    r" \sigma_s\epsilon^*",
    covers=["PODC9-09", "PODC9-07", "PODC9-08"],
    refutes=["PODC9-09"],
    control="the score frozen: weight int g^2/2 alpha_s/alpha_u, (s^2 - t^2)/2 instead of s (s - t) in EDM",
    evidence=QUADRATURE,
    needs=lambda case: smooth(case) and case.law.count < 100,
)
def frozen(case: ModelCase, wrong: bool) -> list[Sides]:
    """Exponential integrators by quadrature in the schedule's own time against the algebraic step."""
    (a, b), x, model, schedule = ends(case), case.x, case.model, case.process.schedules[0]
    denoiser, score = model.denoiser(x, case.t), model.score(x, case.t)

    def noise_weight(times: Array) -> Array:
        c = schedule.coefficients(times)
        return np.asarray(c.g2 / (2 * c.sigma) * b.alpha / c.alpha * (c.sigma if wrong else 1))

    def data_weight(times: Array) -> Array:
        c = schedule.coefficients(times)
        return np.asarray(c.alpha * schedule.dlog_snr(times) * b.sigma / c.sigma)

    head = -score if wrong else -a.sigma * score
    target, size = step(a, b, x, denoiser), terms(a, b, x, denoiser)
    return [
        Sides(b.alpha / a.alpha * x + integral(noise_weight, case.t, case.s) * head, target, size),
        Sides(b.sigma / a.sigma * x + integral(data_weight, case.t, case.s) * denoiser, target, size),
    ]


@identity(
    "Exact solution of the semilinear flow, with the noise and with the data prediction",
    topic=TOPIC,
    formula=r"x_s = \frac{\alpha_s}{\alpha_t}x_t - \alpha_s\int_{\lambda_t}^{\lambda_s}"
    r" e^{-\lambda}\epsilon^*(x_\lambda,\lambda)\,d\lambda"
    r" = \frac{\sigma_s}{\sigma_t}x_t + \sigma_s\int_{\lambda_t}^{\lambda_s}"
    r" e^{\lambda}x^*(x_\lambda,\lambda)\,d\lambda",
    covers=["PODC9-04", "PODC9-21", "PODC9-31"],
    control="e^lambda with the noise prediction",
    over="processes",
    evidence=QUADRATURE,
    most=13,
)
def variation_of_constants(process: ProcessCase, wrong: bool) -> list[Sides]:
    """Predictions along the closed trajectory of Gaussian data, integrated in lambda, against its end point."""
    case = with_gaussian_data(process)
    (a, b), schedule, x = ends(case), case.process.schedules[0], case.x
    start, end = float(case.process.log_snr(case.t)), float(case.process.log_snr(case.s))

    def along(lam: Array, with_noise: bool) -> Array:
        values = []
        for one, t in zip(lam, schedule.time_of_log_snr(lam), strict=True):
            where = gaussian_flow(case.law, schedule, case.t, t, x)
            head = case.model.noise(where, t) if with_noise else case.model.denoiser(where, t)
            values.append(np.exp(-one if with_noise and not wrong else one) * head)
        return np.array(values)

    exact = gaussian_flow(case.law, schedule, case.t, case.s, x)
    size = terms(a, b, x, case.model.denoiser(x, case.t))
    return [
        Sides(b.alpha / a.alpha * x - b.alpha * integral(lambda lam: along(lam, True), start, end, 24), exact, size),
        Sides(b.sigma / a.sigma * x + b.sigma * integral(lambda lam: along(lam, False), start, end, 24), exact, size),
    ]


@identity(
    "Uniform steps in lambda as steps in time",
    topic=TOPIC,
    formula=r"\frac{dt}{d\lambda} = \frac{1}{\lambda'(t)}:\qquad t = \frac{1}{1 + e^\lambda},\ \frac{dt}{d\lambda} ="
    r" -t(1 - t)"
    r"\ \text{(straight)};\qquad t = e^{-\lambda},\ \frac{dt}{d\lambda} = -t\ \text{(EDM)}",
    covers=["PODC9-22"],
    over="processes",
    control="-t for the straight path too",
    evidence=DERIVATIVE,
    needs=smooth,
    most=12,
)
def lambda_grid(case: ProcessCase, wrong: bool) -> list[Sides]:
    """The inverse schedule differentiated in lambda, for the case's family, the straight path and EDM."""
    u, sigma = case.t / case.schedule.T, case.t
    lam = float(case.schedule.log_snr(case.t))
    # the clock of a family bends on the scale of its distance to the ends of the time axis
    reach = min(case.t, case.schedule.T - case.t) * abs(case.schedule.dlog_snr(case.t))
    straight, edm = FlowMatching(), VEPower(T=2 * case.schedule.T)
    return [
        Sides(
            derivative(case.schedule.time_of_log_snr, lam, 0.02 * min(reach, 1.0)), 1 / case.schedule.dlog_snr(case.t)
        ),
        Sides(derivative(straight.time_of_log_snr, np.log(1 / u - 1), 0.01), -u if wrong else -u * (1 - u)),
        Sides(derivative(edm.time_of_log_snr, -np.log(sigma), 0.01), -sigma),
    ]


@identity(
    "Exponential Euler is exact for constant coefficients",
    topic=TOPIC,
    formula=r"\dot x = f x + N:\quad x(t - h) = e^{-fh}x + \frac{e^{-fh} - 1}{f}N",
    covers=["PODC9-05"],
    refutes=["PODC9-05"],
    over="once",
    control="f x - N, the sign of the line before the Euler step",
)
def constant_coefficients(case: Case, wrong: bool) -> Sides:
    """The closed step against the exponential of the augmented matrix."""
    f, force, x, h = case.rng.uniform(-1, 1, 4)
    generator = np.array([[f, -force if wrong else force], [0.0, 0.0]])
    exact = (expm(-h * generator) @ np.array([x, 1.0]))[0]
    return Sides(
        np.exp(-f * h) * x + np.expm1(-f * h) / f * force, exact, np.exp(abs(f * h)) * (abs(x) + abs(h * force))
    )


@identity(
    "What plain Euler gets wrong in the linear factor",
    topic=TOPIC,
    formula=r"e^a - (1 + a) = \tfrac{1}{2}a^2 + O(a^3),\qquad a = -f h",
    covers=["PODC9-05"],
    over="once",
    refutes=["PODC9-05"],
    control="a relative error of a/2",
    evidence=ORDER,
)
def linear_factor(case: Case, wrong: bool) -> Sides:
    """The exact solution of x' = f x over shrinking steps against Euler's factor."""
    f = 0.5 + case.rng.random()
    steps = [0.2 / 2**k for k in range(5)]
    exact = [expm(np.array([[-f * h]]))[0, 0] for h in steps]
    gaps = [(factor - (1 - f * h)) / (f * h) ** 2 for factor, h in zip(exact, steps, strict=True)]
    return Sides(extrapolate([np.asarray(gap) for gap in gaps]), 1 / (2 * f * steps[-1]) if wrong else 0.5)


@identity(
    "The variance-preserving condition and its covariance",
    topic=TOPIC,
    formula=r"f = -\tfrac{1}{2}g^2,\quad \bar\alpha_t = e^{-\int_0^t g^2},\quad \Sigma(t|s) = \int_s^t K^2 g^2 = 1 -"
    r" K^2,\quad"
    r" K = \sqrt{\bar\alpha_t/\bar\alpha_s}",
    covers=["RDX-31", "RDX-32", "RDX-35"],
    over="processes",
    control="1 - K, without the square",
    evidence=QUADRATURE,
    needs=lambda case: smooth(case) and preserving(case),
)
def vp_covariance(case: ProcessCase, wrong: bool) -> list[Sides]:
    """Quadratures of g^2 = (sigma^2)' - 2 f sigma^2 between s and t against ratios of alpha."""
    schedule, k = case.schedule, case.schedule.alpha(case.t) / case.schedule.alpha(case.s)
    c = schedule.coefficients(case.t)

    def rate(times: Array) -> Array:
        c = schedule.coefficients(times)
        return np.asarray(c.dvariance - 2 * c.dalpha / c.alpha * c.sigma**2)

    spread = integral(lambda times: (c.alpha / schedule.alpha(times)) ** 2 * rate(times), case.s, case.t)
    return [
        Sides(c.dalpha / c.alpha, -rate(np.asarray(case.t)) / 2),
        Sides(np.exp(-integral(rate, case.s, case.t)), k**2, 1.0),
        Sides(spread, 1 - (k if wrong else k**2)),
        Sides(case.process.channel(case.s, case.t).noise, spread),
    ]


@identity(
    "The variance-preserving covariance without commutation",
    topic=TOPIC,
    formula=r"f = -\tfrac{1}{2}D(t):\quad U' = fU,\ \Sigma' = D + f\Sigma + \Sigma f^{\mathsf{T}}\quad\Rightarrow\quad"
    r" \Sigma = I - UU^{\mathsf{T}}",
    covers=["RDX-33", "RDX-31"],
    over="once",
    control="I - U^2",
)
def matrix_covariance(case: Case, wrong: bool) -> list[Sides]:
    """Five pieces of constant D that do not commute, each with the block exponential of Van Loan for its noise."""
    propagator, spread, eye = np.eye(3), np.zeros((3, 3)), np.eye(3)
    for root in case.rng.standard_normal((5, 3, 3)):
        d = 0.2 * root @ root.T
        block = expm(np.block([[d / 2, d], [np.zeros((3, 3)), -d / 2]]))
        decay = block[3:, 3:]
        spread = decay @ spread @ decay.T + decay.T @ block[:3, 3:]
        propagator = decay @ propagator
    kept = propagator @ propagator if wrong else propagator @ propagator.T
    return [Sides(spread, eye - kept, 1.0), Sides(spread, spread.T, 1.0)]
