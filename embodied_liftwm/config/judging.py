"""What is done with a trained world model: it is judged, generates, plans and teaches policies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from embodied_liftwm.config.checks import above_zero, at_least
from embodied_liftwm.config.episodes import REPORT_SEED, EnvOptions
from embodied_liftwm.config.training import TrainConfig
from embodied_liftwm.errors import UserError


@dataclass(frozen=True)
class PlannerConfig:
    """Model-predictive control on the state: MPPI or CEM over `imagine`."""

    planner: Literal["mppi", "cem"] = "mppi"  # how the sampling distribution is refined
    horizon: int = 12  # steps looked ahead
    num_samples: int = 128  # action sequences tried per refinement
    iterations: int = 2  # refinements of the sampling distribution per plan
    temperature: float = 0.1  # mppi: of the softmax over returns, metres of cost
    num_elites: int = 16  # cem: cheapest sequences, to which the distribution is refitted
    noise: float = 0.6  # standard deviation of sampled actions
    panorama_views: int = 6  # views rendered from the state to find the goal and free space
    cell_m: float = 0.1  # edge of an occupancy cell

    def __post_init__(self) -> None:
        for name in ("horizon", "num_samples", "iterations", "num_elites", "panorama_views"):
            at_least(name, getattr(self, name), 1)
        for name in ("temperature", "noise", "cell_m"):
            above_zero(name, getattr(self, name))
        if self.planner == "cem" and self.num_elites > self.num_samples:
            raise UserError(f"num_elites={self.num_elites}: must be at most num_samples={self.num_samples}")


@dataclass(frozen=True)
class EvaluateConfig:
    """`liftwm evaluate`: score a world model on held-out episodes and tasks, and write a report."""

    model: str = "runs/train"  # run folder, or my_package:make_model
    baseline: str = ""  # a second model to compare with, scored by the same code
    policy: str = ""  # navigation, permanence: run folder of `liftwm train-agent`, or its zip, to compare with the planner
    planner: PlannerConfig = field(default_factory=PlannerConfig)  # who acts on what the models remember
    data: str = "data/revisit-s-eval"  # held-out episodes with truth
    out: str = "runs/evaluate"  # where metrics.json, rows.csv and report/index.html go
    episodes: int = 0  # episodes of data to use; 0 for all
    suite: str = ""  # a named set in place of suites=: permanence, which needs no data=, as it has frozen manifests
    parts: tuple[str, ...] = ()  # permanence: its suites to run; all by default
    tasks: tuple[str, ...] = ("Revisit-S", "Occlusion-S")  # permanence: tasks that have a manifest
    permanence_episodes: int = 0  # permanence: the first so many episodes of each manifest, for a quick look; 0 for all
    control_episodes: int = 24  # permanence: of these, so many for controls and for worlds that change while hidden; 0 for all
    probe_episodes: int = 96  # permanence: tours of training scenes that the probe learns from
    manifests: str = ""  # permanence: folder of manifests of your own; empty for those that ship
    suites: tuple[Literal["views", "persistence", "navigation"], ...] = ("views", "persistence", "navigation")  # what
    context: int = 48  # views: frames observed before novel views are rendered
    views_per_episode: int = 8  # views: held-out target frames per episode
    env: str = "Revisit-S"  # navigation: the task
    env_options: EnvOptions = field(default_factory=EnvOptions)
    navigation_episodes: int = 30  # navigation: paired episodes per agent
    bootstrap: int = 1000  # resamples behind every interval
    seed: int = 0  # of the bootstrap and of the navigation episodes
    workers: int = 2  # navigation, permanence: processes
    engine: Literal["local", "ray"] = "local"  # what runs them: processes of this machine, or Ray (docs/scaling.md)
    ray_address: str = ""  # ray: a cluster to join, or auto; empty starts Ray on this machine
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        for name in ("context", "views_per_episode", "navigation_episodes", "bootstrap", "workers"):
            at_least(name, getattr(self, name), 1)
        if self.suite not in ("", "permanence"):
            raise UserError(f"suite={self.suite}: the one named set is permanence; suites= lists single ones")
        at_least("probe_episodes", self.probe_episodes, 2)
        for name in ("permanence_episodes", "control_episodes"):
            at_least(name, getattr(self, name), 0)
        if not self.tasks:
            raise UserError("tasks= is empty: name one or more, such as Revisit-S")


@dataclass(frozen=True)
class GenerateConfig:
    """`liftwm generate`: from one first frame and a camera path, a video with the memory in the loop (docs/generation.md)."""

    model: str = "base"  # run folder, checkpoint, the name of a shipped one, or my_package:make_model
    first_frame: str = ""  # picture, .png or .jpg; cropped to its central square and resized to what the model takes
    fov_deg: float = 90.0  # field of view of that square, degrees; data= brings its own
    data: str = ""  # or a dataset folder, whose frames begin videos
    episode: int = 0  # data: of the first video
    frame: int = 0  # data: of the episode, that begins the video
    episodes: int = 1  # data: videos from so many episodes, from episode= on; 0 for all; pictures are of the first
    path: str = "yaw-90"  # yaw-DEGREES | out-and-back-METRES | aba-METRES | abca-METRES | loop-METRES, a file of poses
    # (.txt of RealEstate10K, .npy, .json), or with data recorded: the episode's own
    steps: int = 8  # of a named path, from one waypoint to the next: yaw-90 has two such legs
    metres_per_unit: float = 1.0  # path in a file: by which its translations are multiplied
    loop: bool = True  # believe what was generated; false keeps to the first frame alone, as a control
    out: str = "runs/generate"  # where video.mp4, picture.png, metrics.json and rows.csv go
    fps: int = 8  # frames a second of the video
    bootstrap: int = 1000  # resamples behind every interval
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        for name in ("steps", "fps", "bootstrap"):
            at_least(name, getattr(self, name), 1)
        for name in ("episode", "frame", "episodes"):
            at_least(name, getattr(self, name), 0)
        above_zero("metres_per_unit", self.metres_per_unit)
        if not 1 <= self.fov_deg <= 170:
            raise UserError(f"fov_deg={self.fov_deg}: must be in [1, 170]")


@dataclass(frozen=True)
class TrainAgentConfig:
    """`liftwm train-agent`: a stable-baselines3 policy on what a world model remembers, or on pixels to compare with."""

    input: Literal["state", "pixels", "frame_stack", "recurrent", "imagined"] = "state"  # what the policy sees: the world
    # model's state, the frame, the last frames, the frame with an LSTM that watched the tour; imagined is state, trained
    # inside the world model
    model: str = "runs/train"  # run folder of a trained world model, or the name of a shipped one
    env: str = "Revisit-S"  # the task
    env_options: EnvOptions = field(default_factory=EnvOptions)
    run: str = "runs/agent"  # run folder: SB3 zip, TensorBoard log, metrics
    steps: int = 100_000  # steps played, in the environment or imagined; tours are not counted
    discrete: bool = True  # choose among a few actions where the environment's are continuous (docs/agents.md)
    way: bool = True  # state: show the shortest way through the map to the place believed
    watch_every: int = 4  # state: steps between frames that the world model observes; in between it imagines
    read_every: int = 16  # state: steps between readings of the map
    frame_stack: int = 4  # frame_stack: frames seen at once
    starts: int = 128  # tours of training scenes that each environment keeps; 0 tours a new scene in every episode
    fresh: float = 0.1  # share of draws that are a new scene, whose tour takes the oldest one's place
    repeats: int = 4  # episodes in a row from each draw
    num_envs: int = 2  # environments in the VecEnv
    imagined_envs: int = 16  # imagined: episodes at once
    parallel: bool = False  # give each environment a process of its own, with a world model of its own
    rollout_steps: int = 128  # PPO n_steps
    batch_size: int = 64  # PPO batch_size
    learning_rate: float = 3e-4  # PPO learning_rate
    gamma: float = 0.97  # PPO discount
    entropy: float = 0.01  # PPO ent_coef
    evaluate_every: int = 5_000  # steps between evaluations on held-out tours; 0 for none
    eval_episodes: int = 20  # of these
    eval_seed: int = 0  # first of them, within the development part of split=eval
    loop: bool = False  # alternate, by rounds: collect with the present policy, train the world model on all that was
    # collected, train the policy on it; beside the same without its own data (docs/agents.md)
    rounds: int = 3  # loop: of them
    round_episodes: int = 40  # loop: episodes collected in each
    episode_steps: int = 128  # loop: actions per collected episode at most, its tour included
    world: TrainConfig = field(default_factory=lambda: TrainConfig(steps=500))  # loop: the world model's training in each
    # round, from the weights of the last; data and run are set
    seed: int = 0  # weights and environments
    device: str = "cpu"  # torch device

    def __post_init__(self) -> None:
        for name in ("rounds", "round_episodes", "episode_steps", "repeats", "watch_every", "read_every"):
            at_least(name, getattr(self, name), 1)
        if self.loop and self.input not in ("state", "imagined"):
            raise UserError(f"input={self.input}: loop=true trains a world model, which input=state or imagined sees")
        for name in ("steps", "num_envs", "imagined_envs", "rollout_steps", "frame_stack", "eval_episodes"):
            at_least(name, getattr(self, name), 1)
        for name in ("starts", "fresh", "gamma", "entropy", "evaluate_every", "eval_seed"):
            at_least(name, getattr(self, name), 0)
        at_least("batch_size", self.batch_size, 2)
        at_least("rollout_steps * num_envs", self.rollout_steps * self.num_envs, 2)
        above_zero("learning_rate", self.learning_rate)
        for name in ("fresh", "gamma"):
            if getattr(self, name) > 1:
                raise UserError(f"{name}={getattr(self, name)}: must be in [0, 1]")
        if self.eval_seed + 2 * self.eval_episodes > REPORT_SEED:
            raise UserError(f"eval_seed={self.eval_seed}: reported figures use seeds from {REPORT_SEED} on; stay below")
        if self.input == "imagined" and not self.way:
            raise UserError("way=False: input=imagined needs the way, which is its reward")
