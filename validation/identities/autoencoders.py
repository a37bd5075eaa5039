r"""Variational autoencoders with linear-Gaussian parts, where the evidence and its bound are closed forms.

    x = W z + b + N(0, s^2),  z ~ N(0, I),  encoder q(z|x) = N(E x + e, diag v)

    log p(x)  =  ELBO(x) + KL( q(z|x) || p(z|x) )
    KL( p_0 q(z|x) || p(z) p(x|z) )  =  KL(p_0 || p) + E KL( q(z|x) || p(z|x) )
    E KL( q(z|x) || p(z) )  =  I_q(x; z) + KL( q(z) || p(z) )

A hierarchical autoencoder is a chain of such layers, and DDPM is the one whose encoder is fixed: its bound in layers
needs q(z_i | z_{i+1}, x), the encoder conditioned on the layer above, not the encoder's own q(z_i | z_{i-1}).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from refdiff.arguments import Array
from refdiff.channels import Channel
from refdiff.distributions import Empirical, Gaussian, entropy, kl_divergence, random_mixture
from refdiff.validation.cases import Case
from refdiff.validation.identities.elbo import Chain, average, average_kl, perturbed
from refdiff.validation.identities.forward_kernels import path
from refdiff.validation.identity import Sides, identity

TOPIC = "Variational bounds"


@dataclass(frozen=True, eq=False)
class LinearVAE:
    """x = W z + b + N(0, s^2 I), z ~ N(0, I), data and encoder Gaussian."""

    prior: Gaussian
    decoder: Channel
    data: Gaussian
    encoder: Channel

    @staticmethod
    def random(case: Case, seen: int = 3, latent: int = 2) -> LinearVAE:
        """A random model of `seen` variables with `latent` ones; a diagonal encoder that is not the posterior."""
        rng = case.rng
        decoder = Channel(rng.standard_normal((seen, latent)), rng.standard_normal(seen), rng.uniform(0.2, 0.8))
        law = random_mixture(seen, 1, rng, "full", spread=0.5)
        encoder = Channel(
            0.5 * rng.standard_normal((latent, seen)), rng.standard_normal(latent), rng.uniform(0.2, 1, latent)
        )
        return LinearVAE(Gaussian(np.zeros(latent), 1.0), decoder, Gaussian(law.mean(), law.cov()), encoder)

    def elbo(self, x: Array, constant: bool = True) -> float:
        """-(E |x - W z - b|^2) / 2 s^2 - D/2 log 2 pi s^2 - sum(mu^2 + v - 1 - log v) / 2, at one x (D,).

        Without `constant` the second term is left out.
        """
        w, s2 = self.decoder.gain, float(self.decoder.noise)
        mu, v = self.encoder.gain @ x + self.encoder.offset, self.encoder.noise
        miss = ((x - w @ mu - self.decoder.offset) ** 2).sum() + (w**2 @ v).sum()
        normaliser = 0.5 * len(x) * np.log(2 * np.pi * s2) if constant else 0.0
        return float(-miss / (2 * s2) - normaliser - 0.5 * (mu**2 + v - 1 - np.log(v)).sum())


@identity(
    "Linear-Gaussian latent variable: marginal and posterior",
    topic=TOPIC,
    formula=r"N(x; Wz+b, s^2)\,N(z; 0, I) = N(x; b, WW^\top + s^2)\,N(z; M^{-1}W^\top(x-b), s^2 M^{-1}),"
    r"\quad M = W^\top W + s^2",
    covers=["PODA-201"],
    over="once",
    control="M = W'W + I, the prior's precision without the noise variance",
)
def latent_posterior(case: Case, wrong: bool) -> Iterator[Sides]:
    """Log densities of the closed forms, and the channel's own conditioning."""
    vae = LinearVAE.random(case)
    w, s2, b = vae.decoder.gain, float(vae.decoder.noise), vae.decoder.offset
    m = w.T @ w + (1.0 if wrong else s2) * np.eye(w.shape[1])
    for z in vae.prior.sample(3, case.rng):
        x = vae.decoder.at(z).sample(1, case.rng)[0]
        marginal = Gaussian(b, w @ w.T + s2 * np.eye(len(b)))
        posterior = Gaussian(np.linalg.solve(m, w.T @ (x - b)), s2 * np.linalg.inv(m))
        parts = np.array([vae.decoder.logpdf(x, z), vae.prior.logpdf(z), marginal.logpdf(x), posterior.logpdf(z)])
        yield Sides(parts[0] + parts[1], parts[2] + parts[3], scale=np.abs(parts).sum())
        yield Sides(posterior.cov(), vae.decoder.posterior(vae.prior, x).cov())


@identity(
    "ELBO of a Gaussian autoencoder and its gap",
    topic=TOPIC,
    formula=r"\log p(x) = -\frac{\mathbb{E}\|x-\mu(z)\|^2}{2\sigma^2} - \tfrac{D}{2}\log 2\pi\sigma^2"
    r" - \tfrac12\sum(\mu^2 + s^2 - 1 - \log s^2) + \mathrm{KL}(q(z|x) \| p(z|x))",
    covers=["PODA-202", "PODA-204"],
    over="once",
    control="the constant -(D/2) log 2 pi sigma^2 left out",
)
def elbo_gap(case: Case, wrong: bool) -> Iterator[Sides]:
    """The printed closed forms at data points against the divergence from the exact posterior."""
    vae = LinearVAE.random(case)
    for x in vae.data.sample(3, case.rng):
        evidence, bound = vae.decoder.push(vae.prior).logpdf(x), vae.elbo(x, constant=not wrong)
        gap = kl_divergence(vae.encoder.at(x), vae.decoder.posterior(vae.prior, x))
        yield Sides(evidence - bound, gap, scale=abs(evidence) + abs(bound))


@identity(
    "Joint divergence of an autoencoder, and its mutual information",
    topic=TOPIC,
    formula=r"\mathrm{KL}(p_0 q(z|x) \| p(z)p(x|z)) = \mathrm{KL}(p_0 \| p) + \mathbb{E}\,\mathrm{KL}(q(z|x) \| p(z|x))"
    r",\quad \mathbb{E}\,\mathrm{KL}(q(z|x) \| p(z)) = I_q(x;z) + \mathrm{KL}(q(z) \| p(z))",
    covers=["PODA-203", "PODA-207"],
    over="once",
    control="the encoder's divergence left out, and the mutual information",
)
def joint_autoencoder(case: Case, wrong: bool) -> Iterator[Sides]:
    """Dense laws of (x, z) against averages over x; -ELBO averaged is the entropy plus the joint divergence."""
    vae = LinearVAE.random(case)
    joint = path(vae.data, [vae.encoder])
    modelled = path(vae.prior, [vae.decoder]).marginal([2, 3, 4, 0, 1])
    model = vae.decoder.push(vae.prior)
    divergence = kl_divergence(joint, modelled)
    inference = average_kl(vae.encoder, vae.decoder.reverse(vae.prior), vae.data)
    yield Sides(divergence, kl_divergence(vae.data, model) + (0 if wrong else inference))
    yield Sides(-average(vae.elbo, vae.data), divergence + entropy(vae.data))
    latent = vae.encoder.push(vae.data)
    prior = average(lambda x: kl_divergence(vae.encoder.at(x), vae.prior), vae.data)
    apart = path(vae.data, [Channel(np.zeros((2, 3)), latent.mean(), latent.cov())])
    information = kl_divergence(joint, apart)
    yield Sides(prior, (0 if wrong else information) + kl_divergence(latent, vae.prior))


@identity(
    "Best decoder mean of a Gaussian encoder",
    topic=TOPIC,
    formula=r"\mu^*(z) = \frac{\mathbb{E}_{p_0}[q(z|x)\,x]}{\mathbb{E}_{p_0}[q(z|x)]}",
    covers=["PODA-205"],
    refutes=["PODA-205"],
    over="once",
    control="the prior's density in place of the aggregated posterior's, as printed under q(x | z)",
)
def best_decoder(case: Case, wrong: bool) -> Iterator[Sides]:
    """Sums over a point set against Bayes on the encoder's channel; the decoder blurs the points it averages."""
    encoder, points = LinearVAE.random(case).encoder, case.rng.standard_normal((5, 3))
    data = Empirical(points, case.rng.dirichlet(np.ones(5)))
    for z in encoder.push(data).sample(3, case.rng):
        joint = data.weights * np.exp([float(encoder.logpdf(z, x)) for x in points])
        total = np.exp(Gaussian(np.zeros(2), 1.0).logpdf(z)) if wrong else joint.sum()
        yield Sides(encoder.posterior_mean(data, z), joint @ points / total)


@identity(
    "ELBO of a hierarchical autoencoder, layer by layer",
    topic=TOPIC,
    formula=r"\mathbb{E}_q \log\frac{p(x,z_{1:L})}{q(z_{1:L}|x)} = \mathbb{E}\log p(x|z_1)"
    r" - \sum_{i<L} \mathbb{E}\,\mathrm{KL}(q(z_i|z_{i+1},x) \| p(z_i|z_{i+1})) - \mathrm{KL}(q(z_L|x) \| p(z_L))",
    covers=["PODA-206", "PODA-208"],
    refutes=["PODA-208"],
    over="once",
    control="the printed layers KL(q(z_i | z_{i-1}) || p(z_i | z_{i+1}))",
)
def layered_elbo(case: Case, wrong: bool) -> Sides:
    """log p(x) minus the divergence of the dense posterior laws of three latent layers, against the sum over layers.

    The encoder's layers are free: gains, offsets and noises that no noising chain has.
    """
    noising, x = Chain.random(case, dim=1, steps=3), case.rng.standard_normal(1)
    encoder = [perturbed(layer, case.rng) for layer in noising.forward]
    chain = Chain(noising.data, encoder, noising.prior, noising.model)
    given, modelled = path(chain.forward[0].at(x), chain.forward[1:]), chain.modelled()
    elbo = modelled.marginal([0]).logpdf(x) - kl_divergence(given, modelled.conditional([0], x))
    if not wrong:
        return Sides(elbo, -chain.bound(x))
    total = average(lambda z: float(chain.model[0].logpdf(x, z)), given.marginal([0]))
    # z_i in the encoder needs z_{i-1} (x for the first layer), in the decoder z_{i+1}
    total -= average(partial(_printed_layer, chain, 0, x), given.marginal([1]))
    total -= average(partial(_printed_layer, chain, 1, x), given.marginal([0, 2]))
    total -= average(lambda z: kl_divergence(chain.forward[2].at(z), chain.prior), given.marginal([1]))
    return Sides(elbo, total)


def _printed_layer(chain: Chain, i: int, x: Array, z: Array) -> float:
    """KL(q(z_{i+1} | below) || p(z_{i+1} | above)), z = (below, above), or above alone on top of x."""
    below = x if i == 0 else z[:1]
    return kl_divergence(chain.forward[i].at(below), chain.model[i + 1].at(z[-1:]))
