"""What ChainCNN promises beyond the contract of test_spaces.py."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasenv.errors import InputError
from nasenv.spaces.chain_cnn import ChainCNN
from nasenv.spaces.space import SearchSpace
from nasenv.task import Images, Task

SHAPES = [(1, 4, 4), (3, 5, 9), (1, 8, 8), (3, 32, 32), (1, 1, 7), (2, 2, 3)]


def images(*shape, classes=10):
    return Task(Images(shape), classes)


def allowed(space: ChainCNN, named: dict[str, object], name: str) -> set[object]:
    """The rules of ChainCNN's card, written out a second time: the valid choices of a decision after those named."""
    if name == "depth":
        return set(range(1, space.max_layers + 1))
    i, part = int(name.split(".")[0][5:]), name.split(".")[1]
    _, height, width = space.task.shape
    for j in range(1, i):
        if j <= named["depth"] and named[f"layer{j}.operation"].endswith("pool"):
            height, width = -(-height // 2), -(-width // 2)
    fitting = {k for k in (1, 3, 5) if k // 2 < min(height, width)}  # the outermost weight can reach a pixel
    kernels = {"conv": fitting, "identity": {1}}
    kernels |= {name: fitting - {1} for name in ("sep_conv", "max_pool", "avg_pool")}
    if i > named["depth"]:
        return {{"operation": "conv", "kernel": 1, "width": space.widths[0], "skip": "no"}[part]}
    operation = named.get(f"layer{i}.operation")
    if part == "operation":
        return {o for o, ks in kernels.items() if ks}
    if part == "kernel":
        return kernels[operation]
    if part == "width":
        return set(space.widths) if operation.endswith("conv") else {space.widths[0]}
    before = (named.get(f"layer{i - 1}.operation"), named.get(f"layer{i - 1}.skip"))
    return {"no"} if i == 1 or before == ("identity", "no") else {"no", "yes"}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_follow_the_rules_on_the_card(shape):
    space = ChainCNN(max_layers=5, widths=(16, 4), task=images(*shape))
    for architecture in space.sample(40, np.random.default_rng(0)):
        named: dict[str, object] = {}
        for t, decision in enumerate(space.decisions):
            valid = space.mask(np.array(architecture[:t], dtype=np.int64).reshape(1, -1))[0]
            choices = {decision.choices[c] for c in np.flatnonzero(valid)}
            assert choices == allowed(space, named, decision.name), (architecture, decision.name)
            named[decision.name] = decision.choices[architecture[t]]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("max_layers", "widths"), [(1, (8, 16)), (2, (8, 16)), (3, (8,))])
def test_size_is_the_number_of_architectures_that_the_masks_leave(shape, max_layers, widths):
    space = ChainCNN(max_layers, widths, images(*shape))
    assert space.size == SearchSpace.size.fget(space)  # the base class enumerates


def test_size_does_not_overflow():
    # 32x32, 30 layers: at least 2 * (3 kernels * 3 widths) ways to go on after each convolution
    assert ChainCNN(30, task=images(3, 32, 32)).size > 18**29


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 9)], ids=str)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_canonical_architecture_is_the_same_function(shape, data):
    space = ChainCNN(max_layers=6, widths=(2, 3), task=images(*shape, classes=3))
    kinds = st.sampled_from([0, 0, 1, 2, 4, 4, 4, 4])  # many identities
    layers = data.draw(st.lists(st.tuples(kinds, *[st.integers(0, 1)] * 3), min_size=6, max_size=6))
    (architecture,) = space.complete([data.draw(st.integers(0, 5)), *(c for layer in layers for c in layer)])
    torch.manual_seed(0)
    network = space.build(architecture)
    canonical = space.build(space.canonical(architecture))
    for mine, theirs in zip(canonical.state_dict().values(), network.state_dict().values(), strict=True):
        mine.copy_(theirs)
    images_nchw = torch.randn(4, *shape)
    torch.testing.assert_close(canonical(images_nchw), network(images_nchw), rtol=0, atol=0)
    assert "identity" not in space.to_text(space.canonical(architecture)).split("|")[1:]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("identity", "identity"),
        ("identity|identity|identity", "identity"),
        ("identity|conv3x8|identity|max_pool3", "conv3x8|max_pool3"),
        ("conv3x8|identity|conv3x8|conv1x8+skip", "conv3x8|conv3x8|conv1x8+skip"),
        ("conv3x8|identity+skip", "conv3x8|identity+skip"),
    ],
)
def test_canonical_leaves_out_identities_without_skip(text, canonical):
    space = ChainCNN()
    assert space.to_text(space.canonical(space.from_text(text))) == canonical


def test_skip_adds_the_output_of_the_layer_before_the_last():
    space = ChainCNN(max_layers=3, task=images(2, 4, 4, classes=2))
    network = space.build(space.from_text("max_pool3|avg_pool3|identity+skip")).eval()
    with torch.no_grad():
        images_nchw = torch.randn(1, 2, 4, 4)
        pooled = torch.nn.functional.max_pool2d(images_nchw, 3, 2, 1)
        averaged = pooled.mean((2, 3), keepdim=True)  # a 3x3 window sees all of the 2x2 map
        joined = averaged + network.shortcuts["layer3"](pooled)
        torch.testing.assert_close(network(images_nchw), network.classifier(joined.mean((2, 3))))
    assert [tuple(m.stride) for m in network.shortcuts["layer3"] if isinstance(m, torch.nn.Conv2d)] == [(2, 2)]


def test_every_weight_is_trained():
    space = ChainCNN(max_layers=5, widths=(4, 8))
    for architecture in space.sample(20, np.random.default_rng(0)):
        network = space.build(architecture)
        network(torch.randn(3, 1, 8, 8)).sum().backward()
        assert all(p.grad is not None for p in network.parameters())


def test_parameters_are_counted_by_hand():
    space = ChainCNN(task=images(3, 8, 8))
    network = space.build(space.from_text("conv3x8|max_pool3|sep_conv5x16+skip|conv1x16+skip"))
    conv, separable, last, linear = 3 * 8 * 9 + 16, 8 * 25 + 8 * 16 + 32, 16 * 16 + 32, 16 * 10 + 10
    shortcuts = (8 * 8 + 16) + (8 * 16 + 32)  # from 8 channels at twice the side; from 8 channels to 16
    assert sum(p.numel() for p in network.parameters()) == conv + separable + last + linear + shortcuts


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("max_layers", [1, 2, 3, 4, 6, 12])
def test_the_reference_is_valid_at_every_size(shape, max_layers):
    space = ChainCNN(max_layers, widths=(32, 8, 16), task=images(*shape))
    assert space.check(space.reference()) == space.reference()
    assert space.to_text(space.reference()).endswith("x32")


def test_the_default_reference_is_vgg_like():
    text = "conv3x16|conv3x16|max_pool3|conv3x32|conv3x32|conv3x32"
    assert ChainCNN().to_text(ChainCNN().reference()) == text


def test_networks_export_with_a_dynamic_batch_and_run_in_channels_last():
    space = ChainCNN(task=images(3, 8, 9))
    architecture = space.from_text("sep_conv3x8|max_pool5|conv3x16+skip|avg_pool3+skip|identity+skip|conv3x8")
    network = space.build(architecture).eval()
    images_nchw = torch.randn(5, 3, 8, 9)
    program = torch.export.export(network, (images_nchw[:2],), dynamic_shapes=({0: torch.export.Dim("n")},))
    with torch.no_grad():
        logits = network(images_nchw)
        torch.testing.assert_close(program.module()(images_nchw), logits)
        network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(network(images_nchw.to(memory_format=torch.channels_last)), logits)


def test_a_diagram_shows_what_is_decided():
    space = ChainCNN(max_layers=3)
    architecture = space.from_text("conv3x16|max_pool3|identity+skip")
    assert space.diagram(()).nodes == ("input\n1x8x8",)
    assert space.diagram(architecture[:1]).nodes == ("input\n1x8x8",)
    assert space.diagram(architecture[:3]).nodes == ("input\n1x8x8", "conv 3x3")
    complete = space.diagram(architecture)
    assert complete.nodes[1:] == (
        "conv 3x3\n16 channels", "max_pool 3x3", "identity", "global average pool", "linear\n10 outputs"
    )  # fmt: skip
    assert complete.edges == ((0, 1, ""), (1, 2, ""), (2, 3, ""), (1, 3, "skip"), (3, 4, ""), (4, 5, ""))


@pytest.mark.parametrize(
    "change",
    [
        {"max_layers": 5},
        {"widths": (8, 16)},
        {"widths": (8, 32, 16)},
        {"task": images(1, 8, 9)},
        {"task": images(1, 8, 8, classes=9)},
    ],
)
def test_every_argument_is_in_the_fingerprint(change):
    assert ChainCNN(**change).fingerprint() != ChainCNN().fingerprint()
    assert ChainCNN(widths=[8, 16, 32], task=images(1, 8, 8)).fingerprint() == ChainCNN().fingerprint()


@pytest.mark.parametrize(
    "arguments",
    [{"max_layers": 0}, {"max_layers": 2.5}, {"widths": ()}, {"widths": (8, -1)}, {"widths": (8, 8)}, {"widths": 8}],
)
def test_bad_arguments_are_input_errors(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        ChainCNN(**arguments)


@pytest.mark.parametrize(
    "text", ["conv3", "conv3x7", "identity3", "max_pool1", "sep_conv1x8", "conv3x8+skip", "|".join(["conv1x8"] * 7)]
)
def test_texts_that_are_no_architecture_are_input_errors(text):
    with pytest.raises(InputError):
        ChainCNN().from_text(text)
