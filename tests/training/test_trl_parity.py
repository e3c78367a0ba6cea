"""Agreement with TRL's CPOTrainer in loss, metrics and gradients, and the deliberate differences."""

import pytest
import torch
from support import trl as trl_peer
from support.models import preference_texts

from mtcpo.models.loading import load_model
from mtcpo.training.losses import LossConfig, PairLogps, sigmoid_loss
from mtcpo.training.meters import count_items

pytest.importorskip("trl.experimental.cpo", reason="TRL is not installed: pip install 'mtcpo[dev]' has it")

CASES = 6
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def peers(model_folder, tmp_path_factory):
    """A function from a layout to both trainers on its tiny model, each made once."""
    made = {}

    def peers_of(kind):
        if kind not in made:
            folder = model_folder("mt5" if kind == "t5" else kind)
            made[kind] = trl_peer.Peers(trl_peer.load_peer_model(kind, folder), tmp_path_factory.mktemp(kind))
        return made[kind]

    return peers_of


@pytest.mark.parametrize("kind", trl_peer.LAYOUTS)
@pytest.mark.parametrize("loss", trl_peer.LOSSES)
def test_loss_metrics_and_gradients_are_those_of_trl(peers, kind, loss):
    for settings in trl_peer.random_cases(loss, CASES):
        found = peers(kind).differences(settings)
        # Over 40 settings the gradients of pairs in one row are 1.0e-5 apart at most, those of two rows 7.7e-6: a beta
        # near 2 multiplies the rounding of log-probabilities near -60.
        gradients = found.pop("gradients")
        assert gradients <= (2 if kind == "llama" else 1) * TOLERANCE, (settings, gradients)
        assert all(difference <= TOLERANCE for difference in found.values()), (settings, found)


def test_the_cases_cover_every_parameter():
    for loss in trl_peer.LOSSES:
        cases = trl_peer.random_cases(loss, CASES)
        assert len({case["beta"] for case in cases}) == CASES
        assert {bool(case["alpha"]) for case in cases} == {True, False}
        assert loss == "alphapo" or {case["cpo_alpha"] > 0 for case in cases} == {True, False}
        assert loss in ("hinge", "ipo") or {case["label_smoothing"] > 0 for case in cases} == {True, False}


def test_the_comparison_detects_a_difference(peers, monkeypatch):
    settings = {"loss": "sigmoid", "beta": 0.3, "cpo_alpha": 1.0}
    assert max(peers("t5").differences(settings).values()) <= TOLERANCE
    monkeypatch.setattr(peers("t5").loaded.head, "transform", type(peers("t5").loaded.head.transform)(scale=1.001))
    assert min(peers("t5").differences(settings).values()) > TOLERANCE


# --- where we differ on purpose ---------------------------------------------------------------------------------------


def test_micro_batches_add_up_to_the_step_instead_of_being_averaged(peers):
    """TRL averages the token means of micro-batches, so a token of a short batch counts more than one of a long."""
    both, settings = peers("t5"), {"loss": "sigmoid", "beta": 0.2, "cpo_alpha": 1.0}
    halves = both.short[:3], both.whole[3:]
    examples = [*halves[0], *halves[1]]
    whole_loss = both.trl_numbers(settings, examples)[0].item()
    of_halves = [both.trl_numbers(settings, half)[0].item() for half in halves]
    assert abs(sum(of_halves) / 2 - whole_loss) > 1e-3
    trainer, model = both.ours(settings, examples), both.loaded.model
    batches = [both.loaded.layout.collate(half) for half in halves]
    step = sum(trainer._counts(batch) for batch in batches)
    shares = [trainer.compute_loss(model, batch, num_items_in_batch=step).item() for batch in batches]
    assert sum(shares) == pytest.approx(whole_loss, rel=1e-5)


def test_trl_has_no_nll_by_sentence(peers):
    """The CPO paper sums the NLL of a sentence; TRL has the mean over tokens only."""
    both, settings = peers("llama"), {"loss": "sigmoid", "beta": 0.2, "cpo_alpha": 0.5}
    by_sentence = both.our_numbers(settings | {"nll_normalization": "sentence"}, both.whole)[0]
    loss, logs, _ = both.trl_numbers(settings, both.whole)
    pairs, tokens = count_items(both.loaded.layout.collate(both.whole), sft=False).tolist()
    expected = loss.item() + 0.5 * logs["nll_loss"] * (tokens / pairs - 1)
    assert by_sentence.item() == pytest.approx(expected, rel=1e-5)


def test_the_nll_is_logged_even_with_weight_0(peers):
    """TRL logs 0 where cpo_alpha is 0, although just then the chosen may lose probability."""
    both, settings = peers("llama"), {"loss": "simpo", "cpo_alpha": 0.0}
    assert both.trl_numbers(settings, both.whole)[1]["nll_loss"] == 0
    with_weight = both.trl_numbers(settings | {"cpo_alpha": 1.0}, both.whole)[1]["nll_loss"]
    assert both.our_numbers(settings, both.whole)[1]["nll_loss"] == pytest.approx(with_weight, rel=1e-5)


def test_no_logits_are_logged(peers):
    """TRL logs the mean of all logits, padding included; we never compute them all."""
    both, settings = peers("t5"), {"loss": "sigmoid", "cpo_alpha": 1.0}
    assert "logits/chosen" in both.trl_numbers(settings, both.whole)[1]
    assert not [name for name in both.our_numbers(settings, both.whole)[1] if "logits" in name]


def test_alphapo_keeps_the_nll_term(peers):
    """TRL's alphapo sets cpo_alpha to 0, whatever value it is given."""
    both = peers("llama")
    assert both.trl_trainer(loss_type="alphapo", cpo_alpha=0.7, alpha=0.2).cpo_alpha == 0
    settings = {"loss": "alphapo", "alpha": 0.2, "beta": 1.5, "cpo_alpha": 0.7}
    ours = both.our_numbers(settings, both.whole)[0]
    loss, logs, _ = both.trl_numbers(settings | {"loss": "simpo"}, both.whole)
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    assert logs["nll_loss"] > 1


def test_rewards_survive_probabilities_that_underflow(peers):
    """TRL takes exp(logp) to a power: for a whole sentence 0, so its rewards are infinite or without gradient."""
    trainer = peers("llama").trl({"loss": "sigmoid", "beta": 0.1, "alpha": 0.05})
    numbers = torch.tensor([-120.0]), torch.tensor([-130.0])
    logps = [value.clone().requires_grad_() for value in numbers]
    trainer.cpo_loss(*logps)[0].sum().backward()
    assert not any(value.grad.isfinite().all() for value in logps)
    logps = [value.clone().requires_grad_() for value in numbers]
    config = LossConfig(beta=0.1, alpha=0.05)
    sigmoid_loss(PairLogps(*logps, torch.tensor([20]), torch.tensor([20])), config).sum().backward()
    # h = (e^6.5 - e^6) / 0.05 = 5234: sigma(-beta h) is 0 to the last digit; the other way round it is 1.
    assert [value.grad.item() for value in logps] == pytest.approx([0, 0], abs=1e-6)
    logps = [value.clone().requires_grad_() for value in reversed(numbers)]
    sigmoid_loss(PairLogps(*logps, torch.tensor([20]), torch.tensor([20])), config).sum().backward()
    assert [value.grad.item() for value in logps] == pytest.approx([-0.1 * 665.1416, 0.1 * 403.4288], rel=1e-5)


def test_smoothing_that_would_be_ignored_is_refused(peers):
    """TRL warns and ignores it."""
    trl, plain = (peers("llama").trl({"loss": "hinge", "beta": 0.1, "label_smoothing": e}) for e in (0.3, 0.0))
    logps = torch.tensor([-5.0]), torch.tensor([-6.0])
    assert trl.cpo_loss(*logps)[0].item() == plain.cpo_loss(*logps)[0].item()
    with pytest.raises(ValueError, match=r"label_smoothing = 0\.3 has no meaning for the loss 'hinge'"):
        LossConfig(loss="hinge", label_smoothing=0.3)


@pytest.mark.parametrize("kind", ["m2m100", "marian"])
def test_targets_are_tokenized_as_targets(model_folder, kind, tmp_path):
    """TRL tokenizes them as sources: M2M100 learns to emit the source's code, Marian gets ids of the wrong model."""
    loaded = load_model(str(model_folder(kind)), dtype="float32", device="cpu")
    (text,) = preference_texts(1)
    (ours,) = loaded.layout.encode([text])
    trainer = trl_peer.Peers(loaded, tmp_path).trl_trainer(loss_type="sigmoid")
    row = trainer.tokenize_row({"prompt": text.source, "chosen": text.targets[0], "rejected": text.targets[1]})
    assert row["prompt_input_ids"] == list(ours.source)
    decoded = loaded.tokenizer.decode(ours.targets[0], skip_special_tokens=True)
    assert decoded == text.targets[0]
    assert row["chosen_labels"] != list(ours.targets[0])
    if kind == "m2m100":
        english, german = loaded.tokenizer.convert_tokens_to_ids(["__en__", "__de__"])
        assert (row["chosen_labels"][0], ours.targets[0][0]) == (english, german)


def test_losses_that_trl_lacks_are_not_compared():
    """Fails when TRL gains a loss, which should then be compared too."""
    from trl.experimental.cpo import CPOConfig

    choices = CPOConfig.__dataclass_fields__["loss_type"].metadata["choices"]
    assert sorted(choices) == sorted(trl_peer.LOSSES)
