import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.metrics.persistence import Revisit
from embodied_liftwm.evaluation.report import charts, pictures, plans
from embodied_liftwm.evaluation.report.charts import Series
from embodied_liftwm.evaluation.report.film import BAR, GAP, PANEL, film, frame_words
from embodied_liftwm.evaluation.views.strips import PointMap, choose_revisits, film_frames, frames_of, make_strip

SIZE = 32  # of the frames of conftest


def test_a_strip_shows_the_object_before_during_and_after():
    revisit = Revisit(0, 1, last_seen=10, entry=20, frame=22, pixels=90, entry_pixels=5)
    visible = np.zeros(30, int)
    visible[[4, 10, 20, 22]] = 80, 5, 5, 90
    assert frames_of(revisit, visible) == [4, 10, 13, 17, 20, 22]
    visible[[23, 24, 26]] = 91, 40, 90
    assert film_frames(revisit, visible) == list(range(24))  # it turns away again at 24


def test_models_are_blind_from_the_return_on(episodes, clairvoyant, cloud):
    (index, revisit), *rest = choose_revisits(episodes, 5)
    assert len(rest) <= 1 and index not in [other for other, _ in rest]
    strip = make_strip([CheckedModel(clairvoyant, "all"), CheckedModel(cloud, "cloud")], episodes[index], index, revisit)
    assert strip.frames[-1] == revisit.frame and strip.mask[-1].sum() == revisit.pixels
    back = np.abs(strip.shown["all"].rgb[-1] - strip.true_rgb[-1]).max()
    assert back < 0.01
    cloud_points = strip.maps["cloud"].points
    assert len(cloud_points) and np.abs(cloud_points[:, 0]).max() < 2.6  # inside the room


def test_a_film_shows_every_frame_from_before_the_absence_until_after_it(episodes, clairvoyant):
    ((index, revisit),) = choose_revisits(episodes, 1)
    strip = make_strip([CheckedModel(clairvoyant, "all")], episodes[index], index, revisit, film=True)
    assert strip.frames == list(range(strip.frames[0], strip.frames[-1] + 1))
    assert strip.frames[0] <= revisit.last_seen and strip.frames[-1] >= revisit.frame
    drawn = film(strip, ("true", "shown", "error"), errors=True)
    frames, rows, columns, _ = drawn.shape
    assert frames == len(strip.frames) and rows % 2 == columns % 2 == 0
    scale = PANEL // SIZE
    panels = [drawn[-1, 2 * BAR : 2 * BAR + PANEL, k * (PANEL + GAP) : k * (PANEL + GAP) + PANEL] for k in range(3)]
    shown = np.round(strip.shown["all"].rgb[-1] * 255).astype(np.uint8)
    assert np.array_equal(panels[1][::scale, ::scale], shown)
    hidden = ~strip.mask[-1]
    assert np.array_equal(panels[0][::scale, ::scale][hidden], np.round(strip.true_rgb[-1] * 255).astype(np.uint8)[hidden])
    assert panels[2].mean() < 8  # it knows: hardly an error
    words = [frame_words(strip, strip.frames.index(t))[1] for t in (revisit.last_seen, revisit.last_seen + 1, revisit.frame)]
    assert words == ["last seen", "gone for 1", "back, blind"]


def test_lines_that_lie_on_one_another_take_turns():
    lines = [Series(name, name, [0.0, 0.0]) for name in ("red", "blue")] + [Series("green", "green", [0.5, 0.5])]
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", charts.category_chart(["a", "b"], lines, "y", 1.0)).group())
    red, blue, green = svg.findall("polyline")
    assert green.get("stroke-dasharray") is None
    covered = []
    for line in (red, blue):
        (on, off), start = map(float, line.get("stroke-dasharray").split()), float(line.get("points").split(",")[0])
        x = np.arange(200.0, 400.0) + 0.5
        covered.append((x - start + float(line.get("stroke-dashoffset"))) % (on + off) < on)
    assert np.array_equal(covered[0], ~covered[1]) and covered[0].mean() == 0.5


def test_points_land_where_they_are_on_the_map():
    cloud = PointMap(np.array([[1.0, 1.0, 0.2], [-1.0, -1.0, 0.1], [0.0, 0.0, 2.4]]), np.eye(3))
    picture = pictures.point_picture(cloud, (-2.0, -2.0, 2.0, 2.0), pixels_per_m=10)
    assert picture.shape == (40, 40, 4)
    assert picture[10, 30].tolist() == [255, 0, 0, 255]  # x right, y up
    assert picture[30, 10].tolist() == [0, 255, 0, 255]
    assert picture[10, 32, 3] == 0 and picture[20, 20, 3] == 0  # three pixels wide; no ceiling


def test_higher_points_cover_lower_ones():
    cloud = PointMap(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.1]]), np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    assert pictures.point_picture(cloud, (-1, -1, 1, 1), 10)[10, 10].tolist() == [255, 0, 0, 255]


def test_depth_without_an_opinion_is_grey():
    picture = pictures.depth_picture(np.array([[0.0, 1.0]]), 4.0)
    assert picture[0, 0].tolist() == [128, 128, 128] and picture[0, -1].tolist() != [128, 128, 128]


def test_charts_place_values_on_their_axis():
    half = Series("half", "red", [0.5], [0.25], [0.75])
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", charts.category_chart(["a"], [half], "y", 1.0)).group())
    circle = svg.find("circle")
    middle = charts.TOP + (charts.HEIGHT - charts.TOP - charts.BOTTOM) / 2
    assert float(circle.get("cy")) == pytest.approx(middle, abs=0.1)
    whisker = next(line for line in svg.findall("line") if line.get("class") == "whisker")
    assert float(whisker.get("y1")) - float(whisker.get("y2")) == pytest.approx(
        (charts.HEIGHT - charts.TOP - charts.BOTTOM) / 2, abs=0.2
    )


def test_a_calibrated_forecast_is_drawn_on_the_diagonal():
    line = Series("model", "red", [0.25, 0.75], [0.2, 0.7], [0.3, 0.8])
    page = charts.reliability_chart([(line, [0.25, 0.75], [0.1, 0.9])], "x", "y")
    svg = ElementTree.fromstring(re.search(r"<svg.*</svg>", page).group())
    (diagonal,) = [e for e in svg.findall("line") if e.get("class") == "diagonal"]
    x0, y0, x1, y1 = (float(diagonal.get(end)) for end in ("x1", "y1", "x2", "y2"))
    small, large = svg.findall("circle")
    for mark, at in ((small, 0.25), (large, 0.75)):
        assert float(mark.get("cx")) == pytest.approx(x0 + at * (x1 - x0), abs=0.1)
        assert float(mark.get("cy")) == pytest.approx(y0 + at * (y1 - y0), abs=0.1)
    assert float(large.get("r")) == pytest.approx(3 * float(small.get("r")), rel=0.02)  # areas as 9 to 1
    assert len([e for e in svg.findall("line") if e.get("class") == "whisker"]) == 2


def test_missing_values_leave_gaps():
    svg = charts.category_chart(["a", "b"], [Series("s", "red", [None, 0.2], [None, None], [None, None])], "y", 1.0)
    assert svg.count("<circle") == 1 and "whisker" not in svg
    assert charts.line_chart([], "x", "y") == ""


def test_a_plan_is_valid_and_escaped(episodes):
    scene = episodes[0].truth.scene
    svg = plans.plan(scene, [plans.Path([[0, 0], [1, 1]], "red")], goal=1, guess=([0.5, 0.5], "blue"))
    root = ElementTree.fromstring(svg)
    assert len([e for e in root if e.get("class") == "wall"]) == 4
    assert len([e for e in root if e.get("class") == "object"]) == 2
    (ring,) = [e for e in root if e.get("class") == "ring"]
    assert float(ring.get("cx")) == pytest.approx(scene["objects"][0]["position"][0], abs=0.01)
    assert float(ring.get("cy")) == pytest.approx(-scene["objects"][0]["position"][1], abs=0.01)
