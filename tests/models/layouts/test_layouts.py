from dataclasses import replace

import pytest
import torch
from support.models import KINDS, PAIRS, preference_texts

from mtcpo.core.errors import UserError
from mtcpo.models.config import ModelOptions
from mtcpo.models.head.targets import IGNORE
from mtcpo.models.layouts.base import Example, pad_rows
from mtcpo.models.loading import max_positions_of
from mtcpo.models.prompts import TextExample, fill_prompt
from mtcpo.training.prepare import set_dropout

ENCODER_DECODERS = ("mt5", "marian", "m2m100", "nllb")
DECODERS = tuple(kind for kind in KINDS if kind not in ENCODER_DECODERS)


def examples_of(loaded, count=5, start=0):
    return loaded.layout.encode(preference_texts(count, start))


def row_layout(loaded):
    """The layout of a decoder-only model, with a row for each target; any other layout as it is."""
    return replace(loaded.layout, packs=False) if hasattr(loaded.layout, "packs") else loaded.layout


def own_inputs(loaded, batch):
    """What users of transformers pass for the same rows: labels where it expects them."""
    if not loaded.model.config.is_encoder_decoder:
        # transformers shifts labels itself: they stand at their own tokens.
        labels = torch.full_like(batch["labels"], IGNORE)
        labels[:, 1:] = batch["labels"][:, :-1]
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    both = {key: batch[key].repeat(2, 1) for key in ("input_ids", "attention_mask")}
    return both | {"labels": batch["labels"]}


def score(loaded, batch, objective=None):
    return loaded.layout.score(loaded.model, loaded.head, batch, objective)


@pytest.mark.parametrize("kind", KINDS)
def test_nll_is_the_models_own_token_for_token(load, kind):
    loaded = load(kind)
    examples = examples_of(loaded)
    batch, rows = loaded.layout.collate(examples), row_layout(loaded).collate(examples)
    options = {"output_router_logits": False} if kind == "mixtral" else {}
    with torch.no_grad():
        ours = score(loaded, batch)
        own = loaded.model(**own_inputs(loaded, rows), **options)
    real, own_real = batch["labels"] != IGNORE, rows["labels"] != IGNORE
    assert ours.labels is batch["labels"]
    assert torch.equal(batch["labels"][real], rows["labels"][own_real])
    assert float(-ours.token_logps.sum()) == pytest.approx(float(own.loss * real.sum()), rel=1e-5)
    own_logps = torch.log_softmax(own.logits[own_real].double(), -1)
    own_logps = own_logps.gather(1, batch["labels"][real, None]).squeeze(1)
    torch.testing.assert_close(ours.token_logps[real].double(), own_logps, atol=2e-5, rtol=1e-5)
    assert (ours.token_logps[~real] == 0).all()
    aligned = loaded.layout.model_logits(loaded.model, batch)
    torch.testing.assert_close(aligned[real], own.logits[own_real], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_the_models_own(load, kind):
    loaded = load(kind)
    set_dropout(loaded.model, 0.0)
    loaded.model.train()
    examples = examples_of(loaded, count=3)
    batch, rows = loaded.layout.collate(examples), row_layout(loaded).collate(examples)
    options = {"output_router_logits": False} if kind == "mixtral" else {}

    def gradients(loss):
        loaded.model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in loaded.model.named_parameters() if p.grad is not None}

    ours = gradients(score(loaded, batch, lambda part: -part.token_logps.sum()).loss)
    own = gradients(loaded.model(**own_inputs(loaded, rows), **options).loss * (batch["labels"] != IGNORE).sum())
    assert ours.keys() == own.keys()
    for name, grad in own.items():
        torch.testing.assert_close(
            ours[name], grad, atol=2e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_decoder_is_given_what_the_model_itself_derives(load, kind):
    loaded = load(kind)
    batch = loaded.layout.collate(examples_of(loaded))
    given = []
    handle = loaded.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["input_ids"]), with_kwargs=True
    )
    with torch.no_grad():
        score(loaded, batch)
        loaded.model(**own_inputs(loaded, batch))
    handle.remove()
    real = (batch["labels"] != IGNORE).cumsum(1)[:, -1]
    for row, length in enumerate(real):
        assert given[0][row, :length].tolist() == given[1][row, :length].tolist()
    torch.testing.assert_close(given[0], loaded.layout.decoder_input_ids(batch["labels"]))


@pytest.mark.parametrize("kind", ENCODER_DECODERS)
def test_generation_starts_from_the_tokens_that_training_saw(load, kind):
    loaded = load(kind)
    examples = examples_of(loaded)
    labels = loaded.layout.collate(examples)["labels"]
    batch = loaded.layout.generation_batch(examples)
    settings = loaded.layout.generation_settings("de")
    sequences = loaded.model.generate(**batch, **settings, max_new_tokens=3, max_length=None, num_beams=1)
    assert set(sequences[:, 0].tolist()) == set(loaded.layout.decoder_input_ids(labels)[:, 0].tolist())
    assert loaded.layout.new_tokens(sequences, batch) is sequences
    if kind in ("m2m100", "nllb"):
        code = loaded.tokenizer.convert_tokens_to_ids({"m2m100": "__de__", "nllb": "deu_Latn"}[kind])
        assert set(sequences[:, 1].tolist()) == set(labels[:, 0].tolist()) == {code}
        assert loaded.tokenizer.convert_ids_to_tokens(batch["input_ids"][0, 0].item()) in ("__en__", "eng_Latn")
    else:
        assert settings == {}


@pytest.mark.parametrize("kind", DECODERS)
def test_prompt_is_masked_and_is_what_generation_is_given(load, kind):
    loaded = load(kind)
    examples = examples_of(loaded)
    batch = row_layout(loaded).collate(examples)
    prompts = loaded.layout.generation_batch(
        loaded.layout.encode([TextExample(t.source, "en", "de") for t in preference_texts(5)])
    )
    for row in range(10):
        example, target = examples[row % 5], examples[row % 5].targets[row // 5]
        labels, ids = batch["labels"][row], batch["input_ids"][row]
        places = (labels != IGNORE).nonzero().flatten().tolist()
        # hidden[t] predicts labels[t], which is the next input.
        assert places == list(range(len(example.source) - 1, len(example.source) + len(target) - 1))
        assert [labels[t].item() for t in places] == [ids[t + 1].item() for t in places] == list(target)
        assert target[-1] == loaded.tokenizer.eos_token_id
        prompt = prompts["input_ids"][row % 5][prompts["attention_mask"][row % 5].bool()].tolist()
        assert prompt == list(example.source) == ids[: places[0] + 1].tolist()
    # All rows of generation go on from the last column.
    assert (prompts["attention_mask"][:, -1] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_order_and_other_rows_change_nothing(load, kind):
    loaded = load(kind)
    examples = examples_of(loaded, count=6)

    def sums(rows):
        with torch.no_grad():
            chosen, rejected = (
                score(loaded, loaded.layout.collate([examples[i] for i in rows])).token_logps.sum(-1).chunk(2)
            )
        return {i: (float(chosen[n]), float(rejected[n])) for n, i in enumerate(rows)}

    together = sums(range(6))
    assert len({logp for pair in together.values() for logp in pair}) == 12
    for rows in ([0], [5, 0], [3, 1, 4, 2], [5, 4, 3, 2, 1, 0]):
        for i, pair in sums(rows).items():
            assert pair == pytest.approx(together[i], abs=5e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_chosen_and_rejected_swaps_their_rows(load, kind):
    loaded = load(kind)
    examples = examples_of(loaded, count=4)
    swapped = [Example(e.source, e.targets[::-1]) for e in examples]
    with torch.no_grad():
        one, other = (score(loaded, loaded.layout.collate(group)).token_logps.sum(-1) for group in (examples, swapped))
    torch.testing.assert_close(other, one.roll(4), atol=5e-4, rtol=1e-5)


@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_one_target_a_source(load, kind):
    loaded = load(kind)
    texts = [TextExample(source, "en", "de", (target,)) for source, target in PAIRS[:3]]
    single = loaded.layout.collate(loaded.layout.encode(texts))
    double = loaded.layout.collate(
        loaded.layout.encode([TextExample(t.source, "en", "de", t.targets * 2) for t in texts])
    )
    assert len(single["labels"]) == 3
    with torch.no_grad():
        ours = score(loaded, single).token_logps.sum(-1)
        torch.testing.assert_close(ours.repeat(2), score(loaded, double).token_logps.sum(-1))


@pytest.mark.parametrize(("kind", "aux"), [("mixtral", True), ("llama", False), ("mt5", False)])
def test_router_loss_is_returned(load, kind, aux):
    loaded = load(kind)
    scored = score(loaded, loaded.layout.collate(examples_of(loaded)))
    assert (scored.router_loss is not None) == aux
    assert not aux or float(scored.router_loss.detach()) > 0.5


# --- collation, by hand ---------------------------------------------------------------------------------------------

TWO = [Example((11, 12, 1), ((21, 1), (22, 23, 1))), Example((13, 1), ((24, 25, 26, 1), (27, 1)))]


def test_collate_encoder_decoder_by_hand(load):
    layout = load("mt5").layout
    batch = layout.collate(TWO)
    assert batch["input_ids"].tolist() == [[11, 12, 1], [13, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    n = IGNORE
    assert batch["labels"].tolist() == [[21, 1, n, n], [24, 25, 26, 1], [22, 23, 1, n], [27, 1, n, n]]
    assert batch["decoder_input_ids"].tolist()[:2] == [[0, 21, 1, 0], [0, 24, 25, 26]]
    # The first token of both targets is predicted from the start alone, at one position.
    assert (batch["target_positions"].tolist(), batch["positions_per_source"]) == (
        [0, 1, 9, 10, 4, 5, 6, 7, 13],
        [4, 5],
    )
    assert batch["slot_of_token"].masked_fill(batch["labels"] == n, n).tolist() == [
        [0, 1, n, n], [4, 5, 6, 7], [0, 2, 3, n], [4, 8, n, n],
    ]  # fmt: skip
    assert layout.lengths(TWO[0]) == (3, 3)
    assert TWO[0].tokens == 8
    # 5 source tokens of 6, 11 target tokens of 16: a source counts once, whatever its targets.
    assert [int(n) for n in layout.count_tokens(batch)] == [16, 22]


def test_collate_decoder_only_by_hand(load):
    layout = row_layout(load("llama"))
    batch = layout.collate(TWO)
    n = IGNORE
    assert batch["input_ids"].tolist() == [
        [11, 12, 1, 21, 1, 0], [13, 1, 24, 25, 26, 1], [11, 12, 1, 22, 23, 1], [13, 1, 27, 1, 0, 0],
    ]  # fmt: skip
    assert batch["attention_mask"].sum(1).tolist() == [5, 6, 6, 4]
    assert batch["labels"].tolist() == [
        [n, n, 21, 1, n, n], [n, 24, 25, 26, 1, n], [n, n, 22, 23, 1, n], [n, 27, 1, n, n, n],
    ]  # fmt: skip
    assert (batch["target_positions"].tolist(), batch["positions_per_source"]) == (
        [2, 3, 14, 15, 16, 7, 8, 9, 10, 19, 20],
        [5, 6],
    )
    assert layout.lengths(TWO[0]) == (0, 6)
    assert layout.longest(TWO[0]) == 6
    assert [int(n) for n in layout.count_tokens(batch)] == [21, 24]
    left = layout.generation_batch(TWO)
    assert left["input_ids"].tolist() == [[11, 12, 1], [0, 13, 1]]
    assert left["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert layout.new_tokens(torch.tensor([[11, 12, 1, 7], [0, 13, 1, 8]]), left).tolist() == [[7], [8]]


def test_token_counts_of_batches_with_equal_shapes(load):
    """With one target a source, and sources as long as targets, both layouts have batches of the same shapes."""
    square = [Example((11, 1), ((21, 1),)), Example((12, 1), ((22, 1),))]
    encoder_decoder = load("mt5").layout
    assert [int(n) for n in encoder_decoder.count_tokens(encoder_decoder.collate(square))] == [8, 8]


def test_pad_rows():
    assert pad_rows([[1, 2], [], [3]], 9).tolist() == [[1, 2], [9, 9], [3, 9]]
    assert pad_rows([[1, 2], [3]], 9, left=True).tolist() == [[1, 2], [9, 3]]
    assert pad_rows([[1]], 0).dtype == torch.int64


# --- text to tokens -------------------------------------------------------------------------------------------------


def test_template_fields_are_filled_once():
    text = TextExample("a {tgt_name} and {source} in {braces}", "en", "de")
    template = "{src_name}>{tgt_name} {src_code}{tgt_code}: {source}|{source} {other}"
    assert fill_prompt(template, text, ("<en>", "<de>")) == (
        "English>German <en><de>: a {tgt_name} and {source} in {braces}|a {tgt_name} and {source} in {braces} {other}"
    )
    # Names of languages are only asked for where the template wants them: preference sets may not know theirs.
    assert fill_prompt("translate: {source}", TextExample("x", "und", "und"), ("", "")) == "translate: x"


def test_a_prompt_replaces_source_and_template(load):
    loaded = load("mt5", options=ModelOptions(prompt="translate to {tgt_name}: {source}"))
    tokenize = lambda text: tuple(loaded.tokenizer(text)["input_ids"])  # noqa: E731
    given = ("The bear sees nothing at all.", "en", "de", ("Das",))
    by_template, by_prompt, by_messages = loaded.layout.encode([
        TextExample(*given),
        TextExample(*given, prompt="The old mill."),
        TextExample(*given, prompt=({"role": "system", "content": "The"}, {"role": "user", "content": "old mill."})),
    ])  # fmt: skip
    assert by_template.source == tokenize("translate to German: The bear sees nothing at all.")
    assert by_prompt.source == tokenize("The old mill.")
    assert by_messages.source == tokenize("The\nold mill.")


def test_decoder_only_target_follows_the_prompt(load):
    loaded = load("llama")
    (example,) = loaded.layout.encode([TextExample("The old mill.", "en", "de", ("Die alte Mühle.",))])
    prompt = "Translate this from English to German:\nEnglish: The old mill.\nGerman:"
    assert example.source == tuple(loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    whole = loaded.tokenizer(prompt + " Die alte Mühle.")["input_ids"]
    assert list(example.source + example.targets[0]) == whole
    assert whole[-1] == loaded.tokenizer.eos_token_id


def test_prompt_tokens_are_kept_if_they_would_merge_with_the_target(load):
    loaded = load("gpt2")
    whole = loaded.tokenizer("The bear")["input_ids"]
    (example,) = loaded.layout.encode([TextExample("", "en", "de", ("ar",), prompt="The be\n")])
    assert example.source == tuple(loaded.tokenizer("The be\n")["input_ids"])
    # Cut inside a token: what generation would be given must not change with what follows it.
    layout = loaded.layout
    source = tuple(loaded.tokenizer("The bea", add_special_tokens=False)["input_ids"])
    target = layout._target("The bea", source, "", "r", special=True)
    assert tuple(whole)[: len(source)] != source
    assert loaded.tokenizer.decode(source + target) == "The bear"


def test_the_chat_template_is_used_if_the_model_has_one(load):
    loaded = load("gpt2")
    (example,) = loaded.layout.encode([TextExample("The old mill.", "en", "de", ("Die alte Mühle.",))])
    assert loaded.tokenizer.decode(example.source) == (
        "<|user|>Translate this from English to German. Give only the translation.\nThe old mill.<|end|><|assistant|>"
    )
    assert loaded.tokenizer.decode(example.targets[0]) == "Die alte Mühle.<|end|>"
    messages = ({"role": "system", "content": "Only"}, {"role": "user", "content": "The old mill."})
    (example,) = loaded.layout.encode([TextExample("", "und", "und", ("Die",), prompt=messages)])
    assert loaded.tokenizer.decode(example.source) == "<|system|>Only<|end|><|user|>The old mill.<|end|><|assistant|>"
    # A template of the user's own is no chat.
    plain = load("gpt2", options=ModelOptions(prompt="{source} =")).layout.encode(
        [TextExample("The old mill.", "en", "de", ("Die",))]
    )[0]
    assert loaded.tokenizer.decode(plain.source + plain.targets[0]) == "The old mill. = Die<|end|>"


def test_conversations_need_a_chat_template(load):
    with pytest.raises(UserError, match="conversations, but the tokenizer has no chat template"):
        load("llama").layout.encode([TextExample("", "und", "und", ("x",), prompt=({"role": "user", "content": "y"},))])


def test_targets_are_tokenized_as_targets(load):
    loaded = load("marian")
    text = PAIRS[9][1]
    (example,) = loaded.layout.encode([TextExample(PAIRS[9][0], "en", "de", (text,))])
    assert list(example.targets[0]) == loaded.tokenizer(text_target=text)["input_ids"]
    assert list(example.targets[0]) != loaded.tokenizer(text)["input_ids"]
    assert loaded.tokenizer.decode(example.targets[0], skip_special_tokens=True) == text


@pytest.mark.parametrize(("kind", "codes"), [("m2m100", "__{}__"), ("nllb", "{}_Latn")])
def test_several_language_pairs_keep_their_order(load, kind, codes):
    loaded = load(kind)
    names = {"en": "eng", "de": "deu", "fr": "fra"} if kind == "nllb" else {tag: tag for tag in ("en", "de", "fr")}
    pairs = [("en", "de"), ("de", "en"), ("en", "de"), ("fr", "de"), ("en", "fr")]
    examples = loaded.layout.encode(
        [TextExample(f"The old mill {n}", *pair, ("alte Mühle",) * (n % 3)) for n, pair in enumerate(pairs)]
    )
    token = loaded.tokenizer.convert_ids_to_tokens
    for n, ((src, tgt), example) in enumerate(zip(pairs, examples, strict=True)):
        assert token(example.source[0]) == codes.format(names[src])
        assert [token(target[0]) for target in example.targets] == [codes.format(names[tgt])] * (n % 3)


@pytest.mark.parametrize("kind", ["m2m100", "nllb"])
def test_the_tokenizer_keeps_its_languages(load, kind):
    """It is the user's: only while texts are tokenized has it their languages, an error included."""
    loaded = load(kind)
    before = loaded.tokenizer.src_lang, loaded.tokenizer.tgt_lang, loaded.tokenizer("The old mill")["input_ids"]
    loaded.layout.encode([TextExample("The old mill", "fr", "de", ("Die",))])
    with pytest.raises(UserError):
        loaded.layout.encode([TextExample("The old mill", "fr", "tlh")])
    with pytest.raises((TypeError, ValueError)):
        loaded.layout.encode([TextExample("The old mill", "fr", "de", (None,))])
    after = loaded.tokenizer.src_lang, loaded.tokenizer.tgt_lang, loaded.tokenizer("The old mill")["input_ids"]
    assert after == before


def test_an_unknown_language_is_named(load):
    with pytest.raises(UserError, match="no token for language 'tlh'"):
        load("nllb").layout.encode([TextExample("x", "en", "tlh")])


@pytest.mark.parametrize(
    ("kind", "limit"), [("mt5", None), ("marian", 64), ("m2m100", 64), ("llama", 512), ("gpt2", 96), ("mixtral", 160)]
)
def test_longest_sequence_of_a_model(load, kind, limit):
    loaded = load(kind)
    assert max_positions_of(loaded.model.config) == loaded.layout.max_positions == limit
