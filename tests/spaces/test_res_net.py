import math
from itertools import product

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nasenv.errors import InputError
from nasenv.spaces.res_net import PRESETS, ResNet, stages
from nasenv.task import Images, Task
from nasenv.training.trainer import count_costs
from tests.fakes import TASK

# w0, wa, wm, group width, depth: github.com/facebookresearch/pycls, configs/dds_baselines/regnetx; multiply-adds
# (billions), parameters (millions): its MODEL_ZOO.md; all parameters: github.com/osmr/imgclsmob, regnet.py
PUBLISHED = {
    "200MF": ((24, 36.44, 2.49, 8, 13), [24, 56, 152, 368], [1, 1, 4, 7], 2_684_792, 2.7, 0.2),
    "400MF": ((24, 24.48, 2.54, 16, 22), [32, 64, 160, 384], [1, 2, 7, 12], 5_157_512, 5.2, 0.4),
    "600MF": ((48, 36.97, 2.24, 24, 16), [48, 96, 240, 528], [1, 3, 5, 7], 6_196_040, 6.2, 0.6),
    "800MF": ((56, 35.73, 2.28, 16, 16), [64, 128, 288, 672], [1, 3, 7, 5], 7_259_656, 7.3, 0.8),
}
LARGER = {  # w0 and so on: github.com/huggingface/pytorch-image-models, timm/models/regnet.py
    "1.6GF": ((80, 34.01, 2.25, 24, 18), 9_190_136),
    "3.2GF": ((88, 26.31, 2.25, 48, 25), 15_296_552),
    "4.0GF": ((96, 38.65, 2.43, 40, 23), 22_118_248),
    "6.4GF": ((184, 60.83, 2.07, 56, 17), 26_209_256),
    "8.0GF": ((80, 49.56, 2.88, 120, 23), 39_572_648),
    "12GF": ((168, 73.36, 2.37, 112, 19), 46_106_056),
}
SPACE = ResNet(task=TASK)


def text(values):
    return ",".join(f"{name}={value}" for name, value in zip(PRESETS["small"].grid, values, strict=True))


def by_hand(w0, wa, wm, group_width, depth):
    """Return (width, depth, group width) of each stage, block by block."""
    found = []
    for j in range(depth):
        step = round(math.log(1 + wa * j / w0) / math.log(wm))
        width = 8 * round(w0 * wm**step / 8)
        if not found or found[-1][0] != width:
            found.append([width, 0])
        found[-1][1] += 1
    return [(round(w / min(w, group_width)) * min(w, group_width), d, min(w, group_width)) for w, d in found]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_follow_from_their_five_numbers(name):
    values, widths, depths, params, millions, billions = PUBLISHED[name]
    found = stages(*values)
    assert (found.widths.tolist(), found.depths.tolist(), found.number.tolist()) == ([widths], [depths], [4])
    shape = (3, 224, 224)
    space = ResNet("regnetx", Task(Images(shape), outputs=1000))
    with torch.device("meta"):
        costs = count_costs(space.build(space.from_text(text(values))), shape, torch.device("meta"))
    assert costs["params"] == params
    assert (round(params / 1e6, 1), round(costs["flops"] / 2e9, 1)) == (millions, billions)


@pytest.mark.parametrize("name", LARGER)
def test_stages_of_larger_networks_come_to_the_published_parameters(name):
    values, params = LARGER[name]
    inputs, total = 32, 32 * (27 + 2)
    for width, depth, group_width in zip(*(column[0].tolist() for column in stages(*values)[:3]), strict=True):
        total += (inputs - width) * width + (inputs + 2) * width  # what the first block has beyond the others
        total += depth * width * (2 * width + 9 * group_width + 6)
        inputs = width
    assert total + (inputs + 1) * 1_000 == params


@pytest.mark.parametrize(("preset", "size", "networks"), [("small", 2_492, 1_782), ("regnetx", 16_740, 13_384)])
def test_sizes_are_the_stated_ones(preset, size, networks):
    space = ResNet(preset)
    rows = space.all_architectures()
    assert space.size == len(rows) == size
    found = space.stages([tuple(row) for row in rows])
    distinct = np.unique(np.concatenate(found[:3], axis=1), axis=0)
    assert len(distinct) == networks
    assert len({space.canonical(tuple(row)) for row in rows}) == networks
    assert all(f"{n:,}" in ResNet.__doc__ for n in (size, networks))


def test_every_architecture_of_the_small_grid_is_as_by_hand():
    first = {}
    valid = set(map(tuple, SPACE.all_architectures().tolist()))
    for architecture in product(*(range(len(d.choices)) for d in SPACE.decisions)):
        expected = by_hand(*(d.choices[c] for d, c in zip(SPACE.decisions, architecture, strict=True)))
        assert (architecture in valid) == (2 <= len(expected) <= 4)
        if architecture in valid:
            assert SPACE._stages_of(architecture) == expected
            assert SPACE.canonical(architecture) == first.setdefault(tuple(expected), architecture)


def test_masks_leave_what_can_still_have_two_to_four_stages():
    rows = SPACE.all_architectures()
    for t in range(5):
        prefixes = np.unique(rows[:, :t], axis=0)
        masks = SPACE.mask(prefixes)
        goes_on = {tuple(row) for row in rows[:, : t + 1].tolist()}
        for prefix, mask in zip(prefixes.tolist(), masks, strict=True):
            assert [(*prefix, c) in goes_on for c in range(SPACE.max_choices)] == mask.tolist()


def test_equal_networks_have_equal_parameters_and_features():
    one, other = (SPACE.from_text(f"w0=8,wa=2,wm=2.0,group_width={g},depth=4") for g in (16, 32))
    assert SPACE.canonical(other) == SPACE.canonical(one) != other
    shapes = [[p.shape for p in SPACE.build(a).parameters()] for a in (one, other)]
    assert shapes[0] == shapes[1]
    np.testing.assert_array_equal(SPACE.features([one]), SPACE.features([other]))


def test_features_hold_stages_and_weights():
    architecture = SPACE.reference()
    parts = SPACE.feature_parts([architecture])
    assert parts["stages"].tolist() == [[4, 5, 6, 0, 1, 3, 2, 0]]
    blocks = [m for m in SPACE.build(architecture).modules() if hasattr(m, "shortcut")]
    convolutions = [c for block in blocks for c in block.body if hasattr(c, "groups")]
    square = sum(c.out_channels**2 // c.groups * c.kernel_size[0] ** 2 for c in convolutions)  # as if inputs = outputs
    assert len(convolutions) == 18
    assert parts["costs"][0, 0] == pytest.approx(math.log2(square))


def test_references_double_their_widths():
    assert SPACE._stages_of(SPACE.reference()) == [(16, 1, 16), (32, 3, 16), (64, 2, 16)]
    large = ResNet("regnetx")
    assert [w for w, _, _ in large._stages_of(large.reference())] == [64, 128, 256, 512]


def test_a_small_network_learns_digits():
    digits = load_digits()
    x, y = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
    torch.manual_seed(0)
    network = SPACE.build(SPACE.from_text("w0=8,wa=4,wm=2.0,group_width=8,depth=4"))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for start in 2 * list(range(0, 1_200, 60)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[start : start + 60]), y[start : start + 60]).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = (network(x[1_200:]).argmax(1) == y[1_200:]).float().mean()  # with the statistics of these pictures
    assert accuracy > 0.6, accuracy


def test_pictures_show_the_stages():
    diagram = SPACE.diagram(SPACE.reference())
    assert len(diagram.nodes) == 7
    assert diagram.nodes[2] == "stage 1\n1 block\n16 channels in groups of 16"
    assert diagram.nodes[3] == "stage 2\n3 blocks, half the map\n32 channels in groups of 16"
    assert SPACE.diagram(SPACE.reference()[:2]).nodes == ("input", "w0\n16", "wa\n8")


@pytest.mark.parametrize(
    "wrong", ["w0=32,wa=2,wm=3.0,group_width=8,depth=4", "w0=8,wa=24,wm=1.5,group_width=8,depth=8"]
)
def test_a_text_with_too_few_or_too_many_stages_is_refused(wrong):
    with pytest.raises(InputError, match=r"expected (wm|depth) of"):
        SPACE.from_text(wrong)


@pytest.mark.parametrize("wrong", ["large", None, 3])
def test_a_preset_of_another_name_is_refused(wrong):
    with pytest.raises(InputError, match="preset must be small or regnetx"):
        ResNet(wrong)
