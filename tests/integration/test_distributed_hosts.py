"""Trainings on two machines: four ranks in two network namespaces, each with an address and a host name of its own.

As root, on Linux: ``pytest -m slow tests/integration/test_distributed_hosts.py`` (some ten minutes on two cores).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from runs import run_values, table
from safetensors.torch import load_file

HOSTS = ("m2f-test-a", "m2f-test-b")
ADDRESSES = ("10.213.7.1", "10.213.7.2")
PORT = "29517"
STEPS = 10
TRAINER = {
    "max_steps": STEPS,
    "accelerator": "cpu",
    "devices": 2,
    "num_nodes": 2,
    "log_interval": 1,
    "checkpoint_interval": 3,
}

pytestmark = pytest.mark.slow


def _why_not() -> str | None:
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "makes network namespaces, which takes root on Linux"
    missing = [program for program in ("ip", "unshare") if shutil.which(program) is None]
    return f"needs {' and '.join(missing)}" if missing else None


def _ip(*args: str, check: bool = True) -> None:
    subprocess.run(["ip", *args], check=check, capture_output=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    """Two namespaces, joined by a cable."""
    if (reason := _why_not()) is not None:
        pytest.skip(reason)
    try:
        for name in HOSTS:
            _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        _ip("link", "add", "eth-m2f", "netns", HOSTS[0], "type", "veth", "peer", "name", "eth-m2f", "netns", HOSTS[1])
        for name, address in zip(HOSTS, ADDRESSES, strict=True):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth-m2f")
            for device in ("lo", "eth-m2f"):
                _ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in HOSTS:
            _ip("netns", "del", name, check=False)


class Machines:
    """One command on each of some machines, with what they print and what they started.

    Args:
        folder: for the outputs; its name tells these processes from others.
        commands: by index of the machine, with further variables of the environment; several can be on one machine.
        before: a line of the shell for each machine, in a mount namespace of its own.
    """

    def __init__(
        self, folder: Path, commands: list[tuple[int, list[str], dict[str, str]]], before: dict[int, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.mark = f"M2F_TEST_RUN={folder}"
        self.logs = [folder / f"{number}.txt" for number in range(len(commands))]
        self.processes: list[subprocess.Popen[bytes]] = []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "PYTEST"))}
        for (host, command, environ), log in zip(commands, self.logs, strict=True):
            script = f'hostname {HOSTS[host]}; {(before or {}).get(host, "true")} && exec "$@"'
            shell = ["unshare", "--uts", "--mount", "sh", "-c", script, "sh", *command]
            fixed = {"GLOO_SOCKET_IFNAME": "eth-m2f", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
            given = dict([self.mark.split("=", 1)])
            with log.open("w") as stream:
                process = subprocess.Popen(
                    ["ip", "netns", "exec", HOSTS[host], *shell],
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env={**inherited, **fixed, **given, **environ},
                    start_new_session=True,
                )
            self.processes.append(process)

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        for pid in self.started():  # none must be left, whatever became of the test
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def started(self, variable: str = "") -> list[int]:
        """Processes of these commands, or those with a variable in their environment, for instance ``RANK=3``."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    environ = (entry / "environ").read_bytes().split(b"\0")
                    if self.mark.encode() in environ and (not variable or variable.encode() in environ):
                        found.append(int(entry.name))
        return found

    def text(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)

    def end(self, seconds: float) -> list[int]:
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in self.processes):
            assert time.monotonic() < deadline, f"not done after {seconds:.0f} s: {self.text()[-6000:]}"
            time.sleep(0.2)
        return [process.returncode for process in self.processes]


def run_file(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.yaml"
    settings = {"trainer": TRAINER, "optim__ema_decay": 0.9, "evaluation": {"interval": 5}, **changes}
    values = run_values(folder / "out", **settings)
    values["model"]["backbone"]["norm"] = "frozen"
    path.write_text(yaml.safe_dump(values))
    return path


def train(*args: str) -> list[str]:
    return ["-m", "mask2former", "train", *args]


def torchrun(*args: str, per_node: int = 2, nodes: int = 2) -> list[tuple[int, list[str], dict[str, str]]]:
    """What one types on each machine."""
    rendezvous = ["--master-addr", ADDRESSES[0], "--master-port", PORT]
    start = [sys.executable, "-m", "torch.distributed.run", "--nnodes", f"{nodes}", "--nproc-per-node", f"{per_node}"]
    return [(node, [*start, "--node-rank", f"{node}", *rendezvous, *train(*args)], {}) for node in range(nodes)]


def slurm(*args: str) -> list[tuple[int, list[str], dict[str, str]]]:
    """What srun would do: four tasks, which know from it who they are."""
    job = {"SLURM_JOB_ID": "2517", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}
    job |= {"SLURM_NNODES": "2", "SLURM_NODELIST": ",".join(ADDRESSES), "SLURM_JOB_NAME": "train"}
    return [
        (
            rank // 2,
            [sys.executable, *train(*args)],
            {**job, "SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank % 2}", "SLURM_NODEID": f"{rank // 2}"},
        )
        for rank in range(4)
    ]


def by_hand(*args: str) -> list[tuple[int, list[str], dict[str, str]]]:
    """The command itself on both machines, which starts the other process of each."""
    shared = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": PORT}
    return [(node, [sys.executable, *train(*args)], {**shared, "NODE_RANK": f"{node}"}) for node in (0, 1)]


def steps_of(out: Path) -> list[int]:
    return [int(row["step"]) for row in table(out) if row["loss"]]


def largest_difference(first: Path, second: Path) -> float:
    left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert left.keys() == right.keys()
    return max(
        float((left[name].double() - right[name].double()).abs().max() / left[name].double().abs().max().clamp(1e-12))
        for name in left
        if left[name].is_floating_point()
    )


@pytest.fixture(scope="module")
def whole(hosts: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    with Machines(folder / "logs", torchrun(str(run_file(folder)))) as machines:
        assert machines.end(240) == [0, 0], machines.text()[-6000:]
        assert "4 images per step = 2 nodes x 2 devices x 1" in machines.logs[0].read_text()
        assert "images per step" not in machines.logs[1].read_text()  # the first rank alone tells
        assert machines.text().count("Model: ") == 1
    assert steps_of(folder / "out") == list(range(STEPS))
    return folder / "out"


@pytest.mark.parametrize("start", [slurm, by_hand])
def test_however_they_are_started_the_same_is_learned(hosts: None, whole: Path, tmp_path: Path, start) -> None:
    commands = start(str(run_file(tmp_path)))
    with Machines(tmp_path / "logs", commands) as machines:
        assert machines.end(240) == [0] * len(commands), machines.text()[-6000:]
    assert (tmp_path / "out" / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert largest_difference(tmp_path / "out", whole) == 0


def interrupted(folder: Path) -> Path:
    """A run of which one rank was killed; how that ended is checked."""
    file = run_file(folder)
    with Machines(folder / "logs", torchrun(str(file))) as machines:
        deadline = time.monotonic() + 200
        while not (folder / "out" / "metrics.csv").exists() or len(steps_of(folder / "out")) < 5:
            assert time.monotonic() < deadline, machines.text()[-6000:]
            time.sleep(0.05)
        (killed,) = machines.started("RANK=3")
        os.kill(killed, signal.SIGKILL)
        begin = time.monotonic()
        codes = machines.end(60)
        print(f"ended {time.monotonic() - begin:.1f} s after the kill: {codes}")
        assert all(codes), codes
        assert machines.started() == []
        text = machines.text()
    # Each says why: the connection has ended, or torchrun has stopped it because of its neighbour.
    lost = text.count("another rank of this run has ended or went silent")
    assert lost >= 1, text[-6000:]
    assert lost + text.count("stopped: the last checkpoint is in") == 3, text[-6000:]
    assert f"of 4 (process {killed}" not in text
    first = machines.logs[0].read_text()
    assert f"on {HOSTS[0]}), step" in first  # the other machine knows it by the connection alone
    assert len(steps_of(folder / "out")) < STEPS
    return file


def test_one_rank_is_killed_all_end_and_the_run_goes_on(hosts: None, whole: Path, tmp_path: Path) -> None:
    file, out = interrupted(tmp_path), tmp_path / "out"
    with Machines(tmp_path / "again", torchrun(str(file), "--resume", str(out))) as machines:
        assert machines.end(240) == [0, 0], machines.text()[-6000:]
        assert "was killed; its lock" not in machines.logs[1].read_text()
    assert steps_of(out) == list(range(STEPS))  # none lost, none twice
    difference = largest_difference(out, whole)
    print(f"largest difference of a weight, relative to the largest of its tensor: {difference:.1e}")
    assert difference < 1e-3


def test_it_goes_on_with_fewer_ranks(hosts: None, tmp_path: Path) -> None:
    file, out = interrupted(tmp_path), tmp_path / "out"
    here = ["trainer.num_nodes=1", "trainer.devices=2"]
    alone = torchrun(str(file), *here, "--resume", str(out), nodes=1)
    with Machines(tmp_path / "again", alone) as machines:
        assert machines.end(240) == [0], machines.text()[-6000:]
        assert "4 images per step = 2 devices x 2" in machines.text()
        assert "from step 3 on with other settings: trainer.num_nodes 2 -> 1" in machines.text()
    assert steps_of(out) == list(range(STEPS))
    weights = load_file(out / "model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values() if value.is_floating_point())


def test_a_directory_of_its_own_on_each_machine_is_noticed(hosts: None, tmp_path: Path) -> None:
    file = run_file(tmp_path)
    (tmp_path / "out").mkdir()
    apart = {1: f"mount -t tmpfs none {tmp_path / 'out'}"}
    with Machines(tmp_path / "logs", torchrun(str(file)), apart) as machines:
        assert all(machines.end(120))
        expected = f"is not the same directory on all machines: what rank 0 on {HOSTS[0]} has written there is not seen"
        for log in machines.logs:
            assert expected in log.read_text(), machines.text()[-6000:]
    assert list((tmp_path / "out").iterdir()) == []


def test_other_settings_on_one_machine_are_noticed(hosts: None, tmp_path: Path) -> None:
    first, second = torchrun(str(run_file(tmp_path)))
    second[1].append("optim.lr=0.5")
    with Machines(tmp_path / "logs", [first, second]) as machines:
        assert all(machines.end(120))
        expected = f"optim.lr is 0.5 for rank 2 on {HOSTS[1]} and 0.0001 for rank 0 on {HOSTS[0]}"
        for log in machines.logs:
            assert expected in " ".join(log.read_text().split()), machines.text()[-6000:]


def test_processes_that_the_settings_do_not_speak_of_are_refused(hosts: None, tmp_path: Path) -> None:
    file = run_file(tmp_path, trainer={**TRAINER, "devices": 1, "num_nodes": 1})
    with Machines(tmp_path / "logs", torchrun(str(file))) as machines:
        assert all(machines.end(120))
        for log in machines.logs:
            assert "torchrun has started 4 processes (WORLD_SIZE=4, RANK=" in " ".join(log.read_text().split())
    assert not (tmp_path / "out").exists()


def test_a_signal_of_the_cluster_ends_all_and_says_how_to_go_on(hosts: None, tmp_path: Path) -> None:
    """SIGTERM for every task, as SLURM sends it before it takes the machines away."""
    file = run_file(tmp_path, trainer={**TRAINER, "max_steps": 10_000}, evaluation={"interval": 10_000})
    with Machines(tmp_path / "logs", slurm(str(file))) as machines:
        deadline = time.monotonic() + 200
        while not (tmp_path / "out" / "checkpoints" / "last.ckpt").exists():
            assert time.monotonic() < deadline, machines.text()[-6000:]
            time.sleep(0.05)
        for pid in machines.started():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        codes = machines.end(60)
        assert all(codes), codes
        assert "go on with --resume" in machines.text(), machines.text()[-6000:]
        assert torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 3
