"""What is done with a trained world model: it is judged, generates, plans and teaches policies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from embodied_liftwm.config.checks import LAST_SEED, MOST_PROCESSES, bounded, check_fields, distinct, shown
from embodied_liftwm.config.episodes import EVAL_SEED_OFFSET, REPORT_SEED, TEACHER_SEED_OFFSET, EnvOptions, sides_of
from embodied_liftwm.config.training import TrainConfig
from embodied_liftwm.errors import UserError


@dataclass(frozen=True)
class BodyConfig:
    """Lengths of the body that carries the camera, in the world's unit; 0 for what the episode shows of each."""

    camera_height_m: float = bounded(0.0, 0, 1e6)  # of the camera above the floor
    radius_m: float = bounded(0.0, 0, 1e6)  # around the camera, of what must not touch anything
    step_m: float = bounded(0.0, 0, 1e6)  # that a full action moves

    def __post_init__(self) -> None:
        check_fields(self, "planner.body.")


@dataclass(frozen=True)
class PlannerConfig:
    """Model-predictive control on the state: MPPI or CEM over `imagine`."""

    planner: Literal["mppi", "cem"] = "mppi"  # how the sampling distribution is refined
    horizon: int = bounded(12, 1, 1000)  # steps looked ahead
    num_samples: int = bounded(128, 1, 100_000)  # action sequences tried per refinement
    iterations: int = bounded(2, 1, 1000)  # refinements of the sampling distribution per plan
    temperature: float = bounded(0.1, 0, 1000, above=True)  # mppi: of the softmax over returns, metres of cost
    num_elites: int = bounded(16, 1, 100_000)  # cem: cheapest sequences, to which the distribution is refitted
    noise: float = bounded(0.6, 0, 100, above=True)  # standard deviation of sampled actions
    panorama_views: int = bounded(6, 1, 64)  # views rendered from the state to find the goal and free space
    cell_m: float = bounded(0.0, 0, 1e6)  # edge of an occupancy cell; 0 for half the body's radius
    body: BodyConfig = field(default_factory=BodyConfig)  # what lengths are measured in
    goal_finder: str = ""  # my_package:make_finder, which says where goals may be; empty for the vote by colour
    objective: str = ""  # my_package:make_objective, whose prices plans are chosen by; empty for the metres still to go

    def __post_init__(self) -> None:
        check_fields(self, "planner.")
        if self.planner == "cem" and self.num_elites > self.num_samples:
            raise UserError(f"planner.num_elites={self.num_elites}: must be at most planner.num_samples={self.num_samples}")


SuiteName = Literal["views", "persistence", "navigation", "permanence", "readings", "controls", "expectation", "hidden_changes"]
HELD_OUT: tuple[SuiteName, ...] = ("views", "persistence", "navigation")
"""Suites on held-out episodes of `data`, and on tours of `env`."""
PERMANENCE: tuple[SuiteName, ...] = ("permanence", "readings", "controls", "expectation", "hidden_changes")
"""The permanence benchmark, and its suites one by one."""


@dataclass(frozen=True)
class EvaluateConfig:
    """`liftwm evaluate`: score a world model on held-out episodes and tasks, and write a report."""

    model: str = "runs/train"  # run folder, or my_package:make_model
    baseline: str = ""  # a second model to compare with, scored by the same code
    policy: str = ""  # navigation, permanence: run folder of `liftwm train-agent`, or my_policy:make_policy, to compare with
    # the planner
    trust: bool = False  # take a zip of stable-baselines3 as policy=, although opening one runs what is in it
    planner: PlannerConfig = field(default_factory=PlannerConfig)  # who acts on what the models remember
    data: str = "data/revisit-s-eval"  # held-out episodes; figures that need truth are left out without it, and named
    out: str = "runs/evaluate"  # where metrics.json, rows.csv and report/index.html go
    episodes: int = bounded(0, 0, 1_000_000)  # episodes of data to use; 0 for all
    suite: tuple[SuiteName, ...] = HELD_OUT  # what is judged: some of views, persistence, navigation; or permanence, which has
    # frozen manifests and needs no data=; or some of its suites: readings, controls, expectation, hidden_changes
    tasks: tuple[str, ...] = ("Revisit-S", "Occlusion-S")  # permanence: tasks that have a manifest
    permanence_episodes: int = bounded(0, 0, 1_000_000)  # permanence: the first so many episodes of each manifest, for a quick
    # look; 0 for all
    control_episodes: int = bounded(24, 0, 1_000_000)  # permanence: of these, so many for controls and for worlds that change
    # while hidden; 0 for all
    probe_episodes: int = bounded(96, 2, 100_000)  # permanence: tours of training scenes that the probe learns from
    manifests: str = ""  # permanence: folder of manifests of your own; empty for those that ship
    context: int = bounded(48, 1, 100_000)  # views: frames observed before novel views are rendered
    views_per_episode: int = bounded(8, 1, 1000)  # views: held-out target frames per episode
    env: str = "Revisit-S"  # navigation: the task; a gymnasium id, miniworld:FourRooms and the like, or my_package:make_env
    env_options: EnvOptions = field(default_factory=EnvOptions)
    tour: str = (
        "wander"  # navigation, where the world is none of ours and gives no tour: who walks through it before the task begins,
    )
    # wander or my_policy:make_policy
    tour_steps: int = bounded(200, 1, 100_000)  # navigation: and for so many steps
    max_steps: int = bounded(500, 1, 1_000_000)  # navigation, where the world is none of ours: steps after which an episode
    # that has not ended is over
    goal: Literal["attributes", "picture"] = "attributes"  # navigation: how an object is called: by its colour and shape, or by
    # the frame of the tour that showed it best, with its mask
    navigation_episodes: int = bounded(30, 1, 100_000)  # navigation: paired episodes per agent
    bootstrap: int = bounded(1000, 1, 100_000)  # resamples behind every interval
    seed: int = bounded(0, 0, LAST_SEED)  # of the bootstrap and of the navigation episodes
    workers: int = bounded(2, 1, MOST_PROCESSES)  # navigation, permanence: processes
    engine: Literal["local", "ray"] = "local"  # what runs them: processes of this machine, or Ray (docs/scaling.md)
    ray_address: str = ""  # ray: a cluster to join, or auto; empty starts Ray on this machine
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        check_fields(self)
        distinct("tasks", self.tasks, "names, such as Revisit-S")
        distinct("suite", self.suite, f"ones out of {', '.join((*HELD_OUT, *PERMANENCE))}")
        if len(self.suite) > 1 and ("permanence" in self.suite or (self.permanence and set(self.suite) & set(HELD_OUT))):
            held = ", ".join(HELD_OUT)
            raise UserError(f"suite={','.join(self.suite)}: some of {held}, or permanence, or some of its suites; not together")

    @property
    def permanence(self) -> bool:
        """Whether the permanence benchmark is run, or suites of it: on frozen manifests, not on `data`."""
        return bool(set(self.suite) & set(PERMANENCE))

    @property
    def models(self) -> list[str]:
        """Permanence: models of one kind are separated by commas."""
        return [source.strip() for source in self.model.split(",") if source.strip()] or [""]


@dataclass(frozen=True)
class ManifestConfig:
    """`liftwm manifest make|check`: freeze episodes for the permanence benchmark, of any environment, or drive them again."""

    env: tuple[str, ...] = ()  # Task-size, a gymnasium id, miniworld:FourRooms and the like, or my_package:make_env; several
    # by commas. check: all that out= holds by default
    env_options: EnvOptions = field(default_factory=EnvOptions)
    out: str = "manifests"  # folder of manifests, which `liftwm evaluate suite=permanence manifests=` reads
    episodes: int = bounded(100, 1, 1_000_000)  # make: to keep in each
    first_seed: int = bounded(EVAL_SEED_OFFSET + 2**25, EVAL_SEED_OFFSET, TEACHER_SEED_OFFSET - 1)  # make: an evaluation seed;
    # that of the benchmark by default, where nothing is tuned
    tour: str = "wander"  # make, where the world is none of ours and gives no tour: who walks through it before the task
    # begins, wander or my_policy:make_policy
    tour_steps: int = bounded(200, 1, 100_000)  # make: and for so many steps
    max_steps: int = bounded(500, 1, 1_000_000)  # make, where the world is none of ours: steps after which a task is over

    def __post_init__(self) -> None:
        check_fields(self)
        distinct("env", self.env, "names, such as Revisit-S", least=0)


@dataclass(frozen=True)
class GenerateConfig:
    """`liftwm generate`: from one first frame and a camera path, a video with the memory in the loop (docs/generation.md)."""

    model: str = "base"  # run folder, checkpoint, the name of a shipped one, or my_package:make_model
    first_frame: str = ""  # picture, .png or .jpg; its middle is resized to what the model takes, of any proportions
    size: str = ""  # first_frame, where the model does not say what it takes: pixels a side, or height x width, as in 48x64;
    # empty for the picture as it is
    fov_deg: float = bounded(90.0, 1, 170)  # field of view across the width of what is left, degrees; data= brings its own
    data: str = ""  # or a dataset folder, whose frames begin videos
    episode: int = bounded(0, 0, 1_000_000)  # data: of the first video
    frame: int = bounded(0, 0, 1_000_000)  # data: of the episode, that begins the video
    episodes: int = bounded(1, 0, 1_000_000)  # data: videos from so many episodes, from episode= on; 0 for all; pictures are of
    # the first
    path: str = "yaw-90"  # yaw-DEGREES | out-and-back-METRES | aba-METRES | abca-METRES | loop-METRES, a file of poses
    # (.txt of RealEstate10K, .npy, .json), or with data recorded: the episode's own
    steps: int = bounded(8, 1, 10_000)  # of a named path, from one waypoint to the next: yaw-90 has two such legs
    metres_per_unit: float = bounded(1.0, 0, 1e6, above=True)  # path in a file: by which its translations are multiplied
    loop: bool = True  # believe what was generated; false keeps to the first frame alone, as a control
    out: str = "runs/generate"  # where video.mp4, picture.png, metrics.json and rows.csv go
    fps: int = bounded(8, 1, 240)  # frames a second of the video
    bootstrap: int = bounded(1000, 1, 100_000)  # resamples behind every interval
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        check_fields(self)
        _ = self.sides

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of `size`. Raises UserError for what is none."""
        sides = sides_of(self.size, "size") if self.size else None
        if sides and not 16 <= min(sides) <= max(sides) <= 2048:
            raise UserError(f"size={shown(self.size)}: expected 16 to 2048 pixels a side")
        return sides


@dataclass(frozen=True)
class TrainAgentConfig:
    """`liftwm train-agent`: a stable-baselines3 policy on what a world model remembers, or on pixels to compare with."""

    input: Literal["state", "pixels", "frame_stack", "recurrent", "imagined"] = "state"  # what the policy sees: the world
    # model's state, the frame, the last frames, the frame with an LSTM that watched the tour; imagined is state, trained
    # inside the world model
    model: str = "runs/train"  # run folder of a trained world model, or the name of a shipped one
    env: str = "Revisit-S"  # the task; a gymnasium id, miniworld:FourRooms and the like, or my_package:make_env
    env_options: EnvOptions = field(default_factory=EnvOptions)
    tour: str = "wander"  # where the world is none of ours and gives no tour: who walks through it before the task begins,
    # wander or my_policy:make_policy
    tour_steps: int = bounded(200, 1, 100_000)  # and for so many steps
    max_steps: int = bounded(500, 1, 1_000_000)  # where the world is none of ours: steps after which an episode that has not
    # ended is over
    run: str = "runs/agent"  # run folder: policy, TensorBoard log, metrics
    steps: int = bounded(100_000, 1, 1_000_000_000)  # steps played, in the environment or imagined; tours are not counted
    discrete: bool = True  # choose among a few actions where the environment's are continuous (docs/agents.md)
    way: bool = True  # state: show the shortest way through the map to the place believed
    watch_every: int = bounded(4, 1, 100_000)  # state: steps between frames that the world model observes; in between it
    # imagines
    read_every: int = bounded(16, 1, 100_000)  # state: steps between readings of the map
    frame_stack: int = bounded(4, 1, 64)  # frame_stack: frames seen at once
    starts: int = bounded(128, 0, 100_000)  # tours of training scenes that each environment keeps; 0 tours a new scene in every
    # episode
    fresh: float = bounded(0.1, 0, 1)  # share of draws that are a new scene, whose tour takes the oldest one's place
    repeats: int = bounded(4, 1, 100_000)  # episodes in a row from each draw
    num_envs: int = bounded(2, 1, MOST_PROCESSES)  # environments in the VecEnv
    imagined_envs: int = bounded(16, 1, 4096)  # imagined: episodes at once
    parallel: bool = False  # give each environment a process of its own, with a world model of its own
    rollout_steps: int = bounded(128, 1, 100_000)  # PPO n_steps
    batch_size: int = bounded(64, 2, 1_000_000)  # PPO batch_size
    learning_rate: float = bounded(3e-4, 0, 1, above=True)  # PPO learning_rate
    gamma: float = bounded(0.97, 0, 1)  # PPO discount
    entropy: float = bounded(0.01, 0, 1000)  # PPO ent_coef
    evaluate_every: int = bounded(5_000, 0, 1_000_000_000)  # steps between evaluations on held-out tours; 0 for none
    eval_episodes: int = bounded(20, 1, 100_000)  # of these
    eval_seed: int = bounded(0, 0, REPORT_SEED)  # first of them, within the development part of split=eval
    loop: bool = False  # alternate, by rounds: collect with the present policy, train the world model on all that was
    # collected, train the policy on it; beside the same without its own data (docs/agents.md)
    rounds: int = bounded(3, 1, 1000)  # loop: of them
    round_episodes: int = bounded(40, 1, 100_000)  # loop: episodes collected in each
    episode_steps: int = bounded(128, 1, 100_000)  # loop: actions per collected episode at most, its tour included
    world: TrainConfig = field(default_factory=lambda: TrainConfig(steps=500))  # loop: the world model's training in each
    # round, from the weights of the last; data and run are set
    seed: int = bounded(0, 0, LAST_SEED)  # weights and environments
    trust: bool = False  # go on with a run folder that holds a policy.zip alone, although opening it runs what is in it
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        check_fields(self)
        if self.loop and self.input not in ("state", "imagined"):
            raise UserError(f"input={self.input}: loop=true trains a world model, which input=state or imagined sees")
        if self.rollout_steps * self.num_envs < 2:
            raise UserError("rollout_steps=1: must be at least 2 where num_envs=1")
        if self.eval_seed + 2 * self.eval_episodes > REPORT_SEED:
            raise UserError(f"eval_seed={self.eval_seed}: reported figures use seeds from {REPORT_SEED} on; stay below")
        if self.input == "imagined" and not self.way:
            raise UserError("way=False: input=imagined needs the way, which is its reward")
