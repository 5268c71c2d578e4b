"""The public names, with the arguments that their users were promised."""

import inspect

import pytest
import torch

import tinsmith.families.trm as trm
import tinsmith.retrieval as retrieval


@pytest.mark.parametrize("package", [trm, retrieval], ids=lambda package: package.__name__)
def test_every_name_exists_and_says_what_it_is(package) -> None:
    for name in package.__all__:
        if name != "FAMILY":
            assert inspect.getdoc(getattr(package, name)), name


def test_the_model_with_all_it_takes() -> None:
    network = trm.MLPMixer1D(
        dim=8, depth=1, seq_len=6, expansion_factor=4, expansion_factor_token=0.5, dropout=0.0
    )
    model = trm.TinyRecursiveModel(
        dim=8,
        num_tokens=4,
        network=network,
        num_refinement_blocks=3,
        num_latent_refinements=6,
        halt_loss_weight=1.0,
        num_register_tokens=0,
        max_recursion_depth=1000,
    )
    predictions, exit_steps = model.predict(
        torch.zeros(2, 6, dtype=torch.long), halt_prob_thres=0.5, max_deep_refinement_steps=12
    )
    assert predictions.shape == (2, 6)
    assert exit_steps.tolist() == [12, 12]
    assert trm.prepare_code_input("context", "query", "<sep>") == "context<sep>query"
    assert trm.pad_sequence([1], 2) == [1, 0]
    assert trm.load_tokenizer("chars").vocab_size > 90
