"""Presets and `key=value` words become typed configuration, or one clear line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from embodied_liftwm.commands import load_config, preset_folder, preset_names
from embodied_liftwm.commands.schema import describe_type, field_comments, own_keys
from embodied_liftwm.config import (
    COMMANDS,
    BenchConfig,
    CollectConfig,
    DemoConfig,
    EnvOptions,
    EvaluateConfig,
    ModelConfig,
    PatchesConfig,
    TrainAgentConfig,
    TrainConfig,
)
from embodied_liftwm.config.model import in_present_keys, read_model
from embodied_liftwm.data.storage import FORMAT, read_info, write_info
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.permanence.manifest import load_manifest


def test_presets_are_the_four_of_the_design() -> None:
    assert preset_names() == ["debug", "gpu", "paper", "small"]


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_preset_loads_into_every_command(preset: str, command: str) -> None:
    assert isinstance(load_config(COMMANDS[command], preset), COMMANDS[command])


@pytest.mark.parametrize("preset", preset_names())
def test_presets_hold_only_what_differs_from_the_defaults(preset: str) -> None:
    import yaml

    sections = yaml.safe_load((preset_folder() / f"{preset}.yaml").read_text())
    for command, section in sections.items():
        defaults = {key.name: key.default for key in own_keys(COMMANDS[command])}
        for name, value in _leaves(section):
            same = tuple(value) == defaults[name] if isinstance(value, list) else value == defaults[name]
            assert not same, f"{preset}.yaml repeats the default of {command}.{name}"


def _leaves(section: dict, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in section.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def test_words_override_the_preset_which_overrides_the_defaults() -> None:
    config = load_config(TrainConfig, "debug", ["steps=7", "model.stride=8", "learning_rate=1e-4"])
    assert (config.steps, config.model.stride, config.learning_rate) == (7, 8, 1e-4)
    assert config.batch_size == 2  # from the preset
    assert config.grad_clip == TrainConfig().grad_clip


def test_values_keep_the_types_of_the_schema() -> None:
    config = load_config(CollectConfig, None, ["env=123", "out=a=b", "env_options.odometry_noise=1", "episodes=1_000"])
    assert (config.env, config.out, config.env_options.odometry_noise, config.episodes) == ("123", "a=b", 1.0, 1000)
    assert isinstance(config.env_options, EnvOptions) and isinstance(config.env_options.odometry_noise, float)
    assert load_config(EvaluateConfig, None, ["baseline="]).baseline == ""


@pytest.mark.parametrize("text", ["[views,navigation]", "[views, navigation]", "views,navigation"])
def test_lists_become_tuples(text: str) -> None:
    assert load_config(EvaluateConfig, None, [f"suite={text}"]).suite == ("views", "navigation")


def test_the_last_word_wins() -> None:
    assert load_config(CollectConfig, None, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("schema", "words", "message"),
    [
        (CollectConfig, ["episode=3"], "unknown key 'episode': did you mean 'episodes'?"),
        (CollectConfig, ["image_size=32"], "unknown key 'image_size': did you mean 'env_options.image_size'?"),
        (DemoConfig, ["train.model.widt=9"], "unknown key 'train.model.widt': did you mean 'train.model.width'?"),
        (CollectConfig, ["zzzz=1"], "unknown key 'zzzz'"),
        (CollectConfig, ["episodes"], "'episodes' is not of the form key=value"),
        (CollectConfig, ["=3"], "'=3' is not of the form key=value"),
        (CollectConfig, ["episodes=many"], "episodes=many: expected integer"),
        (CollectConfig, ["episodes=2.5"], "episodes=2.5: expected integer"),
        (CollectConfig, ["episodes="], "episodes=: expected integer"),
        (CollectConfig, ["policy=foo"], "policy=foo: expected explore | walk | tour | loop | random | oracle"),
        (CollectConfig, ["env_options=5"], "'env_options' is a group of keys"),
        (CollectConfig, ["env_options.embodiment=car"], "env_options.embodiment=car: expected wheels | drone"),
        (EvaluateConfig, ["suite=view"], "suite=view: expected list of views | persistence | navigation"),
        (CollectConfig, ["episodes=[1"], "episodes=[1: expected integer, 1 to 1000000"),
        (CollectConfig, ["episodes=0"], "episodes=0: must be at least 1"),
        (CollectConfig, ["env_options.image_size=3"], "env_options.image_size=3: must be at least 16"),
        (CollectConfig, ["env_options.image_size=48x3000"], "env_options.image_size=3000: must be at most 2048"),
        (CollectConfig, ["env_options.image_size=48x"], "env_options.image_size=48x: expected pixels, as in 64, or"),
        (CollectConfig, ["env_options.image_size=4x8x9"], "env_options.image_size=4x8x9: expected pixels"),
        (CollectConfig, ["seed=-1"], "seed=-1: must be at least 0"),
        (CollectConfig, ["seed=1073741824"], "seed=1073741824: must be at most 1073741823"),
        (CollectConfig, ["env=${nothing}"], "env=${nothing}: is taken as it stands"),
        (TrainConfig, ["terms=frame,${oc.env:HOME}"], "terms=frame,${oc.env:HOME}: is taken as it stands"),
        (TrainConfig, ["learning_rate=nan"], "learning_rate=nan: must be a finite number, above 0 to 1"),
        (TrainConfig, ["minutes=-inf"], "minutes=-inf: must be a finite number"),
        (DemoConfig, ["train.model.planes=1"], "train.model.planes=1: must be at least 2"),
        (TrainConfig, ["model.min_depth_m=11"], "model.min_depth_m=11.0: must be below model.max_depth_m=10.0"),
        (TrainConfig, ["model.epipolar_heads=3"], "model.epipolar_heads=3: must divide model.width=32"),
        (TrainConfig, ["model.width=512", "model.widest=16"], "model.widest=16: with model.width=512 more than 4096 channels"),
        (
            TrainConfig,
            ["model.patches.budget=1000000", "model.patches.texels=64"],
            "model.patches.budget=1000000: with these sizes a state of 183 GiB",
        ),
        (TrainConfig, ["model.budget=64"], "unknown key 'model.budget': is now model.patches.budget"),
        (DemoConfig, ["train.model.voxel_m=8"], "unknown key 'train.model.voxel_m': is now train.model.rgb_cloud.voxel_m"),
        (TrainConfig, ["batch_size=4096", "context=900", "span=9000"], "batch_size=4096: makes 3702784 frames a step"),
        (EvaluateConfig, ["suite="], "suite=[]: expected distinct ones out of views"),
        (EvaluateConfig, ["tasks=Revisit-S,Revisit-S"], "tasks=['Revisit-S', 'Revisit-S']: expected distinct names"),
        (TrainConfig, ["seed=" + 5000 * "9"], "seed=" + 80 * "9" + "...: expected integer"),
        (TrainConfig, ["compile=1"], "compile=1: expected true | false"),
        (TrainConfig, ["run="], "run= is empty"),
        (TrainConfig, ["run=a\0b"], r"run=a\x00b: must not hold the control character '\x00'"),
        (TrainConfig, ["run=a\nb"], r"run=a\nb: must not hold the control character '\n'"),
        (TrainConfig, ["run=" + 5000 * "x"], "run=" + 80 * "x" + "...: must be at most 4096 characters"),
        (BenchConfig, ["memory_sizes=64,9000"], "memory_sizes=9000: must be at most 2048"),
        (BenchConfig, ["memory_sizes=64,64"], "memory_sizes=[64, 64]: expected distinct numbers"),
        (BenchConfig, ["memory_sizes=[64,[32]]"], "memory_sizes=[64,[32]]: expected list of integer, 16 to 2048"),
    ],
)
def test_mistakes_are_one_line_that_says_what_would_be_right(schema: type, words: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(schema, None, words)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_names_the_real_ones() -> None:
    with pytest.raises(UserError, match=r"unknown preset 'huge': there are debug, gpu, paper, small"):
        load_config(TrainConfig, "huge")


def test_a_preset_that_names_an_unknown_key_says_which_preset(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine.yaml").write_text("train: {model: {widt: 3}}\n")
    (tmp_path / "broken.yaml").write_text("train: [\n")
    (tmp_path / "stray.yaml").write_text("trian: {}\n")
    monkeypatch.setattr("embodied_liftwm.commands.preset_folder", lambda: tmp_path)
    with pytest.raises(UserError, match="preset 'mine': unknown key 'model.widt': did you mean 'model.width'?"):
        load_config(TrainConfig, "mine")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(TrainConfig, "broken")
    with pytest.raises(UserError, match="unknown section 'trian': did you mean 'train'?"):
        load_config(TrainConfig, "stray")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_key_is_documented_where_it_is_defined(command: str) -> None:
    assert not [key.name for key in own_keys(COMMANDS[command]) if not key.meaning]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_number_has_bounds_that_hold_for_its_default(command: str) -> None:
    for key in own_keys(COMMANDS[command]):
        values = key.default if isinstance(key.default, tuple) else (key.default,)
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        assert (bool(numbers) or key.type == tuple[float, ...]) == (key.bounds is not None), key.name
        for number in numbers:
            assert key.bounds is not None
            key.bounds.check(key.name, number)


@pytest.mark.parametrize("command", sorted(COMMANDS))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e9, 10**15, "8", True, None])
def test_a_schema_made_in_python_is_checked_alike(command: str, value: object) -> None:
    for field in dataclasses.fields(COMMANDS[command]):
        if "bounds" in field.metadata:
            wrong = (value,) if isinstance(field.default, tuple) else value
            with pytest.raises(UserError, match=rf"^[\w.]*{field.name}=.*: (must be|expected)"):
                COMMANDS[command](**{field.name: wrong})


def test_comments_are_read_from_the_source() -> None:
    assert field_comments(TrainConfig)["terms"] == "of the objective"
    assert field_comments(TrainAgentConfig)["input"].startswith("what the policy sees: the world model's state, the frame")
    assert field_comments(EnvOptions)["image_size"].startswith("pixels a side of square frames")
    assert {key.name: key.default for key in own_keys(DemoConfig)}["collect.episodes"] == DemoConfig().collect.episodes
    assert describe_type(tuple[int, ...]) == "list of integer"
    assert describe_type(float | None) == "number or null"


def test_schemas_are_frozen() -> None:
    for schema in COMMANDS.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            schema().out = "elsewhere"


def test_sizes_of_frames_are_one_number_for_square_ones_and_height_x_width_for_others() -> None:
    for words, expected in ((["64"], 64), (["48x64"], "48x64"), (["96x96"], 96), (["128,96"], "128x96")):
        options = load_config(CollectConfig, None, [f"env_options.image_size={words[0]}"]).env_options
        assert options.image_size == expected == EnvOptions(image_size=options.sides).image_size  # type: ignore[arg-type]
    assert EnvOptions().sides == (64, 64) and EnvOptions(image_size="48x64").sides == (48, 64)


def test_settings_that_were_written_down_find_the_wheeled_body_under_its_old_name(tmp_path: Path) -> None:
    write_info(tmp_path, {"format": FORMAT, "env_options": {"embodiment": "base", "image_size": 64}})
    assert read_info(tmp_path)["env_options"] == {"embodiment": "wheels", "image_size": 64}
    manifest = load_manifest("Revisit-S")
    assert manifest.options.embodiment == "wheels" and '"embodiment": "base"' in manifest.text()
    with pytest.raises(UserError, match="expected wheels | drone"):
        load_config(CollectConfig, words=["env_options.embodiment=base"])


def test_settings_of_a_model_are_read_as_older_versions_saved_them() -> None:
    sizes = {"budget": 64, "texels": 4, "memory_bytes": 99, "recurrent_dim": 8, "voxel_m": 0.5}
    read = read_model({"memory": "gaussians", "width": 16} | sizes)
    assert (read.size, read.width, read.patches) == (64, 16, PatchesConfig(512, 4))
    assert (read.latent_bounded.bytes, read.recurrent.units, read.rgb_cloud.voxel_m) == (99, 8, 0.5)
    assert read.context == ModelConfig().context  # which that version did not have
    assert read_model(dataclasses.asdict(read)) == read == read_model(in_present_keys(dataclasses.asdict(read)))
    with pytest.raises(TypeError):
        read_model({"memory": "patches", "bugdet": 64})
