import re

import pytest
from huggingface_hub import ModelCard
from support.models import PAIRS, preference_texts
from support.training import train_config

from mtcpo.core.config import load_section
from mtcpo.core.version import __version__
from mtcpo.models.config import LoraConfig
from mtcpo.models.prompts import TextExample
from mtcpo.training.config import TrainConfig
from mtcpo.training.losses import LOSSES
from mtcpo.training.model_card import model_card
from mtcpo.training.train import train

REPORT = {
    "model": "google/mt5-small",
    "settings": TrainConfig(loss="simpo", beta=2.0, args={"learning_rate": 1e-4}).model_dump(mode="json"),
    "arguments": {"learning_rate": 1e-4, "optim": "adamw_torch_fused", "num_train_epochs": 3.0},
    "data": {"origin": "prefs.jsonl", "sha256": "ab12", "languages": ["en", "pt-BR"]},
    "examples": 90, "dropped": {"empty_target": 3}, "steps": 12, "seconds": 1.5,
    "eval_examples": 20,
    "dev": {"segments": 50, "dropped": {}, "signatures": {"chrf": "nrefs:1|case:mixed"}},
    "best": {"step": 8, "metric": "chrf", "score": 33.25},
    "scores": {"eval_chrf": 33.25, "eval_rewards/accuracies": 0.75, "eval_loss": None},
}  # fmt: skip


def card_of(**changes):
    return model_card(REPORT | changes, "tuned")


def test_the_hub_reads_the_card():
    data = ModelCard(card_of()).data.to_dict()
    assert data["base_model"] == "google/mt5-small"
    assert data["language"] == ["en", "pt"]
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "translation")
    assert "cpo" in data["tags"]
    assert "license" not in data  # the user's to state
    lora = REPORT["settings"] | {"lora": LoraConfig().model_dump(mode="json")}
    assert ModelCard(card_of(settings=lora)).data.library_name == "peft"
    merged = REPORT["settings"] | {"lora": LoraConfig(merge=True).model_dump(mode="json")}
    assert ModelCard(card_of(settings=merged)).data.library_name == "transformers"


def test_data_scores_versions_and_citations():
    card = card_of()
    assert card.startswith("---\n")
    assert "# tuned\n" in card
    assert "- `prefs.jsonl`: 90 examples, 12 steps; languages of the last example: en to pt-BR\n- dropped: 3" in card
    assert "\n- dropped: 3 empty_target\n" in card
    assert "On 50 segments of the dev set. On 20 pairs that training did not see. The checkpoint of step 8" in card
    assert "| chrf | 33.25 | `nrefs:1\\|case:mixed` |\n| rewards/accuracies | 0.75 |  |\n" in card
    assert "eval_loss" not in card  # it was NaN
    assert "with loss `simpo` ([arXiv 2405.14734]" in card
    assert "2401.08417" in card
    assert (
        "set by the user or by default: `learning_rate` 0.0001, `optim` adamw_torch_fused, `num_train_epochs` 3.0\n"
        in card
    )
    assert "@software{mtcpo," in card
    assert f"mtcpo {__version__}, torch " in card
    assert "Not stated here" in card


def test_a_card_cites_the_paper_of_its_loss_if_there_is_one():
    for name, loss in LOSSES.items():
        citation = f"with loss `{name}`"
        if loss.paper:
            citation += f" ([arXiv {loss.paper}](https://arxiv.org/abs/{loss.paper}))"
        if loss.function is not None:
            assert f"{citation} and the NLL term" in card_of(settings=REPORT["settings"] | {"loss": name})


def test_the_recipe_in_the_card_can_be_loaded():
    import tomllib

    text = re.search(r"````toml\n(.*?)````", card_of(), re.DOTALL)[1]
    found = load_section(TrainConfig, tomllib.loads(text)["train"], "card")
    assert (found.loss, found.beta, found.args) == ("simpo", 2.0, {"learning_rate": 1e-4})


def test_the_card_has_no_path_of_this_machine(tmp_path):
    settings = TrainConfig(eval={"prefs": str(tmp_path / "held-out.jsonl")}).model_dump(mode="json")
    data = REPORT["data"] | {"origin": str(tmp_path / "prefs.jsonl")}
    card = card_of(model=str(tmp_path / "base"), settings=settings, data=data)
    assert str(tmp_path) not in card
    assert "`base`" in card
    assert "held-out.jsonl" in card
    assert ModelCard(card).data.base_model is None


@pytest.mark.parametrize("languages", [["und", "und"], ["de", "de"]])
def test_languages_that_are_unknown_or_equal(languages):
    card = card_of(data=REPORT["data"] | {"languages": languages})
    assert ModelCard(card).data.to_dict().get("language") == (None if "und" in languages else ["de"])


@pytest.mark.slow
def test_every_saved_model_has_a_card_and_equal_runs_have_equal_cards(model_folder, tmp_path):
    texts = [TextExample(en, "en", "de", (de,)) for en, de in PAIRS[:8]]
    sft = train_config(loss="sft", args={"max_steps": 1})
    for name in ("a/model", "b/model"):
        train(str(model_folder("mt5")), texts, sft, tmp_path / name, origin="references")
    cards = [(tmp_path / name / "model" / "README.md").read_text(encoding="utf-8") for name in ("a", "b")]
    assert cards[0] == cards[1]
    assert "fine-tuned on references" in cards[0]
    assert "- `references`: 8 examples" in cards[0]
    train(
        str(model_folder("llama")), preference_texts(4), train_config(lora=LoraConfig(r=2), args={"max_steps": 1}),
        tmp_path / "lora",
    )  # fmt: skip
    card = ModelCard.load(tmp_path / "lora" / "README.md")  # and not the card that peft writes
    assert card.data.library_name == "peft"
    assert "Low-rank adapters for" in card.text
