"""The loss and its metrics in the slowest and plainest way, to compare the trainer with.

One target at a time, without batches, padding or shared encodings; the model's own logits and labels; every formula
written out with scalars. Nothing of mtcpo's layouts' batches, log-probabilities, losses or trainer is used.
"""

import math

import torch

LENGTH_NORMALIZED = ("ipo", "simpo", "alphapo")
"""Losses that look at means over a target's tokens; all others look at sums."""


def rows_of(loaded, source, target):
    """Log-probabilities (T, V) at a target's positions, by the model's own forward pass."""
    if loaded.model.config.is_encoder_decoder:
        logits = loaded.model(input_ids=torch.tensor([source]), labels=torch.tensor([target])).logits[0]
    else:
        logits = loaded.model(input_ids=torch.tensor([source + target])).logits[0, len(source) - 1 : -1]
    return torch.log_softmax(logits.double(), -1)


def target_logps(loaded, source, target):
    """Log-probabilities (T,) of a target's tokens."""
    return torch.stack([row[token] for row, token in zip(rows_of(loaded, source, target), target, strict=True)])


def pairs_of(loaded, examples):
    """[(chosen logps (T,), rejected logps (T',))] of examples."""
    return [tuple(target_logps(loaded, e.source, target) for target in e.targets) for e in examples]


def chosen_means(loaded, examples):
    """[mean over the vocabulary (T,)] of the log-probabilities at the positions of chosen targets."""
    return [rows_of(loaded, e.source, e.targets[0]).mean(-1) for e in examples]


def reward(logps, config):
    """The reward of a target's token log-probabilities, before beta."""
    value = logps.mean() if config.loss in LENGTH_NORMALIZED else logps.sum()
    return (1 - (-config.alpha * value).exp()) / config.alpha if config.alpha else value


def preference(chosen, rejected, config):
    """The preference term of one pair of token log-probabilities."""
    h = reward(chosen, config) - reward(rejected, config)
    match config.loss:
        case "sigmoid":
            x = config.beta * h
        case "simpo" | "alphapo":
            x = config.beta * h - config.simpo_gamma
        case "hinge":
            return max(h * 0, 1 - config.beta * h)
        case "ipo":
            return (h - 1 / (2 * config.beta)) ** 2
        case "arpo":
            gap = abs(chosen.mean().item() - rejected.mean().item())
            tau = min(1.0, max(0.0, config.arpo_eta * math.exp(config.arpo_kappa * gap) - 1))
            x = config.beta * (reward(chosen, config) - tau * reward(rejected, config))
        case _:
            raise NotImplementedError(f"write the formula of {config.loss!r} here")
    e = config.label_smoothing
    return -(1 - e) * (1 / (1 + (-x).exp())).log() - e * (1 / (1 + x.exp())).log()


def nll(chosens, means, config):
    """NLL of chosen targets, lists of token log-probabilities (T,) and of their means over the vocabulary."""
    e = config.nll_smoothing
    total = -sum((1 - e) * logps.sum() + e * mean.sum() for logps, mean in zip(chosens, means, strict=True))
    return total / (sum(map(len, chosens)) if config.nll_normalization == "token" else len(chosens))


def total_loss(pairs, config, means=None):
    """The loss of one optimizer step; for sft the pairs have a chosen target only. `means` for a smoothed NLL."""
    chosens = [pair[0] for pair in pairs]
    likelihood = nll(chosens, means or [logps * 0 for logps in chosens], config)
    if config.loss == "sft":
        return likelihood
    terms = [preference(*pair, config) for pair in pairs]
    return sum(terms) / len(terms) + config.cpo_alpha * likelihood


def metrics(pairs, config):
    """What is logged for the pairs, as floats."""
    mean = config.loss in LENGTH_NORMALIZED
    values = [[float(logps.mean() if mean else logps.sum()) for logps in pair] for pair in pairs]
    chosen, rejected = ([pair[i] for pair in values] for i in (0, 1))
    better, worse = ([config.beta * float(reward(pair[i], config)) for pair in pairs] for i in (0, 1))
    average = lambda numbers: math.fsum(numbers) / len(pairs)  # noqa: E731
    return {
        "logps/chosen": average(chosen),
        "logps/rejected": average(rejected),
        "rewards/chosen": average(better),
        "rewards/rejected": average(worse),
        "rewards/margins": average(better) - average(worse),
        "rewards/accuracies": average([c > r for c, r in zip(better, worse, strict=True)]),
        "nll_loss": -math.fsum(float(pair[0].sum()) for pair in pairs) / sum(len(pair[0]) for pair in pairs),
    }
