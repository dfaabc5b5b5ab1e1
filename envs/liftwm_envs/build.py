"""From a scene to a MuJoCo model (mujoco 3.3 to 4.x).

Shadow maps and multisampling are off: in software GL they cost two orders of magnitude. Light is ambient plus directional and
has no highlights, so a surface keeps its colour from every direction and an object's mean colour stays close to its palette's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from liftwm_envs.engine import mujoco
from liftwm_envs.rooms import textures
from liftwm_envs.rooms.photographs import draw_photograph
from liftwm_envs.rooms.scene import SCREEN_HEIGHT_M, WALL_HEIGHT_M, WALL_THICKNESS_M, Room, Scene, SceneObject, Screen, Wall
from liftwm_envs.rooms.shells import CUP_HEIGHT_M, CUP_RADIUS_M, HANG_M, Show
from liftwm_envs.rooms.variation import Variation

TIMESTEP_S = 0.0125
ZNEAR_M, ZFAR_M = 0.04, 40.0
CAMERA_NAME = "eye"
AGENT_NAME = "agent"
OBJECT_GROUP = 1  # geom group of objects, so that they can be drawn alone; structure is in 0
SCREEN_SUNK_M = -(SCREEN_HEIGHT_M + 0.4)
_BOX, _CYLINDER = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CYLINDER
_CUP_GREY = (0.66, 0.65, 0.63)  # far from every colour of the palette
_PANEL_M = 0.025  # half thickness of a screen's panels
_AMBIENT, _DIRECTED = 0.94, (0.24, 0.12)  # light from everywhere, and from two sides


def object_body(object_id: int) -> str:
    """Body name of an object."""
    return f"object{object_id}"


def screen_body(screen_id: int) -> str:
    """Body name of a screen (a mocap body)."""
    return f"screen{screen_id}"


def cup_body(object_id: int) -> str:
    """Body name of the cup over an object (a mocap body)."""
    return f"cup{object_id}"


def new_spec(scene: Scene, image_size: tuple[int, int]) -> mujoco.MjSpec:
    """Structure, objects and screens of a scene, without an agent."""
    rng = np.random.default_rng([scene.seed, 7])
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.compiler.usethread = False  # threads cost more to start than they save on a handful of small images
    spec.option.timestep = TIMESTEP_S
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.iterations, spec.option.ls_iterations = 20, 10
    spec.stat.extent, spec.stat.meansize = 1.0, 0.2
    spec.stat.center = [0, 0, 1]
    _set_visual(spec, image_size, scene.variation)
    _add_lights(spec, rng, scene.variation)
    materials = _Materials(spec, rng, scene)
    for room in scene.rooms:
        _add_room(spec, room, materials, rng)
    for wall in scene.walls:
        _add_wall(spec, wall, materials)
    for room in scene.rooms:
        _add_posters(spec, room, scene, materials, rng)
    moving = {track.object_id for track in scene.tracks} | {
        show.first_id + k for show in scene.shows for k in range(len(show.slots))
    }
    for item in scene.objects:
        _add_object(spec, item, item.id in moving)
    for screen in scene.screens:
        _add_screen(spec, screen)
    for show in scene.shows:
        _add_cups(spec, show)
    return spec


def _set_visual(spec: mujoco.MjSpec, image_size: tuple[int, int], variation: Variation) -> None:
    visual = spec.visual
    visual.map.znear, visual.map.zfar = ZNEAR_M, ZFAR_M
    visual.quality.shadowsize = 0
    visual.quality.offsamples = 0
    visual.quality.numslices, visual.quality.numstacks, visual.quality.numquads = 20, 10, 1
    visual.global_.offheight, visual.global_.offwidth = image_size
    visual.headlight.active = 1
    ambient = _AMBIENT - 0.5 * sum(_DIRECTED) * (variation.light_contrast - 1.0)  # a surface gets half or less of it
    visual.headlight.ambient = ambient * variation.light_rgb
    visual.headlight.diffuse = [0, 0, 0]
    visual.headlight.specular = [0, 0, 0]


def _add_lights(spec: mujoco.MjSpec, rng: np.random.Generator, variation: Variation) -> None:
    """Two directional lights from above, of varied direction and slightly varied colour."""
    first = rng.uniform(0, 2 * np.pi)
    for k, strength in enumerate(_DIRECTED):
        azimuth = first + k * np.pi + rng.uniform(-0.6, 0.6)
        light = spec.worldbody.add_light()
        if hasattr(light, "type"):
            light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        else:
            light.directional = True
        light.castshadow = False
        light.pos = [0, 0, 5]
        light.dir = [np.cos(azimuth), np.sin(azimuth), -rng.uniform(0.6, 1.4)]
        light.ambient, light.specular = [0, 0, 0], [0, 0, 0]
        light.diffuse = list(strength * rng.uniform(0.9, 1.1, 3) * variation.light_contrast * variation.light_rgb)


class _Materials:
    """The scene's pool of textures: few images, told apart by repetition and rooms."""

    def __init__(self, spec: mujoco.MjSpec, rng: np.random.Generator, scene: Scene) -> None:
        self._spec, self._rng, self._variation = spec, rng, scene.variation
        self._flat, self._photographs = scene.texture == "flat", scene.texture == "photographs"
        self.walls = [self._structure(f"wall{k}", p, 0.5) for k, p in enumerate(self._draw(textures.WALL_PATTERNS, 5))]
        self.floors = [self._structure(f"floor{k}", p, 0.5) for k, p in enumerate(self._draw(textures.FLOOR_PATTERNS, 2))]
        self.ceiling = self._structure("ceiling", textures.checker if rng.random() < 0.5 else textures.noise, 0.4)
        self.posters = [self._structure(f"poster{k}", textures.poster, 0.0, textures.POSTER_PX) for k in range(3)]
        if scene.screens:
            self._structure("screen", textures.bars, 1.0)
        for kind in range(3):
            self._grain(kind)

    def _draw(self, patterns: tuple, count: int) -> list:
        order = [patterns[k] for k in self._rng.permutation(len(patterns))]
        return [order[k % len(order)] for k in range(count)]

    def _structure(
        self, name: str, pattern: Callable[..., NDArray], repeat_per_m: float, size: int = textures.TEXTURE_PX
    ) -> str:
        self._texture(name, self._image(name, pattern, size), mujoco.mjtTexture.mjTEXTURE_2D)
        material = self._spec.add_material(name=name, specular=0.0, shininess=0.0, reflectance=0.0)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
        if repeat_per_m > 0:
            material.texuniform = True
            material.texrepeat = [repeat_per_m / self._variation.texture_scale] * 2
        return name

    def _image(self, name: str, pattern: Callable[..., NDArray], size: int) -> NDArray[np.uint8]:
        """A photograph of such a surface where there are any, else the pattern."""
        if self._photographs and pattern is not textures.poster:
            return draw_photograph(self._rng, name.rstrip("0123456789"))
        return textures.structure_image(self._rng, pattern, size, self._flat, self._variation.saturation)

    def _grain(self, kind: int) -> None:
        name = f"grain{kind}"
        self._texture(name, textures.object_grain(kind, flat=self._flat), mujoco.mjtTexture.mjTEXTURE_CUBE)
        material = self._spec.add_material(name=name, specular=0.0, shininess=0.0, reflectance=0.0)
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name

    def _texture(self, name: str, image: NDArray[np.uint8], kind: mujoco.mjtTexture) -> None:
        height, width, _ = image.shape
        texture = self._spec.add_texture(name=name, type=kind, height=height, width=width, nchannel=3)
        texture.data = image.tobytes()


def _add_room(spec: mujoco.MjSpec, room: Room, materials: _Materials, rng: np.random.Generator) -> None:
    """Floor and ceiling; they reach under the walls, so that doorways have a floor."""
    x0, y0, x1, y1 = room.interior
    half = [(x1 - x0 + WALL_THICKNESS_M) / 2, (y1 - y0 + WALL_THICKNESS_M) / 2, 0.05]
    middle = [(x0 + x1) / 2, (y0 + y1) / 2]
    floor = materials.floors[int(rng.integers(len(materials.floors)))]
    spec.worldbody.add_geom(type=_BOX, size=half, pos=[*middle, -0.05], material=floor)
    spec.worldbody.add_geom(type=_BOX, size=half, pos=[*middle, WALL_HEIGHT_M + 0.05], material=materials.ceiling)


def _add_wall(spec: mujoco.MjSpec, wall: Wall, materials: _Materials) -> None:
    """One panel for each room beside the wall. A panel's local z is its normal, because 2D textures project along z."""
    (x0, y0), (x1, y1) = ((float(x), float(y)) for x, y in (wall.start, wall.end))
    length = math.hypot(x1 - x0, y1 - y0)
    overhang = WALL_THICKNESS_M / 2 if wall.bottom_m == 0 else 0.0
    half = [length / 2 + overhang, (WALL_HEIGHT_M - wall.bottom_m) / 2, WALL_THICKNESS_M / 4]
    for room, sign in ((wall.left, 1), (wall.right, -1)):
        if room is None:
            continue
        x, y = -sign * (y1 - y0) / length, sign * (x1 - x0) / length  # the normal
        material = materials.walls[(2 * room + int(abs(y) > abs(x)) + 2 * int(x + y < 0)) % len(materials.walls)]
        middle = [(x0 + x1) / 2 + x * WALL_THICKNESS_M / 4, (y0 + y1) / 2 + y * WALL_THICKNESS_M / 4]
        z = (WALL_HEIGHT_M + wall.bottom_m) / 2
        spec.worldbody.add_geom(type=_BOX, size=half, pos=[*middle, z], quat=_facing(x, y), material=material)


def _facing(x: float, y: float) -> list[float]:
    """Quaternion (wxyz) that turns local z to a horizontal normal and local y up."""
    half = math.atan2(y, x) / 2
    one, other = 0.5 * (math.cos(half) - math.sin(half)), 0.5 * (math.cos(half) + math.sin(half))
    return [one, one, other, other]


def _add_posters(spec: mujoco.MjSpec, room: Room, scene: Scene, materials: _Materials, rng: np.random.Generator) -> None:
    """Up to two pictures on solid walls, above the objects; they have no collisions."""
    solid = [
        w
        for w in scene.walls
        if w.bottom_m == 0 and room.index in (w.left, w.right) and np.hypot(*np.subtract(w.end, w.start)) > 1.6
    ]
    for k in rng.permutation(len(solid))[:2]:
        wall = solid[k]
        a, b = np.array(wall.start), np.array(wall.end)
        along = (b - a) / np.hypot(*(b - a))
        normal = np.array([-along[1], along[0]]) * (1 if wall.left == room.index else -1)
        at = a + (b - a) * rng.uniform(0.35, 0.65) + normal * (WALL_THICKNESS_M / 2 + 0.01)
        size = [rng.uniform(0.3, 0.45), rng.uniform(0.3, 0.45), 0.01]
        material = materials.posters[int(rng.integers(len(materials.posters)))]
        spec.worldbody.add_geom(
            type=_BOX,
            size=size,
            pos=[*at, rng.uniform(1.45, 1.7)],
            quat=_facing(*normal),
            material=material,
            contype=0,
            conaffinity=0,
        )


def _add_object(spec: mujoco.MjSpec, item: SceneObject, moves: bool) -> None:
    """One body; a mocap body if it moves, which pushes and is never pushed."""
    body = spec.worldbody.add_body(name=object_body(item.id), mocap=moves, pos=[*item.position, 0], quat=_yaw_quat(item.yaw))
    colour = [*(float(v) for v in item.colour), 1.0]
    for shape, size, z in _parts(item.shape, item.size):
        geom = {"rgba": colour, "material": f"grain{item.grain}", "pos": [0, 0, z], "group": OBJECT_GROUP}
        if shape == "cone":
            mesh = spec.add_mesh(name=f"cone{item.id}")
            mesh.uservert = _cone_vertices(size[0], size[1]).ravel()
            body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=mesh.name, **geom)
        else:
            kind = getattr(mujoco.mjtGeom, f"mjGEOM_{shape.upper()}")
            body.add_geom(type=kind, size=[*size, 0, 0][:3], **geom)


def _parts(shape: str, s: float) -> list[tuple[str, list[float], float]]:
    """Geoms of a shape of half extent `s`: MuJoCo type, size, height of the centre."""
    return {
        "sphere": [("sphere", [s], s)],
        "box": [("box", [0.8 * s, 0.8 * s, 0.85 * s], 0.85 * s)],
        "cylinder": [("cylinder", [0.85 * s, 1.1 * s], 1.1 * s)],
        "cone": [("cone", [s, 2.6 * s], 0.0)],
        "capsule": [("capsule", [0.75 * s, 0.65 * s], 1.4 * s)],
        "tower": [
            ("box", [0.7 * s, 0.7 * s, 0.5 * s], 0.5 * s),
            ("cylinder", [0.35 * s, 0.6 * s], 1.6 * s),
            ("sphere", [0.5 * s], 2.5 * s),
        ],
    }[shape]


def _cone_vertices(radius: float, height: float, edges: int = 16) -> NDArray[np.float64]:
    """Base ring and apex; MuJoCo takes the convex hull. [edges + 1, 3]"""
    angle = np.linspace(0, 2 * np.pi, edges, endpoint=False)
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros(edges)], 1)
    return np.concatenate([ring, [[0, 0, height]]])


def _add_screen(spec: mujoco.MjSpec, screen: Screen) -> None:
    """Three panels and a lid on a mocap body that starts below the floor; a tunnel has one panel and stands."""
    bottom = 0.0 if screen.open_ended else SCREEN_SUNK_M
    body = spec.worldbody.add_body(
        name=screen_body(screen.id), mocap=True, pos=[*screen.centre, bottom], quat=_yaw_quat(screen.yaw)
    )
    depth, width, top = screen.half_depth, screen.half_width, screen.height_m
    panels = [
        ((depth - _PANEL_M, 0), (1, 0), width),
        ((0, width - _PANEL_M), (0, 1), depth),
        ((0, -width + _PANEL_M), (0, -1), depth),
    ]
    for at, normal, half in panels[: 1 if screen.open_ended else 3]:
        quat = _facing(*normal)
        body.add_geom(type=_BOX, size=[half, top / 2, _PANEL_M], pos=[*at, top / 2], quat=quat, material="screen")
    body.add_geom(type=_BOX, size=[depth, width, _PANEL_M], pos=[0, 0, top - _PANEL_M], material="screen")


def _add_cups(spec: mujoco.MjSpec, show: Show) -> None:
    """Grey cylinders, all alike, each on a mocap body that hangs over its place."""
    for k, slot in enumerate(show.slots):
        body = spec.worldbody.add_body(name=cup_body(show.first_id + k), mocap=True, pos=[*slot, HANG_M])
        size, middle = [CUP_RADIUS_M, CUP_HEIGHT_M / 2, 0], [0, 0, CUP_HEIGHT_M / 2]
        body.add_geom(type=_CYLINDER, size=size, pos=middle, material="grain2", rgba=[*_CUP_GREY, 1.0])


def _yaw_quat(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def add_camera(body: mujoco.MjsBody, height_m: float, variation: Variation) -> None:
    """The agent's eye: looks along the body's x axis, z up, or down from it by the pitch."""
    half = math.radians(-variation.camera_pitch_deg / 2)
    one, other = 0.5 * (math.cos(half) - math.sin(half)), 0.5 * (math.cos(half) + math.sin(half))
    body.add_camera(name=CAMERA_NAME, pos=[0, 0, height_m], fovy=variation.fov_deg, quat=[one, other, -other, -one])
