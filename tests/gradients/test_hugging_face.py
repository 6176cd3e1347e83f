"""Statistics of Hugging Face's models, small and at random weights, against one backward pass a sample."""

import pytest
import torch
import torch.nn.functional as F
from zoo import slowly, t10, values

from sfolib._utils.errors import InputError
from sfolib.gradients.statistics import full_gradient_sqnorm, gradient_statistics

CE = F.cross_entropy
transformers = pytest.importorskip("transformers")


def bert():
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return transformers.BertForSequenceClassification(config)


def gpt2():
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


def llama():
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return transformers.LlamaForCausalLM(config)


def classes(output, y):
    return CE(output.logits, y)


def next_tokens(output, y):
    return CE(output.logits[:, :-1].flatten(0, 1), y[:, 1:].flatten())


def own(output, _y):
    return output.loss


def language(make, how):
    torch.manual_seed(0)
    ids, y = torch.randint(3, 50, (6, 10)), torch.arange(6) % 2
    mask = torch.ones_like(ids)
    mask[0, 7:] = mask[3, 5:] = 0
    model = make().double().eval()
    labels, loss_fn = (y, classes) if make is bert else (ids, next_tokens)
    x = {"ids": ids, "mask": {"input_ids": ids, "attention_mask": mask}, "own": {"input_ids": ids, "labels": labels}}
    if how == "own":
        return model, transformers.BatchEncoding(x[how]), None, own
    return model, x[how], labels, loss_fn


@pytest.mark.parametrize("how", ["ids", "mask", "own"])
@pytest.mark.parametrize("make", [bert, gpt2, llama])
@pytest.mark.filterwarnings("ignore")
def test_hugging_face(make, how):
    """In float64, but that Llama's norm and the models' own losses go through float32."""
    model, x, y, loss_fn = language(make, how)
    wanted = t10(slowly(model, loss_fn, x, y))
    with pytest.warns(UserWarning, match="per-sample gradients are formed"):
        found = gradient_statistics(model, loss_fn, x, y)
    rel = 1e-6 if make is llama or how == "own" else 1e-10
    assert values(found) == pytest.approx(wanted, rel=rel)
    assert full_gradient_sqnorm(model, loss_fn, (x, y)) == pytest.approx(wanted[0], rel=rel)


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.filterwarnings("ignore")
def test_token_means_over_padded_samples_are_refused(make):
    model, x, _, _ = language(make, "own")
    x["labels"] = x["labels"].clone()
    x["labels"][0, 5:] = -100
    with pytest.raises(InputError, match="must be the mean over the batch"):
        gradient_statistics(model, own, x, None)
    with pytest.raises(InputError, match="must be the mean over the batch"):
        full_gradient_sqnorm(model, own, (x, None))
    with pytest.raises(InputError, match="random numbers"):
        gradient_statistics(bert().train(), classes, x["input_ids"], x["input_ids"][:, 0] % 2)
