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
SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


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


def drawn(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", page, re.DOTALL).group())


def marks(svg: ElementTree.Element, colour: str) -> list[tuple[float, float]]:
    """Where points of a colour are drawn."""
    found = [e for e in svg.iter(f"{SVG}use") if f"fill: {colour}" in e.get("style", "")]
    return [(float(e.get("x")), float(e.get("y"))) for e in found]


def strokes(svg: ElementTree.Element, *style: str) -> list[np.ndarray]:
    """Corners of the lines of a style. [K, 2] each"""
    paths = [e for e in svg.iter(f"{SVG}path") if all(part in e.get("style", "") for part in style)]
    return [np.array(re.findall(r"-?[\d.]+", e.get("d")), float).reshape(-1, 2) for e in paths]


def test_charts_place_values_on_their_axis():
    half = Series("half", "#ff0000", [0.5], [0.25], [0.75])
    svg = drawn(charts.category_chart(["a"], [half], "y", 1.0))
    ((_, middle),) = marks(svg, "#ff0000")
    heights = [line[0, 1] for line in strokes(svg, "stroke: var(--edge)") if len(line) == 2]
    low, high = max(heights), min(heights)
    assert middle == pytest.approx((low + high) / 2, abs=0.1)
    (whisker,) = strokes(svg, "stroke: var(--text)", "stroke-opacity: 0.7")
    assert whisker[0, 1] - whisker[1, 1] == pytest.approx((low - high) / 2, abs=0.2)


def test_a_calibrated_forecast_is_drawn_on_the_diagonal():
    line = Series("model", "#ff0000", [0.25, 0.75], [0.2, 0.7], [0.3, 0.8])
    svg = drawn(charts.reliability_chart([(line, [0.25, 0.75], [0.1, 0.9])], "x", "y"))
    (diagonal,) = strokes(svg, "stroke: var(--soft)", "stroke-dasharray")
    for mark, at in zip(marks(svg, "#ff0000"), (0.25, 0.75), strict=True):
        assert np.allclose(mark, diagonal[0] + at * (diagonal[1] - diagonal[0]), atol=0.1)
    used = {e.get(f"{LINK}href").removeprefix("#") for e in svg.iter(f"{SVG}use") if "fill: #ff0000" in e.get("style")}
    shapes = [e.get("d") for e in svg.iter(f"{SVG}path") if e.get("id") in used]
    sizes = [np.ptp(np.array(re.findall(r"-?[\d.]+", shape), float)[::2]) for shape in shapes]
    assert max(sizes) == pytest.approx(3 * min(sizes), rel=0.02)  # areas as 9 to 1
    assert len(strokes(svg, "stroke: var(--text)", "stroke-opacity: 0.7")) == 2


def test_missing_values_leave_gaps_and_what_is_not_drawn_is_not_named():
    lines = [Series("some", "#ff0000", [None, 0.2], [None, None], [None, None]), Series("none", "#00ff00", [None, None])]
    page = charts.category_chart(["a", "b"], lines, "y", 1.0)
    assert len(marks(drawn(page), "#ff0000")) == 1 and "stroke-opacity: 0.7" not in page
    assert ">some<" in page and ">none<" not in page
    assert charts.line_chart([], "x", "y") == ""


def test_lines_that_lie_on_one_another_take_turns():
    lines = [Series(name, name, [0.0, 0.0]) for name in ("#ff0000", "#0000ff")] + [Series("green", "#00ff00", [0.5, 0.5])]
    svg = drawn(charts.category_chart(["a", "b"], lines, "y", 1.0))
    styles = {c: [e.get("style") for e in svg.iter(f"{SVG}path") if f"stroke: {c}" in e.get("style", "")] for c in
              ("#ff0000", "#0000ff", "#00ff00")}  # fmt: skip
    assert "dasharray" not in styles["#00ff00"][0]
    assert np.array_equal(*(line[:, 0] for c in ("#ff0000", "#0000ff") for line in strokes(svg, f"stroke: {c}")))
    covered = []
    for colour in ("#ff0000", "#0000ff"):
        on, off = map(float, re.search(r"stroke-dasharray: ([\d.]+),([\d.]+)", styles[colour][0]).groups())
        start = float(re.search(r"stroke-dashoffset: ([\d.]+)", styles[colour][0])[1])
        covered.append((np.arange(180) + 0.5 + start) % (on + off) < on)
    assert np.array_equal(covered[0], ~covered[1]) and covered[0].mean() == 0.5


def test_values_beyond_the_axis_are_drawn():
    svg = drawn(charts.category_chart(["a", "b"], [Series("far", "#ff0000", [0.5, 7.0])], "y", 3.0))
    height = float(svg.get("viewBox").split()[3])
    assert [0 < y < height for _, y in marks(svg, "#ff0000")] == [True, True]


def test_a_page_can_hold_a_chart_as_it_is():
    page = charts.bar_chart(["a"], [Series("<one>", "var(--model)", [0.5])], "y", 1.0)
    assert "&lt;one&gt;" in page and "var(--model)" in page.partition("<svg")[2]
    assert not re.findall(r"url\(|<script|<style|http(?!://www.w3.org)", page)


def test_a_plan_shows_walls_objects_and_the_goal(episodes):
    scene = episodes[0].truth.scene
    svg = drawn(plans.plan(scene, [plans.Path([[0, 0], [1, 1]], "#ff0000")], goal=1, guess=([0.5, 0.5], "#0000ff")))
    walls = [line for line in strokes(svg, "stroke: var(--text)", "stroke-width: 3.6") if len(line) == 2]
    assert len(walls) == len(scene["walls"]) == 4
    for item in scene["objects"]:
        assert "#" + "".join(f"{round(255 * c):02x}" for c in item["colour"]) in ElementTree.tostring(svg, "unicode")
    (ring,) = [line for line in strokes(svg, "stroke: var(--text)", "stroke-width: 1.8")]
    x0, y0, _, _ = plans.bounds_of(scene)
    height, (x, y) = float(svg.get("viewBox").split()[3]), (ring.min(0) + ring.max(0)) / 2
    found = x / 72 / plans.INCHES_PER_M + x0, (height - y) / 72 / plans.INCHES_PER_M + y0
    assert np.allclose(found, scene["objects"][0]["position"][:2], atol=0.02)
