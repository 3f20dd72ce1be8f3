"""What Encoder promises beyond the contract of test_spaces.py."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from nasenv.errors import InputError
from nasenv.spaces.encoder import PRESETS, Encoder
from nasenv.spaces.space import SearchSpace
from nasenv.spaces.transformer import Attention, EncoderLayer, PatchEmbedding, relative_positions
from nasenv.task import Images, Task
from tests.fakes import TASK

IMAGENET = Task(Images((3, 224, 224)), outputs=1000)
SUBNETS = {  # AutoFormer-{S,B}.yaml, as copies of the published code have them: width, MLP ratios, heads, parameters
    "autoformer_small": (384, (3, 3.5, 3, 3.5, *[4] * 7, 3.5, 4), (6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7), "22.9"),
    "autoformer_base": (
        576,
        (3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5),
        (9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10),
        "53.7",
    ),
}


def formula_params(shape, patch, width, layers, outputs, autoformer):
    """Count the parameters by hand; layers are pairs of heads and of hidden units of the MLP."""
    channels, height, both = shape[0], -(-shape[1] // patch), 2 if autoformer else 1
    tokens = height * -(-shape[2] // patch)
    total = channels * patch**2 * width + width + (tokens + both - 1) * width + (both - 1) * width
    for heads, hidden in layers:
        inner = 64 * heads if autoformer else width
        total += 3 * inner * (width + 1) + width * (inner + 1)  # queries, keys, values; projection
        total += 2 * 2 * width + hidden * (width + 1) + width * (hidden + 1)  # two norms; the MLP
        total += 2 * 2 * 30 * 64 if autoformer else 0  # keys and values, vertical and horizontal, 30 distances
    return total + 2 * width + outputs * (width + 1)


def built_params(space, architecture):
    with torch.device("meta"):
        return sum(p.numel() for p in space.build(architecture).parameters())


def layers_of(space, architecture):
    named = {d.name: d.choices[c] for d, c in zip(space.decisions, architecture, strict=True)}
    width, depth = named["hidden_dim"], named["num_layers"]
    heads = [named.get(f"layer{i + 1}.num_heads", named.get("num_heads")) for i in range(depth)]
    ratios = [named.get(f"layer{i + 1}.mlp_ratio", named.get("mlp_ratio", 4)) for i in range(depth)]
    return width, [(h, int(r * width)) for h, r in zip(heads, ratios, strict=True)]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("task", [IMAGENET, Task(Images((2, 9, 30)), outputs=3)], ids=["224x224", "9x30"])
def test_networks_have_the_parameters_of_the_formula(preset, task):
    space = Encoder(preset, task=task)
    for architecture in [*space.sample(2, np.random.default_rng(0)), space.reference()]:
        width, layers = layers_of(space, architecture)
        expected = formula_params(task.shape, space.patch, width, layers, task.outputs, preset.startswith("auto"))
        assert built_params(space, architecture) == expected


def test_references_are_the_published_networks():
    # torchvision's page of vit_b_16 says 86,567,656, of which 2 x 768 are a class token and its position
    space = Encoder("classic", task=IMAGENET)
    assert built_params(space, space.reference()) == 86_567_656 - 2 * 768
    # DeiT-Ti and DeiT-S have 5,717,416 and 22,050,664; relative positions are AutoFormer's own
    for preset, published in {"autoformer_tiny": 5_717_416, "autoformer_small": 22_050_664}.items():
        space = Encoder(preset)
        assert built_params(space, space.reference()) == published + 12 * 2 * 2 * 30 * 64


@pytest.mark.parametrize("preset", SUBNETS)
def test_published_subnets_of_autoformer_have_their_parameters(preset):
    width, ratios, heads, millions = SUBNETS[preset]
    each = [
        f"layer{i}.num_heads={h},layer{i}.mlp_ratio={float(r)}"
        for i, (h, r) in enumerate(zip(heads, ratios, strict=True), 1)
    ]
    space = Encoder(preset)
    architecture = space.from_text(",".join([f"num_layers={len(heads)},hidden_dim={width}", *each]))
    assert f"{built_params(space, architecture) / 1e6:.1f}" == millions


def test_the_classic_space_has_126_members():
    space = Encoder("classic")
    pairs = [(d, h) for d, h in product((256, 512, 768), (4, 8, 12)) if d % h == 0]
    assert space.size == 3 * len(pairs) * 2 * 3 == 126
    assert len(space.all_architectures()) == 126


@pytest.mark.parametrize("preset", ["classic", "small"])
def test_heads_divide_the_width_and_nothing_else_is_forbidden(preset):
    space = Encoder(preset)
    network = PRESETS[preset].network
    places = list(network).index("hidden_dim"), list(network).index("num_heads")
    every = [row for row in product(*network.values()) if row[places[0]] % row[places[1]] == 0]
    listed = [
        tuple(d.choices[c] for d, c in zip(space.decisions, row, strict=True)) for row in space.all_architectures()
    ]
    assert listed == every
    assert space.size == len(every)


def test_autoformers_count_is_the_published_one():
    # the paper says "more than 1.7 x 10^16" of its three spaces, and counts the choices of layers beyond the depth
    spaces = [Encoder(f"autoformer_{size}") for size in ("tiny", "small", "base")]
    assert round(sum(float(np.prod(s.num_choices.astype(float))) for s in spaces) / 1e16, 1) == 1.7
    assert [s.size for s in spaces] == [
        3 * sum(4**d for d in (12, 13, 14)),
        3 * sum(9**d for d in (12, 13, 14)),
        3 * sum(9**d for d in (14, 15, 16)),
    ]


def test_layers_beyond_the_depth_have_one_choice(monkeypatch):
    preset = PRESETS["autoformer_tiny"]
    few = {"num_layers": (1, 3), "hidden_dim": (192, 216)}
    monkeypatch.setitem(PRESETS, "autoformer_tiny", type(preset)(few, preset.layer, preset.fixed, {}, True))
    space = Encoder("autoformer_tiny")
    assert space.size == SearchSpace.size.fget(space) == 2 * (4 + 4**3)
    assert all(not any(row[4:]) for row in space.all_architectures().tolist() if row[0] == 0)


def test_features_count_the_weights_of_attention_and_mlps():
    for preset in PRESETS:
        space = Encoder(preset)
        for architecture in space.sample(3, np.random.default_rng(1)):
            with torch.device("meta"):
                sizes = {n: p.numel() for n, p in space.build(architecture).named_parameters() if n.endswith("weight")}
            counted = [sum(p for n, p in sizes.items() if part in n) for part in (".attention.", ".mlp.")]
            np.testing.assert_allclose(space.feature_parts([architecture])["weights"], [np.log(counted)])


def test_relative_positions_tell_distances_and_the_class_token():
    vertical, horizontal = relative_positions(2, 20)
    assert vertical.shape == (41, 41)
    assert not vertical[0].any()
    assert not horizontal[:, 0].any()
    token = {(row, column): 1 + 20 * row + column for row in range(2) for column in range(20)}
    a = token[0, 3]
    assert (vertical[a, token[1, 3]], horizontal[a, token[1, 3]]) == (15 + 1, 15)
    assert (vertical[a, token[0, 1]], horizontal[a, token[0, 1]]) == (15, 15 - 2)
    assert horizontal[a, token[0, 17]] == horizontal[a, token[0, 19]] == 29  # as far as counts


def test_attention_with_relative_positions_is_that_of_the_paper():
    # equation by equation, for one query; and without learned vectors it is plain attention
    torch.manual_seed(0)
    attention = Attention(6, 2, 4, relative_positions(2, 2))
    tokens = torch.randn(1, 5, 6)
    q, k, v = attention.qkv(tokens)[0].view(5, 3, 2, 4).unbind(1)
    head, i = 1, 3
    index = attention.relative[:, i]
    keys, values = (t[0][index[0]] + t[1][index[1]] for t in (attention.keys, attention.values))
    weights = functional.softmax(torch.stack([q[i, head] @ (k[j, head] + keys[j]) / 2 for j in range(5)]), 0)
    expected = sum(weights[j] * (v[j, head] + values[j]) for j in range(5))
    seen = []
    attention.project.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    attention(tokens)
    torch.testing.assert_close(seen[0][0, i, 4:], expected)
    plain = Attention(6, 2, 4)
    plain.load_state_dict({n: w for n, w in attention.state_dict().items() if n not in ("keys", "values")})
    torch.nn.init.zeros_(attention.keys)
    torch.nn.init.zeros_(attention.values)
    torch.testing.assert_close(attention(tokens), plain(tokens))


def test_patches_are_read_row_by_row_and_filled_up_with_zeros():
    patches = PatchEmbedding(1, 4, 2, (2, 3), has_class=False, dropout=0.0)
    torch.nn.init.zeros_(patches.positions)
    image = torch.arange(15.0).view(1, 1, 3, 5)
    tokens = patches(image)
    padded = functional.pad(image, (0, 1, 0, 1))
    for i, (row, column) in enumerate(product(range(2), range(3))):
        corner = padded[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        torch.testing.assert_close(tokens[0, i], patches.linear(corner).flatten())


@pytest.mark.parametrize(("side", "patch"), [(1, 2), (8, 2), (15, 2), (16, 4), (28, 4), (32, 4), (64, 4), (224, 16)])
def test_the_patch_follows_from_the_pictures(side, patch):
    assert Encoder(task=Task(Images((1, side, side + 3)), outputs=2)).patch == patch


def test_every_weight_is_trained():
    task = Task(Images((1, 32, 32)), outputs=3)
    for preset in ("small", "autoformer_tiny"):
        space = Encoder(preset, task=task)
        network = space.build(space.reference())
        network(torch.randn(3, 1, 32, 32)).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_small_encoders_learn_digits():
    space = Encoder(task=TASK)
    digits = load_digits()
    x = torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32)
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    network = space.build(
        space.from_text("num_layers=1,hidden_dim=16,num_heads=2,mlp_ratio=1,activation=swish,dropout=0.1")
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for start in 5 * list(range(0, 1_200, 60)):
        optimizer.zero_grad()
        functional.cross_entropy(network(x[start : start + 60]), y[start : start + 60]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network.eval()(x[1_200:]).argmax(1) == y[1_200:]).float().mean()
    assert accuracy > 0.5, accuracy


def test_pictures_show_what_is_decided():
    space = Encoder()
    assert space.diagram(()).nodes == ("input\n1x8x8", "patches of 2x2\n16 tokens")
    assert space.diagram((1, 2)).nodes[1:] == ("patches of 2x2\n16 tokens of 32", "layer 1", "layer 2")
    whole = space.diagram(
        space.from_text("num_layers=1,hidden_dim=32,num_heads=1,mlp_ratio=2,activation=swish,dropout=0.2")
    )
    assert whole.nodes[2:] == (
        "layer 1\n1 head\nMLP of 64 swish\ndropout 0.2",
        "layer norm, mean of tokens",
        "linear\n10 outputs",
    )
    base = Encoder("autoformer_base")
    assert base.diagram((0, 1, 2, 0, 1)).nodes[2:] == ("layer 1\n10 heads\nMLP of 1728 gelu", "layer 2\n9 heads")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"preset": "huge"}, "preset must be classic, small, .* or autoformer_base, got 'huge'"),
        ({"patch": 0}, "patch must be an integer of 1 or more"),
        ({"patch": 2.5}, "patch must be an integer of 1 or more"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Encoder(**wrong)


def test_parts_of_autoformer_are_exported_for_any_number_of_pictures():
    patches = PatchEmbedding(1, 8, 2, (2, 2), has_class=True, dropout=0.0)
    network = torch.nn.Sequential(patches, EncoderLayer(8, 4, 2, 3.5, "gelu", 0.0, relative_positions(2, 2))).eval()
    pictures = torch.randn(2, 1, 4, 4)
    program = torch.export.export(network, (pictures,), dynamic_shapes=({0: torch.export.Dim("n")},))
    more = torch.randn(5, 1, 4, 4)
    torch.testing.assert_close(program.module()(more), network(more))
