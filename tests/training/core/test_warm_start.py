"""Starting from weights of ours: those of a checkpoint, and those of the shipped versions' graphs."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from service.engine.runtime.session import Device, Session
from service.repository.golden import check_arrays, read_golden_arrays
from service.repository.manifest import VERSION_FILE, VersionFacts, read
from service.tasks import TASKS
from service.tasks.task import Outputs
from tests.training.conftest import Trained
from training.core.warm_start import PretrainedWeights, load_weights, read_pretrained, recalibrate_norms
from training.detection.learner import DetectorLearner
from training.errors import DataRejected
from training.images.learner import ImageLearner
from training.recipes.load import load_recipe
from training.recipes.recipe import Recipe
from training.speech.keywords.learner import KeywordLearner
from training.speech.recognition.learner import SpeechLearner
from training.text.classification.learner import TextClassifierLearner

MODELS = Path(__file__).parents[3] / "models"
HEADS = {
    "digit-scenes": "heat",
    "digits": "network.head",
    "keywords": "head",
    "languages": "head.2",
    "spoken-commands": "head",
}


def new_network(recipe: Recipe, labels: list[str]) -> nn.Module:
    """The network that a recipe would train, with the weights it would begin with."""
    content = recipe.model_dump(mode="json")
    make: dict[str, Callable[[], object]] = {
        "object-detection": lambda: DetectorLearner(content, labels, 1),
        "image-classification": lambda: ImageLearner(content, labels, [1.0] * len(labels), 1),
        "audio-classification": lambda: KeywordLearner(content, labels, 1),
        "text-classification": lambda: TextClassifierLearner(content, labels, 1),
        "speech-recognition": lambda: SpeechLearner(content, labels, 1),
    }
    torch.manual_seed(1)
    return cast(nn.Module, make[recipe.manifest.task]().graph.eval())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", HEADS)
def test_a_network_that_starts_from_a_shipped_version_answers_as_it_does(name: str) -> None:
    if not (MODELS / name).is_dir():
        pytest.skip("the model is not in this checkout")
    recipe, start = load_recipe(name), read_pretrained(MODELS / name)
    network = new_network(recipe, list(start.labels))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    said = load_weights(network, start, start.labels, HEADS[name])
    assert said.endswith(f"weights of {start.path}")
    assert not any(
        torch.equal(value, before[key]) for key, value in network.state_dict().items() if value.ndim > 1
    )
    facts = read(start.path / VERSION_FILE, VersionFacts)
    task = TASKS[recipe.manifest.task](start.path, facts)

    def run(inputs: Outputs) -> Outputs:
        with torch.inference_mode():
            outputs = network(*(torch.from_numpy(np.asarray(inputs[key])) for key in task.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return {key: value.numpy() for key, value in zip(task.outputs, outputs, strict=True)}

    # PyTorch's own answers of the day it was exported, then the graph's of today.
    assert max(check_arrays(start.path, facts.variants[0], task, run).values()) < 1e-4
    inputs, _ = read_golden_arrays(start.path)
    graph = Session(start.path / facts.variants[0].file, Device("cpu"))
    for output, difference in task.differences(graph.run(inputs), run(inputs)).items():
        assert difference <= facts.variants[0].tolerance[output]


@pytest.mark.parametrize("name", HEADS)
def test_with_other_labels_only_the_last_layer_is_learnt_anew(name: str) -> None:
    if not (MODELS / name).is_dir():
        pytest.skip("the model is not in this checkout")
    start, head = read_pretrained(MODELS / name), HEADS[name]
    labels = [*start.labels[:-1], "another"]
    network = new_network(load_recipe(name), labels)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert f"`{head}` is trained from scratch" in load_weights(network, start, labels, head)
    for key, value in network.state_dict().items():
        if value.ndim > 1 or key.startswith(f"{head}."):
            assert torch.equal(value, before[key]) == key.startswith(f"{head}."), key


def test_a_checkpoint_gives_all_its_weights(trained: Trained) -> None:
    start = read_pretrained(trained.job.run.best)
    assert start.labels == trained.learner.labels
    network = new_network(trained.job.recipe, list(start.labels))
    load_weights(network, start, start.labels, "network.head")
    for key, value in trained.learner.graph.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)


def test_a_network_of_another_size_or_kind_is_told_by_the_weight(trained: Trained) -> None:
    start = read_pretrained(trained.job.run.best)
    recipe = trained.job.recipe
    wider = recipe.model_copy(update={"network": recipe.network.model_copy(update={"widths": (8, 24)})})
    with pytest.raises(DataRejected, match=r"another size of network: network\.features\.3.* has the shape"):
        load_weights(new_network(wider, list(start.labels)), start, start.labels, "network.head")
    with pytest.raises(DataRejected, match=r"another kind or size of network: it has no a\.weight"):
        load_weights(nn.ModuleDict({"a": nn.Linear(2, 2)}), start, start.labels, "a.b")


def test_what_holds_no_weights_is_told(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.pt"
    text.write_text("no checkpoint")
    torch.save({"state_dict": {}}, other)
    for path, told in (
        (tmp_path / "nothing", "there is nothing to start from: .*nothing is no checkpoint"),
        (tmp_path, "there is nothing to start from"),
        (text, r"notes\.txt is no checkpoint of kotae-train"),
        (other, r"other\.pt is no checkpoint of kotae-train"),
    ):
        with pytest.raises(DataRejected, match=told):
            read_pretrained(path)


@pytest.mark.skipif(not (MODELS / "digits").is_dir(), reason="the model is not in this checkout")
def test_a_version_without_an_fp32_graph_is_told(tmp_path: Path) -> None:
    content = yaml.safe_load((MODELS / "digits" / "1" / VERSION_FILE).read_text(encoding="utf-8"))
    content["variants"][0]["precision"] = "int8"
    (tmp_path / VERSION_FILE).write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(DataRejected, match="has no fp32 variant to start from"):
        read_pretrained(tmp_path)


def test_texts_whose_tokens_are_made_anew_start_from_scratch_only() -> None:
    with pytest.raises(DataRejected, match="text-embedding starts from scratch only"):
        load_recipe("descriptions").changed(start=MODELS / "descriptions")


class _Two(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4),
        )  # fmt: skip


def test_settled_norms_change_no_answer_and_make_learning_begin_from_it() -> None:
    torch.manual_seed(0)
    network = _Two()
    folded = {
        "0.weight": torch.randn(8, 3, 3, 3), "0.weight_bias": torch.randn(8),
        "3.weight": 0.02 * torch.randn(4, 8, 3, 3), "3.weight_bias": torch.randn(4),
    }  # fmt: skip
    load_weights(network, PretrainedWeights(Path("x"), folded, ("a",)), ("a",), "none")
    pictures = 3 + 5 * torch.randn(16, 3, 12, 12)

    def answers(*, learning: bool) -> torch.Tensor:
        with torch.no_grad():
            return cast(torch.Tensor, network.train(learning)(pictures))

    expected = answers(learning=False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert (answers(learning=True) - expected).abs().max() > 1  # the first step would see another network
    network.load_state_dict(before)
    drawn = torch.get_rng_state()
    recalibrate_norms(network, [pictures[:8], pictures[8:]], network)
    assert torch.equal(torch.get_rng_state(), drawn)
    torch.testing.assert_close(answers(learning=False), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(answers(learning=True), expected, atol=1e-2, rtol=1e-2)
