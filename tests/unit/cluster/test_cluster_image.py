"""The container file: everything pinned, no root, and what the rest of cluster/ takes for granted of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from cluster.commands import Job
from cluster.kuberay import USER_ID
from cluster.render import render
from genrec.config import Settings

ROOT = Path(__file__).parents[3]
LINES = (ROOT / "cluster" / "docker" / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if re.fullmatch(r"[\w.-]+==\S+", line)
)


def starting(word: str) -> list[str]:
    return [line for line in LINES if line.startswith(word)]


def test_the_base_is_one_exact_python_for_both_images():
    """Ray refuses nodes whose Python is another."""
    outside = [line.split()[1] for line in starting("FROM") if ":" in line]
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", outside[0])
    assert {line.rsplit(" AS ", 1)[1] for line in starting("FROM")} >= {"cpu", "gpu"}


def test_every_package_is_pinned():
    installs = [part.strip() for line in starting("RUN") for part in line.split("&&") if "pip install" in part]
    assert installs
    for install in (part.removeprefix("RUN ") for part in installs):
        assert "-c constraints.txt" in install or re.fullmatch(r"pip install --no-deps \S+==\S+", install)
        for name, version in re.findall(r"\b([a-z]+)==(\S+)", install):
            assert PINS.get(name, version) == version
    assert "ray" in PINS


def test_hadolint_finds_nothing():
    """It knows the best practices of container files; what is passed over says so in the file, with its reason."""
    hadolint = Path(sys.executable).parent / "hadolint"
    told = subprocess.run(
        [hadolint, "--no-color", ROOT / "cluster" / "docker" / "Dockerfile"], capture_output=True, text=True, timeout=60
    )
    assert (told.returncode, told.stdout) == (0, "")
    wrong = subprocess.run(
        [hadolint, "-"], input="FROM python\nRUN cd /x\n", capture_output=True, text=True, timeout=60
    )
    assert "DL3006" in wrong.stdout, "the linter works"


def test_the_user_is_the_one_of_the_pods():
    assert starting("USER") == [f"USER {USER_ID}"]
    pod = yaml.safe_load(render("raycluster", Settings(), Job("run")))["spec"]["headGroupSpec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == USER_ID


def test_the_token_is_on_in_the_image_itself():
    assert any("RAY_AUTH_MODE=token" in line for line in starting("ENV"))


def test_what_is_copied_is_there():
    """The ignore file lets in what the image needs, and all of it exists."""
    lines = (ROOT / "cluster" / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    wanted = {line[1:].rstrip("/") for line in lines if line.startswith("!")}
    assert wanted >= {"genrec", "serve", "tune", "cluster", "pyproject.toml", "constraints.txt", "ray_config.yaml"}
    assert all((ROOT / name).exists() for name in wanted)
