"""Any diffusers pipeline directory makes pictures through one interface; what is unsafe or unfit is refused clearly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from content_pipelines import save_stable_diffusion, save_stable_diffusion_3
from PIL import Image

from genrec.config.content import PictureSettings
from genrec.content.providers import load_adapters, load_maker, load_pipeline, load_video_pipeline
from genrec.errors import DataError, SettingsError


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return {
        "unet": save_stable_diffusion(root / "sd"),
        "transformer": save_stable_diffusion_3(root / "sd3"),
    }


def settings(directory: Path, **more) -> PictureSettings:
    return PictureSettings(provider=f"local:{directory}", size=64, steps=2, **more)


@pytest.mark.parametrize("kind", ["unet", "transformer"])
def test_two_architectures_make_change_and_inpaint_pictures_unchanged(directories, kind):
    maker = load_maker(settings(directories[kind]))
    told: list[float] = []
    first = maker.create("a red apple", count=2, seed=3, negative="blue", progress=told.append)
    again = maker.create("a red apple", count=1, seed=4, negative="blue")
    assert [picture.size for picture in first] == [(64, 64)] * 2
    assert told == [0.5, 1.0]
    assert not np.array_equal(first[0], first[1])
    assert np.abs(np.asarray(again[0], int) - np.asarray(first[1], int)).max() <= 2  # seed 4 is the second of seed 3
    source = Image.new("RGB", (50, 70), "red")
    changed = maker.restyle(source, "flat", strength=0.9, seed=1)
    assert changed.size == (64, 64)
    assert np.asarray(maker.restyle(source, "flat", strength=0.0, seed=1)).shape == (70, 50, 3)
    mask = Image.new("L", (50, 70), 255)
    assert maker.inpaint(source, mask, "a hat", strength=0.9, seed=1).size == (64, 64)


def test_a_progress_that_raises_stops_the_work(directories):
    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_maker(settings(directories["unet"])).create("apple", count=1, seed=0, progress=stop)


def test_what_nobody_should_ask_is_refused(directories):
    maker = load_maker(settings(directories["unet"]))
    with pytest.raises(DataError, match="prompt: 100000 characters; write at most 2000"):
        maker.create("x" * 100_000, count=1, seed=0)
    with pytest.raises(DataError, match="prompt: empty"):
        maker.create("  ", count=1, seed=0)
    with pytest.raises(DataError, match="count: 0"):
        maker.create("apple", count=0, seed=0)
    with pytest.raises(DataError, match=r"strength: 1\.5"):
        maker.restyle(Image.new("RGB", (8, 8)), "apple", strength=1.5, seed=0)


def copied(directory: Path, to: Path) -> Path:
    import shutil

    return Path(shutil.copytree(directory, to))


def test_a_missing_directory_and_a_missing_index_are_named(tmp_path):
    with pytest.raises(SettingsError, match=r"content\.pictures\.provider: local:.*nowhere: no such directory"):
        load_pipeline(f"local:{tmp_path / 'nowhere'}")
    with pytest.raises(SettingsError, match=r"lacks model_index\.json"):
        load_pipeline(f"local:{tmp_path}")


def test_pickled_weights_are_refused_and_not_read(directories, tmp_path):
    directory = copied(directories["unet"], tmp_path / "sd")
    weights = next((directory / "unet").glob("*.safetensors"))
    weights.unlink()
    trap = tmp_path / "ran"
    (directory / "unet" / "diffusion_pytorch_model.bin").write_bytes(
        b"cposix\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR."
    )
    with pytest.raises(SettingsError, match="a pickle, which could run code"):
        load_pipeline(f"local:{directory}")
    assert not trap.exists()


def test_code_that_comes_with_a_model_is_never_run(directories, tmp_path):
    directory = copied(directories["unet"], tmp_path / "sd")
    trap = tmp_path / "ran"
    (directory / "pipeline.py").write_text(f"open({str(trap)!r}, 'w')\n")
    (directory / "unet" / "own.py").write_text(f"open({str(trap)!r}, 'w')\n")
    index = json.loads((directory / "model_index.json").read_text())
    (directory / "model_index.json").write_text(json.dumps({**index, "unet": ["own", "OwnUNet"]}))
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_pipeline(f"local:{directory}")
    (directory / "model_index.json").write_text(json.dumps({**index, "_class_name": ["pipeline", "Own"]}))
    with pytest.raises(SettingsError, match=r"_class_name .* is no pipeline of diffusers"):
        load_pipeline(f"local:{directory}")
    assert not trap.exists()


def test_a_pipeline_of_another_kind_is_refused(directories, tmp_path):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(SettingsError, match="DDPMPipeline makes no pictures from words"):
        load_maker(settings(tmp_path / "ddpm"))
    with pytest.raises(SettingsError, match="makes no video from words"):
        load_video_pipeline(f"local:{directories['unet']}")


def test_an_adapter_changes_the_pictures_and_a_missing_one_is_named(directories, tmp_path):
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = load_pipeline(f"local:{directories['unet']}")
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipeline.unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path / "lora", unet_lora_layers=layers, safe_serialization=True)
    plain = load_maker(settings(directories["unet"])).create("apple", count=1, seed=0)[0]
    changed = load_maker(settings(directories["unet"], adapters=(f"{tmp_path / 'lora'}=4",)))
    assert not np.array_equal(plain, changed.create("apple", count=1, seed=0)[0])
    with pytest.raises(SettingsError, match=r"content\.pictures\.adapters: .*gone: holds 0 safetensors"):
        load_adapters(load_pipeline(f"local:{directories['unet']}"), [str(tmp_path / "gone")])
