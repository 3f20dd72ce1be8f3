"""What MobileNet promises beyond the contract of test_spaces.py."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nasenv.errors import InputError
from nasenv.search.budget import Budget
from nasenv.search.search import Search
from nasenv.spaces.mobile_net import STAGES, MobileNet, SqueezeExcitation
from nasenv.spaces.space import SearchSpace
from nasenv.task import Images, Task
from tests.fakes import TASK, Hashed

WIDTHS, STRIDES, ATTENTION = (24, 40, 80, 112, 160), (2, 2, 2, 1, 2), (False, True, False, True, True)
LARGEST, SMALLEST = "|".join(["-".join(["k7e6"] * 4)] * 5), "|".join(["-".join(["k3e3"] * 2)] * 5)


def images(*shape, classes=10):
    return Task(Images(shape), classes)


def rounded(channels):
    """Return the multiple of 8 by which MobileNets round: up where the nearest would lose more than a tenth."""
    nearest = max(8, 8 * math.floor(channels / 8 + 0.5))
    return nearest + 8 if nearest < 0.9 * channels else nearest


def formula_params(stages, hidden_of=None, width=1.0, inputs=3, outputs=1000):
    """Count the parameters by hand; stages are lists of pairs (kernel, expansion)."""
    stem, head, features = rounded(16 * width), rounded(960 * width), rounded(1280 * width)
    total = stem * (9 * inputs + 2) + stem * (9 + 2) + stem * (stem + 2)
    channels, hiddens = stem, iter(hidden_of or ())
    for layers, wide, attends in zip(stages, WIDTHS, ATTENTION, strict=True):
        for kernel, expansion in layers:
            hidden, squeezed = next(hiddens) if hidden_of else channels * expansion, 0
            if attends:
                squeezed = rounded(hidden // 4)
                squeezed = hidden * squeezed + squeezed + squeezed * hidden + hidden
            total += hidden * (channels + 2) + hidden * (kernel**2 + 2) + squeezed
            channels = rounded(wide * width)
            total += channels * (hidden + 2)
    return total + head * (channels + 2) + head * features + outputs * (features + 1)


def stages_of(text):
    return [[(int(layer[1]), int(layer[3])) for layer in stage.split("-")] for stage in text.split("|")[-5:]]


def built_params(space, architecture):
    with torch.device("meta"):
        return sum(p.numel() for p in space.build(architecture).parameters())


def test_the_published_space_has_the_published_size():
    assert MobileNet("ofa").size == (9**2 + 9**3 + 9**4) ** 5 == 21_758_655_492_572_485_851 > 2**64


def test_largest_and_smallest_have_the_parameters_that_the_published_code_gives():
    # the authors state no parameters; others report these of subnets of their ofa_mbv3_d234_e346_k357_w1.0 at 1,000
    # classes: set_active_subnet(ks=7, e=6, d=4) and (ks=3, e=3, d=2), and a random one
    ofa = MobileNet("ofa")
    assert built_params(ofa, ofa.from_text(LARGEST)) == 7_664_760
    assert built_params(ofa, ofa.from_text(SMALLEST)) == 3_410_792
    kernels = (7, 7, 7, 7, 5, 5, 5, 7, 5, 3, 7, 3, 5, 7, 7, 7, 3, 3, 3, 3)
    expansions = (3, 6, 6, 3, 4, 4, 3, 6, 6, 6, 6, 3, 4, 3, 4, 3, 4, 3, 6, 3)
    layers = [f"k{k}e{e}" for k, e in zip(kernels, expansions, strict=True)]
    text = "|".join("-".join(layers[4 * s : 4 * s + depth]) for s, depth in enumerate((2, 2, 2, 3, 3)))
    assert built_params(ofa, ofa.from_text(text)) == 4_636_232


def test_the_formula_gives_mobile_net_v3_large():
    # torchvision's page of mobilenet_v3_large says 5,483,032, of which 1,280 are a bias that Once-for-all lacks
    kernels = ((3, 3), (5, 5, 5), (3, 3, 3, 3), (3, 3), (5, 5, 5))
    hidden = (64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960)
    assert formula_params([[(k, None) for k in layers] for layers in kernels], hidden) == 5_483_032 - 1_280
    reference = MobileNet("ofa").to_text(MobileNet("ofa").reference())
    assert [[k for k, _ in layers] for layers in stages_of(reference)] == [list(layers) for layers in kernels]


@pytest.mark.parametrize(("preset", "shape"), [("ofa", (3, 224, 224)), ("small", (1, 8, 8)), ("small", (3, 32, 32))])
def test_networks_have_the_parameters_of_the_formula(preset, shape):
    space = MobileNet(preset, images(*shape, classes=7))
    for architecture in space.sample(4, np.random.default_rng(0)):
        text = space.to_text(architecture)
        width = 1.0 if preset == "ofa" else float(text[1:].partition("r")[0])
        expected = formula_params(stages_of(text), None, width, shape[0], 7)
        assert built_params(space, architecture) == expected


def allowed_kernels(space, resolution, stage, is_first):
    """The rule of the card a second time: kernels by the map that a layer reads."""
    whole, side = min(space.task.shape[1:]), math.ceil(min(space.task.shape[1:]) * resolution)
    sides = [side]
    for stride in (2, *STRIDES):
        halves = stride == 2 and (space.preset == "ofa" or whole > 4)
        whole, side = (math.ceil(whole / 2), math.ceil(side / 2)) if halves else (whole, side)
        sides.append(side)
    n = sides[stage] if is_first else sides[stage + 1]
    return [k for k in (3, 5, 7) if k == 3 or k <= 2 * n - 1]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 9, 32), (1, 1, 1), (1, 5, 2)], ids=str)
@pytest.mark.parametrize("preset", ["small", "ofa"])
def test_masks_follow_the_rules_on_the_card(preset, shape):
    space = MobileNet(preset, images(*shape))
    for architecture in space.sample(20, np.random.default_rng(0)):
        named = {"resolution": 1.0}
        for t, decision in enumerate(space.decisions):
            mask = space.mask(np.array(architecture[:t], dtype=np.int64).reshape(1, -1))[0]
            valid = [decision.choices[c] for c in np.flatnonzero(mask)]
            place, _, part = decision.name.rpartition(".")
            if decision.name == "resolution":
                sizes = [tuple(math.ceil(r * side) for side in shape[1:]) for r in decision.choices]
                expected = [r for i, r in enumerate(decision.choices) if sizes[i] not in sizes[:i]]
            elif "layer" in place and int(place[-1]) > named[f"{place.partition('.')[0]}.depth"]:
                expected = [3]
            elif part == "kernel":
                expected = allowed_kernels(space, named["resolution"], int(place[5]), place.endswith("layer1"))
            else:
                expected = list(decision.choices)
            assert valid == expected, (architecture, decision.name)
            named[decision.name] = decision.choices[architecture[t]]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 12, 9), (1, 2, 3), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("preset", ["small", "ofa"])
def test_size_counts_the_architectures_that_the_masks_leave(monkeypatch, preset, shape):
    # fewer stages, less depth: the space can then be listed
    monkeypatch.setattr("nasenv.spaces.mobile_net.STAGES", STAGES[:2])
    monkeypatch.setattr("nasenv.spaces.mobile_net.DEPTHS", (1, 2))
    monkeypatch.setattr("nasenv.spaces.mobile_net._MOST", 2)
    monkeypatch.setattr("nasenv.spaces.mobile_net._PARTS", 5)
    space = MobileNet(preset, images(*shape))
    assert space.size == SearchSpace.size.fget(space)


def test_masks_of_whole_architectures_are_those_of_their_prefixes():
    space = MobileNet()
    rows = np.array(space.sample(50, np.random.default_rng(0)))
    np.testing.assert_array_equal(space.masks(rows), np.stack([space.mask(rows[:, :t]) for t in range(47)], axis=1))


def test_maps_get_the_size_that_the_strides_say():
    for shape, sides in {(3, 224, 224): (112, 56, 28, 14, 14, 7), (1, 28, 28): (14, 7, 4, 4, 4, 4)}.items():
        space = MobileNet("ofa" if shape[1] == 224 else "small", images(*shape))
        network = space.build(space.reference()).eval()
        x, seen = torch.zeros(1, *shape), []
        with torch.no_grad():
            for name, module in network.named_children():
                x = module(x)
                seen += [x.shape[2]] if name == "stem" or name.startswith("stage") else []
        assert tuple(seen) == sides


def test_a_lower_resolution_averages_pixels():
    space = MobileNet(task=images(1, 8, 8))
    text = "w0.1r0.5|k3e3-k3e3|k3e3-k3e3|k3e3-k3e3|k3e3-k3e3|k3e3-k3e3"
    network = space.build(space.from_text(text)).eval()
    x = torch.randn(2, 1, 8, 8)
    averaged = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(network(x), network(averaged))


def test_squeeze_and_excitation_scales_channels_by_a_gate():
    module = SqueezeExcitation(24)
    x = torch.randn(3, 24, 5, 4)
    first, second = module.gate[1], module.gate[3]
    assert first.out_features == 8
    gates = torch.nn.functional.hardsigmoid(second(torch.relu(first(x.mean((2, 3))))))
    torch.testing.assert_close(module(x), x * gates.view(3, 24, 1, 1))


def test_features_add_up_stages():
    space = MobileNet("ofa")
    parts = space.feature_parts([space.from_text(LARGEST), space.from_text(SMALLEST)])["stages"]
    np.testing.assert_allclose(parts[0], np.ones(15))
    np.testing.assert_allclose(parts[1], [0.5] * 5 + [6 / 28] * 5 + [6 / 24] * 5)


def test_every_weight_is_trained():
    space = MobileNet()
    network = space.build(space.reference())
    network(torch.randn(8, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_small_network_learns_digits():
    space = MobileNet(task=TASK)
    digits = load_digits()
    x = torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32)
    y = torch.tensor(digits.target)
    torch.manual_seed(0)
    network = space.build(space.from_text("w0.1r0.5|k3e3-k3e3|k3e3-k3e3|k3e3-k3e3|k3e3-k3e3|k3e3-k3e3"))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for start in 2 * list(range(0, 1_200, 60)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[start : start + 60]), y[start : start + 60]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network.eval()(x[1_200:]).argmax(1) == y[1_200:]).float().mean()
    assert accuracy > 0.4, accuracy


def test_a_search_in_a_space_of_more_than_64_bits(tmp_path):
    space = MobileNet("ofa")
    with Search(space, Hashed(space), budget=Budget(evaluations=3), seed=1, run_dir=tmp_path) as search:
        search.evaluate(space.sample(3, np.random.default_rng(0)))
    assert len(search.history) == 3


def test_pictures_show_the_layers():
    space = MobileNet("ofa")
    assert space.diagram(()).nodes == (
        "input\n3x224x224",
        "conv 3x3\n16 channels, half the map",
        "separable conv 3x3\n16 channels",
    )
    assert space.diagram((0, 1, 2, 0)).nodes[3:] == ("stage 1\nkernel 5, expansion 6\n24 channels, half the map",)
    assert len(space.diagram(space.from_text(LARGEST)).nodes) == 3 + 20 + 4
    small = MobileNet(task=images(1, 28, 28))
    assert small.diagram((0, 1)).nodes[1] == "average to\n21x21"


@pytest.mark.parametrize(
    "text",
    [
        LARGEST.replace("k7", "k9", 1),
        LARGEST + "|k3e3-k3e3",
        SMALLEST.replace("k3e3-k3e3|", "k3e3|", 1),
        "w0.3r1.0|" + SMALLEST,
        "w0.1r1.0|" + LARGEST.replace("k7e6|", "k7e6-k7e6|", 1),
    ],
)
@pytest.mark.parametrize("preset", ["small", "ofa"])
def test_text_of_another_form_is_refused(preset, text):
    with pytest.raises(InputError, match="expected five stages of 2 to 4 layers, such as"):
        MobileNet(preset).from_text(text)


def test_texts_name_every_choice():
    space = MobileNet(task=images(1, 32, 32))
    for w, r in product((0.1, 0.15, 0.2), (1.0, 0.75, 0.5)):
        text = f"w{w}r{r}|{SMALLEST}"
        assert space.to_text(space.from_text(text)) == text


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="preset must be small or ofa, got 'large'"):
        MobileNet("large")
