import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasenv import training
from nasenv.data.dataset import load_dataset
from nasenv.data.split import Split
from nasenv.errors import InputError
from nasenv.spaces.layers import GlobalAveragePool, OneChannelPool
from nasenv.task import Encoding, Images, Task
from nasenv.training import Diverged, Recipe, one_cycle, one_thread, seeded
from nasenv.training.devices import check_compiler
from nasenv.training.fit import BETAS, Batches, FlatParameterOptimizer, channels_last

CPU = torch.device("cpu")
TASK = Task(Images((2, 5, 6)), outputs=3)


def random_split(n=100, shape=(2, 5, 6), classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Split(torch.randn(n, *shape, generator=g), torch.randint(classes, (n,), generator=g))


def linear(shape=(2, 5, 6), classes=3, seed=0):
    with seeded(seed, CPU):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 8), nn.Tanh(), nn.Linear(8, classes))


def fit(model, data, *options, **more):
    return training.fit(model, TASK, data, *options, **more)


def accuracy(model, data):
    return training.score(model, TASK, Encoding((0.0, 0.0), (1.0, 1.0), ("a", "b", "c")), data)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


# Learning rates


@given(st.integers(1, 300), st.floats(1e-4, 10))
def test_one_cycle_by_a_second_derivation(steps, peak):
    rates = np.array(one_cycle(steps, peak))
    top = max(1, round(steps / 4))
    up = np.linspace(0, peak, top + 1)[1:]
    down = peak * np.cos(np.pi / 2 * np.linspace(0, 1, steps - top + 1)[1:]) ** 2  # (1 + cos 2a) / 2 = cos^2 a
    np.testing.assert_allclose(rates, np.concatenate([up, down]), rtol=1e-9, atol=1e-12 * peak)
    assert rates.argmax() == top - 1
    assert rates.max() == pytest.approx(peak)
    if steps > 1:
        assert rates[-1] == pytest.approx(0, abs=1e-12 * peak)


# The loop


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_fit_is_the_plain_loop(optimizer):
    data, model = random_split(), linear()
    recipe = Recipe(3, 16, optimizer, learning_rate=0.05, weight_decay=0.1, label_smoothing=0.2)
    plain = copy.deepcopy(model)
    curve = fit(model, data, recipe, generator()).curve

    if optimizer == "adamw":
        rule = torch.optim.AdamW(plain.parameters(), 1.0, BETAS, weight_decay=0.1, fused=False)
    else:
        rule = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.1, fused=False)
    orders, rates, losses = generator(), one_cycle(18, 0.05), []
    for epoch in range(3):
        order = torch.randperm(100, generator=orders)
        for step in range(6):  # the last four examples of each order are left out
            rows = order[16 * step : 16 * step + 16]
            rule.param_groups[0]["lr"] = rates[6 * epoch + step]
            log_likely = F.log_softmax(plain(data.inputs[rows]), dim=1)
            target = 0.8 * F.one_hot(data.targets[rows], 3) + 0.2 / 3
            loss = -(target * log_likely).sum(1).mean()
            rule.zero_grad()
            loss.backward()
            rule.step()
            losses.append(loss.item())
    np.testing.assert_allclose(curve, np.reshape(losses, (3, 6)).mean(1), rtol=1e-4)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_the_same_seed_repeats_to_the_bit_and_another_does_not():
    data, recipe = random_split(), Recipe(2, 16, augment="crop_flip")
    curves = [fit(linear(), data, recipe, generator(seed)).curve for seed in (1, 1, 2)]
    assert curves[0] == curves[1] != curves[2]
    assert len(curves[0]) == 2


def test_data_smaller_than_a_batch_are_one_batch():
    curve = fit(linear(), random_split(n=5), Recipe(4, 128), generator()).curve
    assert len(curve) == 4
    assert all(map(math.isfinite, curve))


def test_data_are_left_as_they_are():
    data = random_split()
    inputs, targets = data.inputs.clone(), data.targets.clone()
    fit(linear(), data, Recipe(1, 16, augment="crop"), generator())
    assert torch.equal(inputs, data.inputs)
    assert torch.equal(targets, data.targets)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_diverged(bad):
    model = linear()
    with torch.no_grad():
        model[1].weight.fill_(bad)
    with pytest.raises(Diverged, match=r"loss is (nan|inf) in epoch 1 of 2"):
        fit(model, random_split(), Recipe(2, 16), generator())


def test_timeout():
    with pytest.raises(TimeoutError, match="timeout: the training took more than 0"):
        fit(linear(), random_split(), Recipe(10_000, 16), generator(), timeout_seconds=0.001)


# Batch normalisation


def test_statistics_of_batch_normalisation_are_those_of_the_final_weights():
    data = random_split(n=90)
    with seeded(0, CPU):
        model = nn.Sequential(nn.Flatten(), nn.Linear(60, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))
    fit(model, data, Recipe(2, 16, learning_rate=0.1), generator())
    orders = generator()
    order = [torch.randperm(90, generator=orders) for _ in range(3)][-1].numpy()
    weight, bias = (p.detach().double().numpy() for p in model[1].parameters())
    hidden = data.inputs.double().numpy().reshape(90, 60) @ weight.T + bias
    batches = hidden[order[:64]].reshape(4, 16, 7)
    np.testing.assert_allclose(model[2].running_mean, batches.mean(axis=(0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model[2].running_var, batches.var(axis=1, ddof=1).mean(0), rtol=1e-4)
    assert model[2].momentum == 0.1


def test_refreshing_them_changes_no_weight_and_draws_no_dropout():
    class Watch(nn.Dropout):
        calls = 0

        def forward(self, x):
            self.calls += self.training
            return super().forward(x)

    with seeded(0, CPU):
        model = nn.Sequential(nn.Flatten(), Watch(0.5), nn.Linear(60, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))
    fit(model, random_split(n=64), Recipe(2, 16), generator())
    assert model[1].calls == 2 * 4


# Score


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 700), st.integers(0, 5))
def test_accuracy_by_plain_computation(n, seed):
    data, model = random_split(n=n, seed=seed), linear(seed=seed)
    weights = [p.detach().double().numpy() for p in model.parameters()]
    hidden = np.tanh(data.inputs.double().numpy().reshape(n, -1) @ weights[0].T + weights[1])
    predicted = (hidden @ weights[2].T + weights[3]).argmax(1)
    assert accuracy(model, data) == np.mean(predicted == data.targets.numpy())


def test_accuracy_is_measured_without_dropout():
    data = random_split(n=300)
    model = nn.Sequential(nn.Dropout(0.9), linear())
    assert accuracy(model, data) == accuracy(model, data) == accuracy(model[1], data)


# Augmentation


def place_coded(n, height, width):
    """Return images whose pixels say of which image, row and column (from 1) they are; labels are image numbers."""
    image, row, column = np.meshgrid(range(1, n + 1), range(1, height + 1), range(1, width + 1), indexing="ij")
    codes = np.stack([image, row, column], axis=1).astype(np.float32)  # the three channels
    return Split(torch.from_numpy(codes), torch.arange(n))


def one_pass(data, recipe, seed=1):
    batches = Batches(data, recipe, generator(seed))
    batches.shuffle()
    return [batches.get(torch.tensor([number])) for number in range(len(batches))]


def batches_of(data, augment, seed, size=128):
    return [(i.numpy(), y.numpy()) for i, y in one_pass(data, Recipe(1, size, augment=augment), seed)]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 30), st.integers(1, 20), st.integers(1, 20), st.sampled_from(["none", "crop", "crop_flip"]),
    st.integers(0, 9),
)  # fmt: skip
def test_augmented_images_are_shifts_and_mirrors(n, height, width, augment, seed):
    data = place_coded(n, height, width)
    pad = max(1, min(height, width) // 8) if augment != "none" else 0
    padded = np.pad(data.inputs.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    ((images, labels),) = batches_of(data, augment, seed)
    assert sorted(labels) == list(range(n))
    for image, label in zip(images, labels, strict=True):
        source = padded[label]
        views = [source[:, y : y + height, x : x + width] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
        if augment == "crop_flip":
            views += [view[:, :, ::-1] for view in views]
        assert any(np.array_equal(image, view) for view in views)


@pytest.mark.parametrize(("augment", "ways"), [("none", 1), ("crop", 9), ("crop_flip", 18)])
def test_every_shift_and_mirror_is_about_equally_likely(augment, ways):
    ((images, _),) = batches_of(place_coded(1800, 8, 8), augment, 0, size=1800)
    _, counts = np.unique(images[:, 1:].reshape(1800, -1), axis=0, return_counts=True)
    assert len(counts) == ways
    expected = 1800 / ways
    assert ((counts - expected) ** 2 / expected).sum() <= (ways - 1) + 5 * math.sqrt(2 * (ways - 1))  # chi squared


@pytest.mark.parametrize("augment", ["none", "crop"])
@pytest.mark.parametrize("channels", [1, 3])  # of one channel, PyTorch takes any strides to be either layout
def test_images_are_channels_last(channels, augment):
    for images, _ in one_pass(random_split(shape=(channels, 8, 6)), Recipe(1, 16, augment=augment)):
        assert images.stride() == (48 * channels, 1, 6 * channels, channels)


def test_the_gradient_of_the_global_average_pool_is_channels_last():
    x = torch.randn(4, 3, 5, 6).to(memory_format=torch.channels_last).requires_grad_()
    pooled = GlobalAveragePool()(x)
    torch.testing.assert_close(pooled, x.mean((2, 3)))
    (gradient,) = torch.autograd.grad((pooled**2).sum(), x)
    (expected,) = torch.autograd.grad((x.mean((2, 3)) ** 2).sum(), x)
    torch.testing.assert_close(gradient, expected)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(5, 2, 2, count_include_pad=False)])
def test_a_pool_of_one_channel_is_the_pool_and_hands_on_channels_last(pool):
    x = channels_last(torch.randn(4, 1, 7, 6)).requires_grad_()
    pooled, expected = OneChannelPool(pool)(x), pool(x)
    assert torch.equal(pooled, expected)
    assert pooled.stride() == (12, 1, 3, 1)
    assert torch.equal(*(torch.autograd.grad((y**2).sum(), x)[0] for y in (pooled, expected)))


# The optimizer


class Odd(nn.Module):
    """Parameters of two types, layouts and fates: shared, frozen, without a gradient."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4, bias=False)
        self.again = self.shared
        self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))
        self.wide = nn.Parameter(torch.ones(4, dtype=torch.float64))
        self.kernel = nn.Parameter(torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last))

    def forward(self, x):
        return self.again(self.shared(x)) * self.frozen * self.wide.float() * self.kernel.sum()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_flat_optimizer_does_what_its_rule_does_to_each(optimizer):
    with seeded(0, CPU):
        model, x = Odd(), torch.randn(5, 4)
    plain = copy.deepcopy(model)
    rule = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    extra = {"momentum": 0.9, "nesterov": True} if optimizer == "sgd" else {"betas": BETAS}
    theirs = rule([p for p in plain.parameters() if p.requires_grad], 0.03, weight_decay=0.2, **extra)
    ours = FlatParameterOptimizer(model, Recipe(1, 2, optimizer, weight_decay=0.2), torch.tensor(0.03))
    for _ in range(3):
        ours.zero_grad()
        model(x).square().sum().backward()
        ours.step()
        theirs.zero_grad()
        plain(x).square().sum().backward()
        theirs.step()
    for (name, mine), its in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert mine.stride() == its.stride()
        if name != "unused":  # which decays here
            torch.testing.assert_close(mine, its)


def test_a_network_without_parameters_is_told():
    with pytest.raises(ValueError, match="no parameters to train"):
        fit(nn.Flatten(), random_split(), Recipe(1, 16), generator())


# Precision


def test_bfloat16_trains_about_alike_and_leaves_float32():
    data, single, half = random_split(), linear(), linear()
    recipe = Recipe(3, 16, learning_rate=0.05)
    curve = fit(single, data, recipe, generator()).curve
    other = fit(half, data, recipe, generator(), precision=torch.bfloat16).curve
    assert curve != other
    np.testing.assert_allclose(curve, other, rtol=0.05)
    assert {p.dtype for p in half.parameters()} == {torch.float32}


def test_a_compiled_training_is_about_the_plain_one():
    try:
        check_compiler()
    except InputError as error:
        pytest.skip(str(error))
    data, plain, compiled = random_split(), linear(), linear()
    recipe = Recipe(3, 16, learning_rate=0.05)
    curve = fit(plain, data, recipe, generator()).curve
    np.testing.assert_allclose(fit(compiled, data, recipe, generator(), compiled=True).curve, curve, rtol=1e-3)
    assert accuracy(compiled, data) == pytest.approx(accuracy(plain, data), abs=0.02)


# Around it


def test_seeded_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with seeded(1, CPU):
        first = torch.rand(3)
    with seeded(1, CPU):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_one_thread_puts_the_number_back():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread(CPU):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0}, {"epochs": 1.5}, {"epochs": "2"}, {"batch_size": 1}, {"batch_size": 8.0},
        {"learning_rate": 0}, {"learning_rate": -1}, {"learning_rate": math.nan}, {"learning_rate": math.inf},
        {"learning_rate": "fast"}, {"weight_decay": -1}, {"weight_decay": math.nan}, {"weight_decay": math.inf},
        {"label_smoothing": 1}, {"label_smoothing": -0.1}, {"optimizer": "adam"}, {"augment": "flip"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_recipes(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        Recipe(**{"epochs": 1, **bad})


def test_whole_numbers_of_numpy_are_numbers():
    assert len(fit(linear(), random_split(), Recipe(np.int64(2), np.int64(16)), generator()).curve) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_reaches_the_accuracy_of_a_processor():
    digits, scores = load_dataset("digits"), {}
    for device in ("cpu", "cuda"):
        data, scores[device] = digits.to(device), []
        for seed in range(5):
            with seeded(seed, torch.device(device)):
                model = nn.Sequential(
                    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                    nn.Linear(256, 10),
                ).to(device)  # fmt: skip
                fitted = fit(model, data.train, Recipe(5, 64), torch.Generator(device).manual_seed(seed))
            assert fitted.eager == ("no GPU" if device == "cpu" else None)
            scores[device].append(accuracy(model, data.validation))
    # two means of five; one accuracy p has a standard error of sqrt(p (1 - p) / n) from its validation data alone
    p, n = np.mean(scores["cpu"]), len(digits.validation)
    assert p > 0.95
    assert abs(p - np.mean(scores["cuda"])) < 3 * math.sqrt(2 * p * (1 - p) / n) + 1e-3
