"""Facts about the variational autoencoder: its bound against closed forms, quadrature and finite differences."""

import pytest
import torch
from torch import distributions, nn

from perdure.nets.vae import VAE


def vae(likelihood: str = "bernoulli", latent: int = 2, entries: int = 5) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return VAE(entries, (7, 6), latent, likelihood).double()  # type: ignore[arg-type]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(likelihood: str, n: int = 3, entries: int = 5) -> torch.Tensor:
    return draw(n, entries, seed=2) if likelihood == "gaussian" else draw(n, entries, seed=2).sigmoid()


def test_the_decoder_mirrors_the_encoder():
    def shapes(part: nn.Module) -> list[tuple[int, ...]]:
        return [tuple(layer.weight.shape) for layer in part if isinstance(layer, nn.Linear)]

    whole = VAE(784, (400, 300), 100, "bernoulli")
    assert shapes(whole.encoder) == [(400, 784), (300, 400), (2 * 100, 300)]
    assert shapes(whole.decoder) == [(300, 100), (400, 300), (784, 400)]
    assert sum(isinstance(layer, nn.ReLU) for layer in whole.modules()) == 4


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_divergence_is_that_of_the_draws(likelihood):
    """KL in closed form, which is what is left of -ELBO without log p, against a mean over 200,000 draws of z."""
    model, u = vae(likelihood), inputs(likelihood)
    with torch.no_grad():
        for head in (model.encoder[-1].weight, model.encoder[-1].bias):
            head.mul_(3)  # so that q is far from the prior
        mu, log_variance = model.encode(u)
        eps = draw(3, 2)
        closed = model(u, eps) - model.surprise(u, model.decoder(mu + (log_variance / 2).exp() * eps))
        q, prior = distributions.Normal(mu, (log_variance / 2).exp()), distributions.Normal(0.0, 1.0)
        z = mu + (log_variance / 2).exp() * draw(200_000, 3, 2, seed=3)
        by_draws = (q.log_prob(z) - prior.log_prob(z)).sum(2)
    assert float(closed.min()) > 0.1
    torch.testing.assert_close(closed, by_draws.mean(0), rtol=0.0, atol=float(4 * by_draws.std(0).max() / 200_000**0.5))


def test_surprise_is_the_likelihood_of_coins_and_of_normal_numbers():
    out, bits, numbers = draw(4, 5), (draw(4, 5, seed=5) > 0).double(), draw(4, 5, seed=6)
    coins = distributions.Bernoulli(logits=out).log_prob(bits).sum(1)
    torch.testing.assert_close(vae("bernoulli").surprise(bits, out), -coins)
    normal = distributions.Normal(out, 1.0).log_prob(numbers).sum(1)
    torch.testing.assert_close(vae("gaussian").surprise(numbers, out), -normal)
    heads = 3 / 4 * bits + 1 / 8  # a grey entry u counts as so many of n flips that showed heads, as n grows
    flips = distributions.Binomial(8, logits=out)
    pairs = torch.lgamma(torch.tensor(9.0)) - torch.lgamma(8 * heads + 1) - torch.lgamma(8 - 8 * heads + 1)
    torch.testing.assert_close(vae().surprise(heads, out), -(flips.log_prob(8 * heads) - pairs).sum(1) / 8)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_bound_lies_below_the_evidence_by_the_divergence_from_the_posterior(likelihood):
    """ELBO = log p(u) - KL(q(z|u) | p(z|u)), all by quadrature over one latent number."""
    model, u = vae(likelihood, latent=1), inputs(likelihood)
    grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    step, prior = grid[1] - grid[0], distributions.Normal(0.0, 1.0)
    with torch.no_grad():
        bound = -(torch.stack([model(u, e.expand(3, 1)) for e in grid[::20]]).T * prior.log_prob(grid[::20]).exp()).sum(
            1
        )
        out = model.decoder(grid[:, None])
        for row, elbo in zip(u, bound * 20 * step, strict=True):
            joint = -model.surprise(row.expand(len(grid), -1), out) + prior.log_prob(grid)
            evidence = torch.logsumexp(joint, 0) + step.log()
            mu, log_variance = model.encode(row[None])
            q = distributions.Normal(mu[0], (log_variance[0] / 2).exp()).log_prob(grid)
            gap = (q.exp() * (q - (joint - evidence))).sum() * step
            assert gap > 1e-4
            torch.testing.assert_close(elbo, evidence - gap, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_gradients_pass_through_the_draw(likelihood):
    """At a fixed eps, every parameter's gradient against finite differences."""
    model, u, eps = vae(likelihood), inputs(likelihood), draw(3, 2)
    model(u, eps).sum().backward()
    for param in model.parameters():
        flat, slope = param.data.view(-1), torch.zeros(param.numel(), dtype=torch.float64)
        for place in range(param.numel()):
            ends = []
            for side in (1e-6, -2e-6):
                flat[place] += side
                with torch.no_grad():
                    ends.append(model(u, eps).sum())
            flat[place] += 1e-6
            slope[place] = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(param.grad.view(-1), slope, rtol=1e-5, atol=1e-6)
        assert slope.any()


@pytest.mark.parametrize(("likelihood", "low", "high"), [("bernoulli", 0.0, 1.0), ("gaussian", -1e9, 1e9)])
def test_the_mean_is_what_is_least_surprising_of_all(likelihood, low, high):
    model, z = vae(likelihood), draw(4, 2)
    with torch.no_grad():
        mean, out = model.mean(z), model.decoder(z)
    assert bool(((mean >= low) & (mean <= high)).all())
    means = mean.clone().requires_grad_()
    if likelihood == "gaussian":
        model.surprise(means, out).sum().backward()
    else:  # of outputs, for a given input
        model.surprise(mean, leaf := out.clone().requires_grad_()).sum().backward()
        means.grad = leaf.grad
    torch.testing.assert_close(means.grad, torch.zeros_like(mean), rtol=0.0, atol=1e-12)
