"""Jobs without a cluster: what runs, where it is sent, with which token, and what may be uploaded."""

from __future__ import annotations

import socket
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package
from ray.job_submission import JobDetails, JobStatus, JobType

import cluster.jobs
import cluster.upload
from cluster.__main__ import main
from cluster.commands import VERBS, Job, arguments
from cluster.errors import ClusterError
from cluster.jobs import Jobs, address, token
from cluster.upload import check_upload, uploaded_files
from genrec.cli import _parser as genrec_parser
from genrec.config import ClusterSettings, Settings
from genrec.errors import SettingsError
from serve.__main__ import _parser as serve_parser
from tune.__main__ import _parser as tune_parser


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Away from the project's settings and from the tokens and addresses of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


# --- the command


@pytest.mark.parametrize("verb", VERBS)
def test_every_job_is_a_command_that_its_package_takes(verb):
    names = {"grid": ("beauty", "ml-100k"), "tune": ("neighbours",)}.get(verb, ())
    preset = None if verb in {"grid", "tune"} else "demo"
    job = Job(verb, names, "settings.yaml", preset, ("training.epochs=3", "run.directory=elsewhere"))
    words = arguments(Settings(run={"directory": "elsewhere"}), job)
    assert words[:2] == ["python", "-m"]
    assert ("--log" in words) == (verb not in {"tune", "serve"})
    package, given = words[2], words[3:]
    parser = {"genrec": genrec_parser, "tune": tune_parser, "serve": serve_parser}[package]()
    options = parser.parse_args(given)
    sets = options.overrides if package == "genrec" else options.set
    assert sets == [*job.overrides, "ray.address=auto", "run.directory=/mnt/genrec/elsewhere"]
    assert (options.config, getattr(options, "preset", None)) == ("settings.yaml", preset)


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (Job("tokenise"), "tokenise: no such job"),
        (Job("run", ("demo",)), "run takes no name, got demo"),
        (Job("tune"), "one sweep's name"),
        (Job("tune", ("a", "b")), "one sweep's name"),
        (Job("grid"), "names of grids"),
        (Job("grid", ("beauty",), preset="demo"), "--preset demo"),
        (Job("run", config="/home/me/settings.yaml"), "relative"),
        (Job("run", config="../settings.yaml"), "relative"),
    ],
)
def test_jobs_that_could_not_run_are_refused(job, told):
    with pytest.raises(SettingsError, match=told):
        arguments(Settings(), job)


# --- address and token


def test_settings_go_before_the_environment():
    environ = {"RAY_API_SERVER_ADDRESS": "http://first:8265", "RAY_ADDRESS": "http://second:8265"}
    assert address(ClusterSettings(address="http://own:8265/"), environ) == "http://own:8265"
    assert address(ClusterSettings(), environ) == "http://first:8265"
    assert address(ClusterSettings(), {"RAY_ADDRESS": "https://second/"}) == "https://second"
    for wrong, told in (({}, "no cluster is given"), ({"RAY_ADDRESS": "ray://head:10001"}, "RAY_ADDRESS")):
        with pytest.raises(ClusterError, match=told):
            address(ClusterSettings(), wrong)


def test_where_the_token_is_looked_for(tmp_path):
    default = Path("~/.ray/auth_token").expanduser()
    assert token(ClusterSettings(), {}) is None
    default.parent.mkdir(parents=True)
    default.write_text("default\n")
    named, own = tmp_path / "named", tmp_path / "own"
    named.write_text("named")
    own.write_text("own")
    environ = {"RAY_AUTH_TOKEN_PATH": str(named)}
    assert token(ClusterSettings(), {}) == "default"
    assert token(ClusterSettings(), environ) == "named"
    assert token(ClusterSettings(), {**environ, "RAY_AUTH_TOKEN": "direct"}) == "direct"
    assert token(ClusterSettings(token_file=str(own)), {**environ, "RAY_AUTH_TOKEN": "direct"}) == "own"


def test_a_named_token_file_must_be_there(tmp_path):
    with pytest.raises(ClusterError, match=r"cluster\.token_file"):
        token(ClusterSettings(token_file=str(tmp_path / "none")), {})
    (tmp_path / "empty").touch()
    with pytest.raises(ClusterError, match="empty"):
        token(ClusterSettings(), {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "empty")})


def test_no_cluster_is_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nothing listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for words in (["submit", "run"], ["list"], ["status", "x"], ["logs", "x"], ["stop", "x"]):
            assert main([*words, "--set", f"cluster.address={url}"]) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"cluster {words[0]}: no cluster answers at {url}")
            assert error.count("\n") == 1


class Broken(Jobs):
    """A cluster whose head answers now and then."""

    def __init__(self, answers):
        self.answers = iter(answers)

    def details(self, job):
        answer = next(self.answers)
        if answer is None:
            raise ClusterError("no cluster answers")
        return JobDetails(type=JobType.SUBMISSION, entrypoint="python", status=answer)

    async def _tail(self, job, tell):
        raise RuntimeError("connection lost")


def test_a_head_that_misses_a_call_loses_no_job(monkeypatch):
    monkeypatch.setattr(cluster.jobs, "_POLL_S", 0.0)
    running, done, told = JobStatus.RUNNING, JobStatus.SUCCEEDED, []
    jobs = Broken([running, None, running, None, None, done])
    assert jobs.follow("x", told.append).status == done
    assert told == ["[the log breaks off: connection lost]\n"]
    monkeypatch.setattr(cluster.jobs, "SILENT_S", -1.0)
    with pytest.raises(ClusterError, match="no cluster answers"):
        Broken([running, running, None, done]).follow("x", told.append)


# --- the upload


@pytest.fixture
def checkout(tmp_path):
    """A small folder with what is to be ignored in all the ways."""
    folder = tmp_path / "checkout"
    for name in (
        "genrec/__init__.py",
        "genrec/data/raw.py",
        "data/raw.csv",
        "runs/demo/weights.bin",
        "notes/keep.txt",
        "notes/drop.txt",
        "deep/er/runs/kept.txt",
        "deep/cache/x.pyc",
        "deep/own/secret.txt",
        "deep/own/kept.txt",
        "linked/inside.txt",
    ):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (folder / ".gitignore").write_text("/data/\n*.pyc\n")
    (folder / "deep" / "own" / ".gitignore").write_text("secret.txt\n")
    (folder / "notes" / "link").symlink_to(folder / "linked")
    (folder / "deep" / "link").symlink_to(folder / "linked")
    (folder / ".rayignore").write_text("# comment\n/runs/\nnotes/*\n!notes/keep.txt\n")
    return folder


@pytest.mark.parametrize("without_gitignore", [False, True])
def test_files_are_those_that_ray_packs(checkout, tmp_path, monkeypatch, without_gitignore):
    if without_gitignore:
        monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "1")
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=not without_gitignore)
    with zipfile.ZipFile(package) as packed:
        expected = {name for name in packed.namelist() if not name.endswith("/")}
    found = {path.relative_to(checkout).as_posix() for path in uploaded_files(checkout)}
    assert found == expected
    assert ("data/raw.csv" in found) == without_gitignore
    assert ("deep/own/secret.txt" in found) == without_gitignore
    assert "runs/demo/weights.bin" not in found


def test_too_large_names_the_largest_files(checkout, monkeypatch):
    monkeypatch.setattr(cluster.upload, "MAX_MIB", 1)
    (checkout / "runs" / "demo" / "weights.bin").write_bytes(bytes(4 * 2**20))
    assert 0 < check_upload(checkout) < 2**20  # what is ignored does not count
    (checkout / "deep" / "weights.bin").write_bytes(bytes(2**20))
    with pytest.raises(ClusterError, match=r"1\.0 MiB of at most 1 MiB; .*deep/weights\.bin \(1\.0 MiB\), "):
        check_upload(checkout)


def test_a_folder_without_genrec_is_refused(tmp_path):
    with pytest.raises(ClusterError, match=r"cluster\.job\.working_dir"):
        check_upload(tmp_path)
