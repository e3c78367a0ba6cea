import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support import reference_loss

from mtcpo.core.config import Config, load_section
from mtcpo.core.errors import UserError
from mtcpo.training import losses
from mtcpo.training.arguments import router_weight
from mtcpo.training.losses import (
    LOSS_PARAMETERS,
    LOSSES,
    LossConfig,
    PairLogps,
    list_parameters,
    loss_parameters,
    loss_table,
    losses_with,
    rejection_rate,
    shaped,
)
from mtcpo.training.meters import rewards


def preference_loss(name):
    return LOSSES[name].function


SIGMA = {x: 1 / (1 + math.exp(-x)) for x in (-4.5, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 4.5)}
LN2 = math.log(2)


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
    # alpha = ln 2 makes e^(-alpha m) 2 for m_w = -1 and 4 for m_l = -2: r = -1 / ln 2 and -3 / ln 2, h = 2 / ln 2, and
    # dr/dm = e^(-alpha m) = 2 and 4. With beta = ln 2 and gamma 0.5 the argument is 1.5.
    "alphapo": (
        LossConfig(loss="alphapo", alpha=LN2, beta=LN2, simpo_gamma=0.5),
        -math.log(SIGMA[1.5]), -LN2 * SIGMA[-1.5] * 2 / 4, LN2 * SIGMA[-1.5] * 4 / 3,
    ),
    "alphapo, flattening": (  # alpha = -ln 2: e^(ln2 m) is 1/2 and 1/4; r = -1/2 and -3/4 over ln 2, h = 1/4 over ln 2
        LossConfig(loss="alphapo", alpha=-LN2, beta=4 * LN2, simpo_gamma=0.5),
        -math.log(SIGMA[0.5]), -4 * LN2 * SIGMA[-0.5] / 2 / 4, 4 * LN2 * SIGMA[-0.5] / 4 / 3,
    ),
    # On sums: e^(ln2 / 2 * 4) = 4 and e^(ln2 / 2 * 6) = 8; r = -3 and -7 over ln2 / 2, h = 4 over ln2 / 2.
    "sigmoid with alpha": (
        LossConfig(loss="sigmoid", alpha=LN2 / 2, beta=LN2 / 8),
        -math.log(SIGMA[1.0]), -LN2 / 8 * SIGMA[-1.0] * 4, LN2 / 8 * SIGMA[-1.0] * 8,
    ),
    "hinge with alpha": (LossConfig(loss="hinge", alpha=LN2 / 2, beta=LN2 / 16), 0.5, -LN2 / 4, LN2 / 2),
    # |m_w - m_l| = 1. kappa = ln 2, eta = 0.75: tau = 2 * 0.75 - 1 = 0.5; logp_w - tau logp_l = -4 + 3 = -1.
    "arpo": (
        LossConfig(loss="arpo", beta=0.5, arpo_eta=0.75, arpo_kappa=LN2),
        -math.log(SIGMA[-0.5]), -0.5 * SIGMA[0.5], 0.5 * 0.5 * SIGMA[0.5],
    ),
    "arpo smoothed": (
        LossConfig(loss="arpo", beta=0.5, arpo_eta=0.75, arpo_kappa=LN2, label_smoothing=0.1),
        -0.9 * math.log(SIGMA[-0.5]) - 0.1 * math.log(SIGMA[0.5]),
        0.5 * (-0.9 * SIGMA[0.5] + 0.1 * SIGMA[-0.5]),
        0.5 * 0.5 * (0.9 * SIGMA[0.5] - 0.1 * SIGMA[-0.5]),
    ),
    "arpo, nearly equal": (  # eta e^kappa = 0.95 < 1: tau = 0, the rejected is let alone
        LossConfig(loss="arpo", beta=0.25, arpo_eta=0.95, arpo_kappa=0.0),
        -math.log(SIGMA[-1.0]), -0.25 * SIGMA[1.0], 0.0,
    ),
    "arpo, far apart": (  # tau = min(e^3 - 1, 1) = 1: the sigmoid loss, h = 2
        LossConfig(loss="arpo", beta=0.5, arpo_eta=1.0, arpo_kappa=3.0),
        -math.log(SIGMA[1.0]), -0.5 * SIGMA[-1.0], 0.5 * SIGMA[-1.0],
    ),
    # r as for "sigmoid with alpha": -3 / a and -7 / a with a = ln2 / 2; tau 0.5; r_w - tau r_l = 0.5 / a.
    "arpo with alpha": (
        LossConfig(loss="arpo", alpha=LN2 / 2, beta=LN2, arpo_eta=0.75, arpo_kappa=LN2),
        -math.log(SIGMA[1.0]), -LN2 * SIGMA[-1.0] * 4, LN2 * SIGMA[-1.0] * 0.5 * 8,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WORKED)
def test_values_and_gradients_by_hand(name):
    config, value, by_chosen, by_rejected = WORKED[name]
    logps = worked_pair()
    loss = preference_loss(config.loss)(logps, config)
    loss.sum().backward()
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(value, abs=1e-6)
    assert logps.chosen.grad.item() == pytest.approx(by_chosen, abs=1e-6)
    assert logps.rejected.grad.item() == pytest.approx(by_rejected, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_equal_targets_give_log_2(smoothing):
    equal = PairLogps(torch.tensor([-3.0]), torch.tensor([-3.0]), torch.tensor([5]), torch.tensor([5]))
    config = LossConfig(loss="sigmoid", label_smoothing=smoothing)
    assert preference_loss("sigmoid")(equal, config).item() == pytest.approx(math.log(2))
    assert preference_loss("hinge")(equal, config).item() == 1.0
    assert preference_loss("ipo")(equal, LossConfig(loss="ipo", beta=0.1)).item() == pytest.approx(25.0)
    no_gamma = LossConfig(loss="simpo", simpo_gamma=0.0, label_smoothing=smoothing)
    assert preference_loss("simpo")(equal, no_gamma).item() == pytest.approx(math.log(2))


def test_extreme_margins_stay_finite():
    far = PairLogps(
        torch.tensor([-1.0, -4000.0]).requires_grad_(), torch.tensor([-4000.0, -1.0]), torch.ones(2), torch.ones(2)
    )
    loss = preference_loss("sigmoid")(far, LossConfig(beta=1.0))
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.0, 3999.0])
    assert far.chosen.grad.tolist() == pytest.approx([0.0, -1.0])


def test_alpha_bends_rewards_and_0_leaves_them_straight():
    logps = torch.tensor([-0.01, -1.0, -7.0], dtype=torch.float64)
    for alpha in (2.0, 0.25, -0.5):
        torch.testing.assert_close(shaped(logps, alpha), (1 - torch.exp(logps) ** -alpha) / alpha)
    assert shaped(logps, 0.0) is logps
    torch.testing.assert_close(shaped(logps.float(), 1e-9), logps.float(), rtol=1e-6, atol=0)


def test_bent_rewards_survive_probabilities_that_underflow():
    mean = torch.tensor([-150.0], requires_grad=True)
    assert torch.exp(mean).item() == 0
    reward = shaped(mean, 0.25)
    reward.backward()
    assert reward.item() == pytest.approx((1 - math.exp(37.5)) / 0.25, rel=1e-5)
    assert mean.grad.item() == pytest.approx(math.exp(37.5), rel=1e-5)


def test_alphapo_without_a_bend_is_simpo_and_arpo_far_apart_is_sigmoid():
    pairs = PairLogps(*torch.tensor([[-3.0, -20.0], [-9.0, -4.0], [3.0, 9.0], [4.0, 2.0]]))
    simpo = preference_loss("simpo")(pairs, LossConfig(loss="simpo", beta=2))
    assert preference_loss("alphapo")(pairs, LossConfig(loss="alphapo", alpha=0, beta=2)).tolist() == simpo.tolist()
    arpo = LossConfig(loss="arpo", arpo_eta=2.0, beta=0.2)
    sigmoid = preference_loss("sigmoid")(pairs, LossConfig(beta=0.2))
    assert preference_loss("arpo")(pairs, arpo).tolist() == pytest.approx(sigmoid.tolist())


def test_rejection_rate_by_hand():
    # Gaps of means: 0, 1, 1, 10, 1000; kappa ln 2, eta 0.75: 0.75 * 2^gap - 1 = -0.25, 0.5, 0.5, 767, inf.
    chosen = torch.tensor([-2.0, -1.0, -4.0, -1.0, -1.0], requires_grad=True)
    pairs = PairLogps(chosen, torch.tensor([-2.0, -2.0, -3.0, -11.0, -1001.0]), torch.ones(5), torch.ones(5))
    tau = rejection_rate(pairs, LossConfig(loss="arpo", arpo_eta=0.75, arpo_kappa=LN2))
    assert tau.tolist() == pytest.approx([0, 0.5, 0.5, 1, 1])
    assert not tau.requires_grad


def test_rewards_are_sums_or_means_without_gradient():
    logps = worked_pair()
    chosen, rejected = rewards(logps, LossConfig(loss="sigmoid", beta=0.1), LOSSES["sigmoid"])
    assert (chosen.item(), rejected.item()) == pytest.approx((-0.4, -0.6))
    assert not chosen.requires_grad
    assert not rejected.requires_grad
    chosen, rejected = rewards(logps, LossConfig(loss="simpo", beta=0.1), LOSSES["simpo"])
    assert (chosen.item(), rejected.item()) == pytest.approx((-0.1, -0.2))
    chosen, rejected = rewards(logps, LossConfig(loss="alphapo", beta=0.1, alpha=LN2), LOSSES["alphapo"])
    assert (chosen.item(), rejected.item()) == pytest.approx((-0.1 / LN2, -0.3 / LN2))
    chosen, rejected = rewards(logps, LossConfig(loss="arpo", beta=0.1), LOSSES["arpo"])
    assert (chosen.item(), rejected.item()) == pytest.approx((-0.4, -0.6))


def test_the_table_is_what_settings_and_docs_offer():
    for name, loss in LOSSES.items():
        assert LossConfig(loss=name).loss == name
        assert set(loss.parameters) <= set(LOSS_PARAMETERS)
        assert loss.length_normalized == (name in reference_loss.LENGTH_NORMALIZED)
        assert f"| `{name}` | {loss.title} |" in loss_table()
    with pytest.raises(ValueError, match=r"loss\n.*choose from sft, sigmoid, hinge, .*the CPO paper's is sigmoid"):
        LossConfig(loss="dpo")


@pytest.mark.parametrize(
    "wrong",
    [
        {"beta": 0}, {"beta": math.inf}, {"label_smoothing": 0.5}, {"cpo_alpha": -1}, {"nll_normalization": "word"},
        {"alpha": math.nan}, {"arpo_eta": 0}, {"arpo_kappa": -0.1}, {"simpo_gamma": -1}, {"router_aux_loss_coef": -1},
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LossConfig(**wrong)


def test_a_parameter_that_only_the_table_or_only_the_settings_name_is_an_error(monkeypatch):
    misspelled = {"sigmoid": replace(LOSSES["sigmoid"], parameters=("beta", "slope"))}
    monkeypatch.setattr(losses, "LOSSES", LOSSES | misspelled)
    with pytest.raises(
        AssertionError, match=r"^slope: a parameter is a field of LossConfig and named in a row of LOSS"
    ):
        list_parameters()
    monkeypatch.setattr(losses, "LOSSES", {name: row for name, row in LOSSES.items() if name != "arpo"})
    with pytest.raises(AssertionError, match=r"^arpo_eta, arpo_kappa: a parameter is"):
        list_parameters()


UNUSUAL = {name: LossConfig.model_fields[name].default + 0.2 for name in LOSS_PARAMETERS}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("parameter", UNUSUAL)
def test_a_parameter_has_an_effect_or_is_refused(name, parameter):
    """What the settings accept changes the loss; what would not change it is refused."""
    value = UNUSUAL[parameter]
    if parameter not in loss_parameters(name):
        with pytest.raises(UserError, match=rf"^r: {parameter} = {value:g} has no meaning for the loss '{name}', only"):
            load_section(LossConfig, {"loss": name, parameter: value}, "r")
        return
    configs = LossConfig(loss=name), LossConfig(**{"loss": name, parameter: value})
    if parameter == "cpo_alpha":
        usual, unusual = (float(reference_loss.total_loss(TWO_PAIRS, config)) for config in configs)
    else:
        usual, unusual = (preference_loss(name)(worked_pair(), config).item() for config in configs)
    assert abs(usual - unusual) > 1e-3
    # Written out, as resolved recipes are, a default is no setting.
    assert load_section(LossConfig, LossConfig(loss="sft").model_dump(exclude_none=True), "r") == LossConfig(loss="sft")


def test_the_error_of_a_section_inside_a_recipe_is_one_short_line():
    class Recipe(Config):
        train: LossConfig

    with pytest.raises(UserError) as error:
        load_section(Recipe, {"train": {"loss": "hinge", "label_smoothing": 0.1, "beta": 0.2}}, "r.toml")
    assert str(error.value) == (
        "r.toml: train: label_smoothing = 0.1 has no meaning for the loss 'hinge', only for "
        f"{', '.join(losses_with('label_smoothing'))}; leave it out"
    )


def test_alphapo_has_its_own_default_of_alpha():
    assert LossConfig(loss="alphapo").alpha == 0.25
    assert LossConfig(loss="alphapo", alpha=0).alpha == 0
    assert LossConfig(loss="simpo").alpha == 0


# --- the router loss of mixtures of experts ---------------------------------------------------------------------------

DENSE = SimpleNamespace(model_type="llama")
SWITCHED_ON = SimpleNamespace(model_type="mixtral", output_router_logits=True, router_aux_loss_coef=0.02)
SWITCHED_OFF = SimpleNamespace(model_type="mixtral", output_router_logits=False, router_aux_loss_coef=0.02)


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        (DENSE, {}, None),
        (DENSE, {"output_router_logits": False}, None),
        (DENSE, {"router_aux_loss_coef": 0.0}, None),
        (SWITCHED_ON, {}, 0.02),
        (SWITCHED_OFF, {}, 0.0),
        (SWITCHED_OFF, {"output_router_logits": True}, 0.02),
        (SWITCHED_OFF, {"router_aux_loss_coef": 0.5}, 0.5),
        (SWITCHED_ON, {"output_router_logits": True, "router_aux_loss_coef": 0.5}, 0.5),
        (SWITCHED_ON, {"output_router_logits": False}, 0.0),
        (SWITCHED_ON, {"router_aux_loss_coef": 0.0}, 0.0),
    ],
)
def test_weight_of_the_router_loss(model, settings, expected):
    assert router_weight(model, LossConfig(**settings)) == expected


def test_an_impossible_router_loss_is_refused():
    with pytest.raises(
        UserError, match="llama has no experts whose load could be balanced; leave out output_router_lo"
    ):
        router_weight(DENSE, LossConfig(router_aux_loss_coef=0.1))
    without = SimpleNamespace(model_type="granitemoe", output_router_logits=False, router_aux_loss_coef=None)
    with pytest.raises(UserError, match=r"config gives it no weight; set train\.router_aux_loss_coef"):
        router_weight(without, LossConfig(output_router_logits=True))
    with pytest.raises(ValueError, match="router_aux_loss_coef without output_router_logits has no effect"):
        LossConfig(output_router_logits=False, router_aux_loss_coef=0.1)


# --- the reference ----------------------------------------------------------------------------------------------------

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
        # equal means again give gamma; by sums r = 1 - 2^4 and 1 - 2^6, 1 - 2 and 1 - 2^2 over ln2
        (LossConfig(loss="alphapo", alpha=LN2, beta=2.0, simpo_gamma=1.5, cpo_alpha=0.5), LOGISTIC(-1.5) + 0.5 * 5 / 3),
        (
            LossConfig(alpha=LN2, beta=LN2 / 8, cpo_alpha=0.0),
            (LOGISTIC(6.0) + LOGISTIC(0.25)) / 2,
        ),
        # equal means: tau = 1.5 - 1; -4 + 3 = -1 and -1 + 1 = 0
        (LossConfig(loss="arpo", beta=0.5, arpo_eta=1.5, cpo_alpha=0.0), (LOGISTIC(-0.5) + LOGISTIC(0.0)) / 2),
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
