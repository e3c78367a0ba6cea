import math

import pytest
import reference_loss
import torch

from mtcpo.losses import PREFERENCE_LOSSES, PairLogps, rewards
from mtcpo.trainconfig import LossConfig

SIGMA = {x: 1 / (1 + math.exp(-x)) for x in (-1.5, -1.0, 1.0, 1.5)}


def worked_pair():
    """Chosen: four tokens, logp -4, mean -1. Rejected: three tokens, logp -6, mean -2. So h = 2, mean h = 1."""
    chosen, rejected = torch.tensor([-4.0], requires_grad=True), torch.tensor([-6.0], requires_grad=True)
    return PairLogps(chosen, rejected, torch.tensor([4]), torch.tensor([3]))


# value, d/d chosen, d/d rejected: written out from each formula.
WORKED = {
    "sigmoid": (LossConfig(loss="sigmoid", beta=0.5), -math.log(SIGMA[1.0]), -0.5 * SIGMA[-1.0], 0.5 * SIGMA[-1.0]),
    "sigmoid smoothed": (
        LossConfig(loss="sigmoid", beta=0.5, label_smoothing=0.1),
        -0.9 * math.log(SIGMA[1.0]) - 0.1 * math.log(SIGMA[-1.0]),
        0.5 * (-0.9 * SIGMA[-1.0] + 0.1 * SIGMA[1.0]),
        0.5 * (0.9 * SIGMA[-1.0] - 0.1 * SIGMA[1.0]),
    ),
    "hinge, inside": (LossConfig(loss="hinge", beta=0.25), 0.5, -0.25, 0.25),
    "hinge, satisfied": (LossConfig(loss="hinge", beta=1.0), 0.0, 0.0, 0.0),
    "ipo": (LossConfig(loss="ipo", beta=0.25), 1.0, -2.0 / 4, 2.0 / 3),
    "ipo, too far apart": (LossConfig(loss="ipo", beta=1.0), 0.25, 1.0 / 4, -1.0 / 3),
    "simpo": (
        LossConfig(loss="simpo", beta=2.0, simpo_gamma=0.5),
        -math.log(SIGMA[1.5]), -2 * SIGMA[-1.5] / 4, 2 * SIGMA[-1.5] / 3,
    ),
    "simpo smoothed": (
        LossConfig(loss="simpo", beta=2.0, simpo_gamma=0.5, label_smoothing=0.2),
        -0.8 * math.log(SIGMA[1.5]) - 0.2 * math.log(SIGMA[-1.5]),
        2 * (-0.8 * SIGMA[-1.5] + 0.2 * SIGMA[1.5]) / 4,
        2 * (0.8 * SIGMA[-1.5] - 0.2 * SIGMA[1.5]) / 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORKED)
def test_values_and_gradients_by_hand(name):
    config, value, by_chosen, by_rejected = WORKED[name]
    logps = worked_pair()
    loss = PREFERENCE_LOSSES[config.loss](logps, config)
    loss.sum().backward()
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(value, abs=1e-6)
    assert logps.chosen.grad.item() == pytest.approx(by_chosen, abs=1e-6)
    assert logps.rejected.grad.item() == pytest.approx(by_rejected, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_equal_targets_give_log_2(smoothing):
    equal = PairLogps(torch.tensor([-3.0]), torch.tensor([-3.0]), torch.tensor([5]), torch.tensor([5]))
    config = LossConfig(loss="sigmoid", label_smoothing=smoothing)
    assert PREFERENCE_LOSSES["sigmoid"](equal, config).item() == pytest.approx(math.log(2))
    assert PREFERENCE_LOSSES["hinge"](equal, config).item() == 1.0
    assert PREFERENCE_LOSSES["ipo"](equal, LossConfig(loss="ipo", beta=0.1)).item() == pytest.approx(25.0)
    no_gamma = LossConfig(loss="simpo", simpo_gamma=0.0, label_smoothing=smoothing)
    assert PREFERENCE_LOSSES["simpo"](equal, no_gamma).item() == pytest.approx(math.log(2))


def test_extreme_margins_stay_finite():
    far = PairLogps(
        torch.tensor([-1.0, -4000.0]).requires_grad_(), torch.tensor([-4000.0, -1.0]), torch.ones(2), torch.ones(2)
    )
    loss = PREFERENCE_LOSSES["sigmoid"](far, LossConfig(beta=1.0))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.0, 3999.0])
    assert far.chosen.grad.tolist() == pytest.approx([0.0, -1.0])


def test_rewards_are_sums_or_means_without_gradient():
    logps = worked_pair()
    chosen, rejected = rewards(logps, LossConfig(loss="sigmoid", beta=0.1))
    assert (chosen.item(), rejected.item()) == pytest.approx((-0.4, -0.6))
    assert not chosen.requires_grad
    assert not rejected.requires_grad
    chosen, rejected = rewards(logps, LossConfig(loss="simpo", beta=0.1))
    assert (chosen.item(), rejected.item()) == pytest.approx((-0.1, -0.2))


def test_every_loss_has_a_name_that_the_config_knows():
    for name in PREFERENCE_LOSSES:
        assert LossConfig(loss=name).loss == name
    with pytest.raises(ValueError, match="loss"):
        LossConfig(loss="dpo")
    for wrong in ({"beta": 0}, {"label_smoothing": 0.5}, {"cpo_alpha": -1}, {"nll_normalization": "word"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LossConfig(**wrong)


# The reference that the trainer is compared with is itself compared with numbers worked out here.
# Pair 1: chosen -1 -3 (sum -4), rejected -2 -2 -2 (sum -6). Pair 2: chosen -1 (sum -1), rejected -0.5 -1.5 (sum -2).
TWO_PAIRS = [
    (torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -2.0, -2.0])),
    (torch.tensor([-1.0]), torch.tensor([-0.5, -1.5])),
]
LOGISTIC = lambda x: math.log1p(math.exp(-x))  # noqa: E731


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # h = 2 and 1; NLL 5 nats over 3 tokens or 2 sentences
        (LossConfig(beta=0.5), (LOGISTIC(1.0) + LOGISTIC(0.5)) / 2 + 5 / 3),
        (LossConfig(beta=0.5, nll_normalization="sentence"), (LOGISTIC(1.0) + LOGISTIC(0.5)) / 2 + 5 / 2),
        (LossConfig(beta=0.5, cpo_alpha=0.0), (LOGISTIC(1.0) + LOGISTIC(0.5)) / 2),
        (LossConfig(loss="hinge", beta=0.75, cpo_alpha=0.3), 0.25 / 2 + 0.3 * 5 / 3),
        # mean h: -2 + 2 = 0 and -1 + 1 = 0
        (LossConfig(loss="ipo", beta=0.25, cpo_alpha=0.0), 4.0),
        (LossConfig(loss="simpo", beta=2.0, simpo_gamma=1.5, cpo_alpha=0.5), LOGISTIC(-1.5) + 0.5 * 5 / 3),
        (LossConfig(loss="sft"), 5 / 3),
        (LossConfig(loss="sft", nll_normalization="sentence"), 5 / 2),
    ],
)
def test_reference_by_hand(config, expected):
    assert float(reference_loss.total_loss(TWO_PAIRS, config)) == pytest.approx(expected, abs=1e-6)


def test_reference_with_a_smoothed_nll_by_hand():
    # Means over the vocabulary: -2 -4 and -6, 12 nats in all; 0.75 x 5 + 0.25 x 12 over 3 tokens or 2 sentences.
    means = [torch.tensor([-2.0, -4.0]), torch.tensor([-6.0])]
    config = LossConfig(loss="sft", nll_smoothing=0.25)
    assert float(reference_loss.total_loss(TWO_PAIRS, config, means)) == pytest.approx(6.75 / 3)
    config = LossConfig(beta=0.5, cpo_alpha=2.0, nll_smoothing=0.25, nll_normalization="sentence")
    expected = (LOGISTIC(1.0) + LOGISTIC(0.5)) / 2 + 6.75
    assert float(reference_loss.total_loss(TWO_PAIRS, config, means)) == pytest.approx(expected)


def test_reference_metrics_by_hand():
    found = reference_loss.metrics(TWO_PAIRS, LossConfig(beta=0.5))
    expected = {
        "logps/chosen": -2.5, "logps/rejected": -4.0, "rewards/chosen": -1.25, "rewards/rejected": -2.0,
        "rewards/margins": 0.75, "rewards/accuracies": 1.0, "nll_loss": 5 / 3,
    }  # fmt: skip
    assert found == pytest.approx(expected)
    assert reference_loss.metrics(TWO_PAIRS, LossConfig(loss="simpo"))["logps/chosen"] == pytest.approx(-1.5)
