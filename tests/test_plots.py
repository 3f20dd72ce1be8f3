import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasenv.errors import InputError
from nasenv.plots import _lanes, choice_shares, draw_diagram, to_png, to_rgb
from nasenv.spaces.space import Decision, Diagram, SearchSpace
from tests.fakes import TASK


class Pair(SearchSpace):
    """Its second decision matters only where the first is `on`."""

    def __init__(self) -> None:
        super().__init__([Decision("switch", ("off", "on")), Decision("width", (1, 2))], TASK)

    def mask(self, prefixes):
        mask = super().mask(prefixes)
        if prefixes.shape[1] == 1:
            mask[prefixes[:, 0] == 0] = [True, False]
        return mask

    def build(self, architecture):
        return nn.Flatten()


def coloured_areas(figure):
    """Return {colour: area} in square points of what the panels are filled with."""
    areas: dict[tuple, float] = {}
    for collection in figure.axes[0].collections:
        for path, colour in zip(collection.get_paths(), collection.get_facecolors(), strict=True):
            x, y = path.vertices.T
            area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2  # the shoelace formula
            areas[tuple(colour)] = areas.get(tuple(colour), 0.0) + area
    return areas


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


TEXT = st.text("abW é$_^\\%{}", max_size=60) | st.just("two\nlines")


@st.composite
def diagrams(draw):
    count = draw(st.integers(1, 8))
    nodes = tuple(draw(st.lists(TEXT, min_size=count, max_size=count)))
    pairs = [(i, j) for i in range(count) for j in range(count) if i != j]
    edge = st.tuples(st.sampled_from(pairs or [(0, 0)]), TEXT)
    edges = draw(st.lists(edge, max_size=12)) if pairs else []
    return Diagram(nodes, tuple((i, j, label) for (i, j), label in edges))


@settings(max_examples=25, deadline=None)
@given(diagrams())
def test_any_diagram_fits_its_picture(diagram):
    figure = draw_diagram(diagram, "any $title")
    to_rgb(figure, dpi=50)
    renderer = figure.canvas.get_renderer()
    width, height = figure.canvas.get_width_height()
    for artist in [*figure.axes[0].patches, *figure.axes[0].texts]:
        box = artist.get_window_extent(renderer)
        assert box.x0 >= -2
        assert box.y0 >= -2
        assert box.x1 <= width + 2
        assert box.y1 <= height + 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda e: e[0] != e[1]), max_size=15))
def test_curves_of_one_lane_never_overlap(edges):
    lanes = _lanes(edges)
    steps = [set(range(min(e), max(e))) for e in edges]
    for i in range(len(edges)):
        for j in range(i):
            assert lanes[i] != lanes[j] or not steps[i] & steps[j]


def test_picture_of_asked_size_is_centred_and_of_that_size():
    pixels = to_rgb(draw_diagram(Diagram(("input",), ()), inches=(3, 2)))
    assert pixels.shape == (200, 300, 3)
    assert pixels.dtype == np.uint8
    rows, columns = np.nonzero(pixels.min(axis=2) < 250)
    assert abs(rows.mean() - 100) < 3
    assert abs(columns.mean() - 150) < 3


def test_chain_goes_down_and_cell_goes_right():
    chain = draw_diagram(Diagram(("input", "conv", "pool"), ((0, 1, ""), (1, 2, ""), (0, 2, "skip"))))
    cell = draw_diagram(Diagram(("0", "1", "2"), ((0, 1, "conv"), (1, 2, "skip"), (0, 2, "pool"))))
    assert chain.get_figheight() > chain.get_figwidth()
    assert cell.get_figheight() < cell.get_figwidth()


@pytest.mark.parametrize(
    ("diagram", "message"),
    [
        (Diagram((), ()), "one or more nodes"),
        (Diagram(("a", "b"), ((0, 2, "x"),)), "does not join two of its 2 nodes"),
        (Diagram(("a", "b"), ((-1, 0, ""),)), "does not join"),
        (Diagram(("a", "b"), ((1, 1, ""),)), "does not join"),
    ],
)
def test_a_diagram_that_makes_no_sense_is_refused(diagram, message):
    with pytest.raises(InputError, match=message):
        draw_diagram(diagram)


def test_shares_count_a_decision_only_where_it_mattered():
    figure = choice_shares(Pair(), [(0, 0), (0, 0), (0, 0), (1, 1)])
    off, on, width_1, width_2 = coloured_areas(figure).values()
    panel = off + on
    assert off == pytest.approx(0.75 * panel)
    assert width_1 == pytest.approx(0.0)  # width=1 was never chosen where it mattered
    assert width_2 == pytest.approx(0.25 * panel)
    assert {"switch", "width", "off", "on", "1", "2"} <= set(texts(figure))


def test_a_decision_that_never_mattered_has_no_panel():
    assert "width" not in texts(choice_shares(Pair(), [(0, 0)] * 5))


def test_decisions_of_one_kind_share_a_row():
    class Layers(Pair):
        def __init__(self) -> None:
            kinds = [
                (f"layer{i}.{kind}", choices) for i in range(6) for kind, choices in (("op", "abc"), ("size", (1, 2)))
            ]
            SearchSpace.__init__(self, [Decision(n, tuple(c)) for n, c in kinds], TASK)

        mask = SearchSpace.mask

    space = Layers()
    figure = choice_shares(space, space.sample(30, np.random.default_rng(0)))
    heights = {t.get_text(): t.get_position()[1] for t in figure.axes[0].texts}
    assert len({heights[f"layer{i}.op"] for i in range(6)}) == 1
    assert heights["layer0.size"] > heights["layer0.op"]


def test_shares_of_no_architectures_are_refused():
    with pytest.raises(InputError, match="got none"):
        choice_shares(Pair(), [])


def test_same_figure_gives_the_same_png():
    diagram = Diagram(("a", "b"), ((0, 1, ""),))
    assert to_png(draw_diagram(diagram)) == to_png(draw_diagram(diagram))


def test_a_title_that_is_wider_than_the_boxes_is_not_cut():
    title = "a title that is much wider than a box"
    figure = draw_diagram(Diagram(("in", "out"), ((0, 1, ""),)), title)
    (text,) = figure.findobj(lambda artist: getattr(artist, "get_text", str)() == title)
    drawn = text.get_window_extent(figure.canvas.get_renderer())
    assert figure.bbox.x0 < drawn.x0 < drawn.x1 < figure.bbox.x1
