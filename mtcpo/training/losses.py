"""Losses: their settings, the losses as pure functions of log-probabilities, and their catalogue.

Dimensions: B pairs, R rows of targets (2B for pairs, chosen rows first), T target tokens.

Notation: w chosen, l rejected; logp summed over target tokens (nats), m its mean over them. A loss uses either logp
or m; r is that value, transformed by `shaped` if `alpha` is not 0, and h = r_w - r_l. Losses return shape (B,).

To add a loss, write a function and add a row to LOSSES; a new parameter is a field of LossConfig. Recipes and `--help`
read the catalogue, so torch must not be imported at the top of this module, only inside functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mtcpo.core.config import Config, as_value_error
from mtcpo.core.errors import UserError
from mtcpo.core.user_code import check_code_allowed, explain_user_code, is_user_code, load_user_code

if TYPE_CHECKING:
    from torch import Tensor

    from mtcpo.models.head.targets import TokenScores

Number = Annotated[float, Field(allow_inf_nan=False)]


# --- settings ---------------------------------------------------------------------------------------------------------


class LossConfig(Config):
    """The loss and its parameters; a parameter that the loss does not use is refused unless it has its default."""

    loss: str = "sigmoid"
    """A name in LOSSES, or `python:package.module:function`, see `LossFunction`."""
    beta: Number = Field(default=0.1, gt=0)
    """The scale of rewards; for ipo, the target margin is 1 / (2 beta)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """sigmoid, simpo, alphapo, arpo: the probability that a preference label is wrong."""
    simpo_gamma: Number = Field(default=0.5, ge=0)
    """simpo, alphapo: the target margin, after beta."""
    alpha: Number = 0.0
    """The shape of rewards, with any preference loss: (1 - p^-alpha) / alpha; 0: log p. Default of alphapo: 0.25."""
    arpo_eta: Number = Field(default=0.9, gt=0)
    arpo_kappa: Number = Field(default=0.4, ge=0)
    """arpo: rejection rate tau = clamp(eta e^(kappa |m_w - m_l|) - 1, 0, 1); the defaults of X-ALMA's code."""
    cpo_alpha: Number = Field(default=1.0, ge=0)
    """Weight of the NLL of the chosen target; simpo with cpo_alpha > 0 is CPO-SimPO."""
    nll_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Label smoothing of the NLL. Plain NLL would sharpen a model trained with smoothing; 0.1 is usual in MT."""
    nll_normalization: Literal["token", "sentence"] = "token"
    """NLL averaged over tokens (as in published code) or summed per sentence (as in the CPO paper)."""
    output_router_logits: bool | None = None
    """Mixture of experts: add the router loss, which balances load. Default: as in the model's config."""
    router_aux_loss_coef: Annotated[Number, Field(ge=0)] | None = None
    """Weight of the router loss; setting it switches the loss on. Default: the model's."""

    @field_validator("loss", mode="before")
    @classmethod
    @as_value_error()
    def _is_a_loss(cls, name: Any, info: ValidationInfo) -> Any:
        if isinstance(name, str) and is_user_code(name):
            return check_code_allowed(name, bool(info.context and info.context.get("allow_code")))
        if name not in LOSSES:
            raise UserError(f"choose from {', '.join(LOSSES)}; the CPO paper's is sigmoid")
        return name

    @model_validator(mode="before")
    @classmethod
    def _set_defaults_of_the_loss(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("loss") in LOSSES:
            return {**LOSSES[data["loss"]].defaults, **data}
        return data

    @model_validator(mode="after")
    def _parameters_have_an_effect(self) -> LossConfig:
        for name in LOSS_PARAMETERS:
            value = getattr(self, name)
            if name not in loss_parameters(self.loss) and value != LossConfig.model_fields[name].default:
                raise ValueError(
                    f"{name} = {value:g} has no meaning for the loss {self.loss!r}, only for "
                    f"{', '.join(losses_with(name))}; leave it out"
                )
        if self.output_router_logits is False and self.router_aux_loss_coef:
            raise ValueError("router_aux_loss_coef without output_router_logits has no effect; leave one of them out")
        return self


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probabilities (float32, nats) and target lengths (tokens) of B pairs; each of shape (B,).

    chosen, rejected: summed over target tokens. chosen_mean, rejected_mean: means over them.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def chosen_mean(self) -> Tensor:
        """m_w, shape (B,)."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        """m_l, shape (B,)."""
        return self.rejected / self.rejected_tokens


def pair_logps(scores: TokenScores) -> PairLogps:
    """Sum token log-probabilities (2B, T) over targets and split them into chosen and rejected."""
    from mtcpo.models.head.targets import IGNORE

    chosen, rejected = scores.token_logps.sum(-1).chunk(2)
    chosen_tokens, rejected_tokens = (scores.labels != IGNORE).sum(-1).chunk(2)
    return PairLogps(chosen, rejected, chosen_tokens, rejected_tokens)


LossFunction = Callable[[PairLogps, LossConfig], "Tensor"]
"""A preference loss: (logps, config) -> one value for each pair, shape (B,), differentiable with respect to `logps`.

A pair's value must depend only on that pair: the function is called with some pairs of an optimizer step at a time, and
the values are averaged over the step. The NLL term (`cpo_alpha`) is added separately.
"""


# --- the losses -------------------------------------------------------------------------------------------------------


def shaped(logps: Tensor, alpha: float) -> Tensor:
    """(1 - e^(-alpha x)) / alpha, which is (1 - p^-alpha) / alpha for p = e^x; x for alpha = 0.

    The reward of AlphaPO (arXiv 2501.03884). Computed from log-probabilities, because p underflows in float32
    below e^-103. With alpha > 0, it falls exponentially with x: alpha * |x| above 88 overflows however it is computed,
    so alpha must be small for losses on summed log-probabilities (sigmoid, hinge, arpo).
    """
    # expm1, not exp: 1 - e^(-alpha x) would lose all digits for alpha near 0.
    return logps if alpha == 0 else -(-alpha * logps).expm1() / alpha


def _sum_margin(logps: PairLogps, alpha: float) -> Tensor:
    """H = r_w - r_l of summed log-probabilities, shape (B,)."""
    return shaped(logps.chosen, alpha) - shaped(logps.rejected, alpha)


def _mean_margin(logps: PairLogps, alpha: float) -> Tensor:
    """H = r_w - r_l of mean log-probabilities, shape (B,)."""
    return shaped(logps.chosen_mean, alpha) - shaped(logps.rejected_mean, alpha)


def smoothed_sigmoid(margin: Tensor, label_smoothing: float) -> Tensor:
    """-(1 - eps) log sigma(x) - eps log sigma(-x)."""
    from torch.nn.functional import logsigmoid

    return -(1 - label_smoothing) * logsigmoid(margin) - label_smoothing * logsigmoid(-margin)


def sigmoid_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """-log sigma(beta h), smoothed; CPO eq. 3 (arXiv 2401.08417)."""
    return smoothed_sigmoid(config.beta * _sum_margin(logps, config.alpha), config.label_smoothing)


def hinge_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """max(0, 1 - beta h); SLiC (arXiv 2305.10425)."""
    return (1 - config.beta * _sum_margin(logps, config.alpha)).relu()


def ipo_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """(h - 1 / (2 beta))^2 on mean log-probabilities; IPO eq. 17 (arXiv 2310.12036)."""
    return (_mean_margin(logps, config.alpha) - 1 / (2 * config.beta)) ** 2


def simpo_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """-log sigma(beta h - gamma) on mean log-probabilities, smoothed; SimPO eq. 6 (arXiv 2405.14734).

    With a nonzero alpha, the default of "alphapo", it is AlphaPO (arXiv 2501.03884): h of transformed rewards.
    """
    margin = _mean_margin(logps, config.alpha)
    return smoothed_sigmoid(config.beta * margin - config.simpo_gamma, config.label_smoothing)


def rejection_rate(logps: PairLogps, config: LossConfig) -> Tensor:
    """Return tau = clamp(eta e^(kappa |m_w - m_l|) - 1, 0, 1), shape (B,), without gradient; X-ALMA (2410.03115).

    How hard to push the rejected down: not at all if the model finds it as good as the chosen, fully from a gap of
    ln(2 / eta) / kappa. eta = 1 is the paper's formula, whose eta is kappa here.
    """
    gap = (logps.chosen_mean.detach() - logps.rejected_mean.detach()).abs()
    return (config.arpo_eta * (config.arpo_kappa * gap).exp() - 1).clamp(0, 1)


def arpo_loss(logps: PairLogps, config: LossConfig) -> Tensor:
    """-log sigma(beta (r_w - tau r_l)), smoothed, tau by `rejection_rate`; ARPO of X-ALMA (arXiv 2410.03115)."""
    chosen, rejected = shaped(logps.chosen, config.alpha), shaped(logps.rejected, config.alpha)
    margin = chosen - rejection_rate(logps, config) * rejected
    return smoothed_sigmoid(config.beta * margin, config.label_smoothing)


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LossSpec:
    """A row of LOSSES: a loss and its description.

    function: the preference term; None: no preference term, and training needs no pairs.
    title: its name in tables. paper: arXiv number, or "". help: one line for the docs.
    parameters: the settings that it uses, among those that only some losses use.
    length_normalized: uses means over target tokens, not sums; rewards are logged accordingly.
    defaults: parameter -> default, if it differs from LossConfig's.
    """

    function: LossFunction | None
    title: str
    paper: str
    help: str
    parameters: tuple[str, ...]
    length_normalized: bool = False
    defaults: Mapping[str, float] = field(default_factory=dict)


PAIRWISE = ("beta", "alpha", "cpo_alpha")
"""Parameters of all built-in preference losses."""

ALPHAPO_ALPHA = 0.25
"""As in the AlphaPO paper's runs with Mistral and Llama 3 (arXiv 2501.03884, table 3)."""

LOSSES = {
    "sft": LossSpec(None, "SFT", "", "NLL of the references alone, without preferences", ()),
    "sigmoid": LossSpec(sigmoid_loss, "CPO", "2401.08417", "logistic loss on the difference of log-probabilities",
                        (*PAIRWISE, "label_smoothing")),
    "hinge": LossSpec(hinge_loss, "SLiC", "2305.10425", "hinge loss on the difference of log-probabilities", PAIRWISE),
    "ipo": LossSpec(ipo_loss, "IPO", "2310.12036",
                    "squared distance of the difference of mean log-probabilities from 1 / (2 beta)",
                    PAIRWISE, length_normalized=True),
    "simpo": LossSpec(simpo_loss, "SimPO", "2405.14734",
                      "logistic loss on the difference of mean log-probabilities, minus a margin",
                      (*PAIRWISE, "label_smoothing", "simpo_gamma"), length_normalized=True),
    "alphapo": LossSpec(simpo_loss, "AlphaPO", "2501.03884", "SimPO with rewards reshaped by alpha",
                        (*PAIRWISE, "label_smoothing", "simpo_gamma"), length_normalized=True,
                        defaults={"alpha": ALPHAPO_ALPHA}),
    "arpo": LossSpec(arpo_loss, "ARPO", "2410.03115",
                     "CPO that penalizes a rejected translation less if it is close to the chosen one",
                     (*PAIRWISE, "label_smoothing", "arpo_eta", "arpo_kappa")),
}  # fmt: skip
"""Value of --loss -> the loss."""

FOR_EVERY_LOSS = {"loss", "nll_smoothing", "nll_normalization", "output_router_logits", "router_aux_loss_coef"}
"""Settings of LossConfig that do not depend on the loss."""


def list_parameters() -> tuple[str, ...]:
    """Return the settings that only some losses use: the fields of LossConfig that rows of LOSSES name."""
    parameters = tuple(name for name in LossConfig.model_fields if name not in FOR_EVERY_LOSS)
    used = {name for spec in LOSSES.values() for name in spec.parameters}
    # Otherwise a setting that no loss looks at would be accepted, and do nothing.
    odd = used.symmetric_difference(parameters)
    assert not odd, f"{', '.join(sorted(odd))}: a parameter is a field of LossConfig and named in a row of LOSSES"
    return parameters


LOSS_PARAMETERS = list_parameters()
"""Settings of LossConfig that only some losses use."""


def loss_parameters(loss: str) -> tuple[str, ...]:
    """Return the parameters that a loss uses; custom code may use any of them."""
    return LOSSES[loss].parameters if loss in LOSSES else LOSS_PARAMETERS


def losses_with(parameter: str) -> list[str]:
    """Return the names of the losses that use a parameter."""
    return [name for name, spec in LOSSES.items() if parameter in spec.parameters]


def loss_table() -> str:
    """Return the catalogue of losses as a Markdown table for the docs."""
    rows = ["| `--loss` | title | what it does | parameters | paper |", "|---|---|---|---|---|"]
    for name, spec in LOSSES.items():
        parameters = ", ".join(f"`{parameter}`" for parameter in spec.parameters)
        paper = f"[arXiv {spec.paper}](https://arxiv.org/abs/{spec.paper})" if spec.paper else ""
        rows.append(f"| `{name}` | {spec.title} | {spec.help} | {parameters} | {paper} |")
    return "\n".join(rows) + "\n"


# --- custom losses ----------------------------------------------------------------------------------------------------


def find_loss(loss: str) -> LossSpec:
    """Return the row of a loss; custom code (`python:package.module:function`) is imported.

    Raises:
        UserError: the code cannot be imported, or is not a function.
    """
    return LOSSES[loss] if loss in LOSSES else custom_loss(load_user_code(loss, "train.loss"), loss)


def custom_loss(function: LossFunction, name: str) -> LossSpec:
    """Return the row of a custom function; if it has `length_normalized = True`, means are logged as rewards."""
    normalized = bool(getattr(function, "length_normalized", False))

    def checked(logps: PairLogps, config: LossConfig) -> Tensor:
        with explain_user_code(f"loss {name}"):
            values = function(logps, config)
        shape = getattr(values, "shape", None)
        if shape != logps.chosen.shape:
            got = type(values).__name__ if shape is None else f"shape {tuple(shape)}"
            raise UserError(
                f"loss {name}: one value for each pair is needed, a tensor of shape {tuple(logps.chosen.shape)} "
                f"(got {got})"
            )
        if logps.chosen.requires_grad and not values.requires_grad:
            raise UserError(f"loss {name}: its value has no gradient; compute it from `logps` with torch's functions")
        return values

    return LossSpec(checked, name, "", "custom Python code", LOSS_PARAMETERS, normalized)


# --- the NLL ----------------------------------------------------------------------------------------------------------


def chosen_nll(scores: TokenScores, config: LossConfig) -> Tensor:
    """Return the (smoothed) NLL, summed over the tokens of the chosen targets (the first rows); a scalar."""
    rows = len(scores.labels) if config.loss == "sft" else len(scores.labels) // 2
    smoothing = config.nll_smoothing
    return -((1 - smoothing) * scores.token_logps[:rows] + smoothing * scores.mean_logps[:rows]).sum()
