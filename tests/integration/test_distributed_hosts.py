"""Training on two machines: four ranks in two network namespaces, each with its own address and host name.

Run as root on Linux: ``pytest -m slow tests/integration/test_distributed_hosts.py`` (some minutes on two cores).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from forked import Started, end_of_group
from runs import run_values, table
from safetensors.torch import load_file

from mask2former.training.run import train as _train  # noqa: F401  (before the forks)

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
    """Two network namespaces, joined by a virtual cable."""
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
    """Commands on the two machines and their outputs; all processes are killed when the block ends.

    Args:
        folder: where outputs are written.
        ranks: for each process, the machine and the environment variables that its launcher sets.
        args: arguments of the command.
        others: further arguments, by the number of the process.
        shell: by machine, a command that each of its processes runs first, in a new mount namespace.
    """

    def __init__(
        self,
        folder: Path,
        ranks: list[tuple[int, dict[str, str]]],
        args: list[str],
        others: dict[int, list[str]] | None = None,
        shell: dict[int, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True)
        self.logs = [folder / f"{number}.txt" for number in range(len(ranks))]
        self.processes: list[Started] = []
        for number, ((host, environ), log) in enumerate(zip(ranks, self.logs, strict=True)):
            program = folder / f"{number}.py"
            given = {"GLOO_SOCKET_IFNAME": "eth-m2f", "OMP_NUM_THREADS": "1", **environ}
            program.write_text(_PROGRAM.format(name=HOSTS[host], shell=(shell or {}).get(host, ""), environ=given))
            added = (others or {}).get(number, [])
            self.processes.append(Started(["train", *args, *added], log, program))

    def __enter__(self) -> Machines:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.end(30)
            end_of_group(process.pid)

    def text(self) -> str:
        return "\n".join(" ".join(log.read_text().split()) for log in self.logs)

    def end(self, seconds: float) -> list[int | None]:
        deadline = time.monotonic() + seconds
        codes = [process.end(max(0.0, deadline - time.monotonic())) for process in self.processes]
        assert None not in codes, f"{codes} after {seconds:.0f} s: {self.text()[-6000:]}"
        return codes


# Forked processes, since imports take longer than what is tested; the second machine's Lightning starts it as a script.
_PROGRAM = """
import ctypes, os, subprocess
if "M2F_HOST" not in os.environ:
    system = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open("/run/netns/{name}", os.O_RDONLY)
    assert system.setns(descriptor, 0x40000000) == 0, "no network namespace"
    os.close(descriptor)
    assert system.unshare(0x04000000 | 0x00020000) == 0, "no namespace for the host name and mounts"
    assert system.sethostname(b"{name}", len("{name}")) == 0
    shell = {shell!r}
    if shell:
        subprocess.run("mount --make-rprivate / && " + shell, shell=True, check=True)
    os.environ.update({environ!r}, M2F_HOST="{name}")
from mask2former.__main__ import main
if __name__ == "__main__":
    raise SystemExit(main())
"""


def run_file(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.yaml"
    settings = {"trainer": TRAINER, "optim__ema_decay": 0.9, "evaluation": {"interval": 5}, **changes}
    values = run_values(folder / "out", **settings)
    values["model"]["backbone"]["norm"] = "frozen"
    path.write_text(yaml.safe_dump(values))
    return path


def torchrun(nodes: int = 2, per_node: int = 2) -> list[tuple[int, dict[str, str]]]:
    """For each process, its machine and the environment variables that torchrun's agent sets."""
    shared = {"WORLD_SIZE": f"{nodes * per_node}", "LOCAL_WORLD_SIZE": f"{per_node}", "MASTER_ADDR": ADDRESSES[0]}
    shared |= {"MASTER_PORT": PORT}
    return [
        (node, {**shared, "RANK": f"{node * per_node + local}", "LOCAL_RANK": f"{local}", "GROUP_RANK": f"{node}"})
        for node in range(nodes)
        for local in range(per_node)
    ]


def slurm() -> list[tuple[int, dict[str, str]]]:
    """For each of four tasks, its machine and the environment variables that srun sets."""
    job = {"SLURM_JOB_ID": "2517", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}
    job |= {"SLURM_NNODES": "2", "SLURM_NODELIST": ",".join(ADDRESSES), "SLURM_JOB_NAME": "train"}
    return [
        (rank // 2, {**job, "SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank % 2}", "SLURM_NODEID": f"{rank // 2}"})
        for rank in range(4)
    ]


def by_hand() -> list[tuple[int, dict[str, str]]]:
    """For one command on each machine, which starts the second process there, its environment variables."""
    return [(node, {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": PORT, "NODE_RANK": f"{node}"}) for node in (0, 1)]


def steps_of(out: Path) -> list[int]:
    return [int(row["global_step"]) for row in table(out) if row["loss"]]


def largest_difference(first: Path, second: Path) -> float:
    """The largest difference of a weight between the models of two runs."""
    left, right = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert left.keys() == right.keys()
    pairs = [(left[name], right[name]) for name in left if left[name].is_floating_point()]
    return max(float((one - other).abs().max()) for one, other in pairs)


@pytest.fixture(scope="module")
def whole(hosts: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    with Machines(folder / "logs", torchrun(), [str(run_file(folder))]) as machines:
        assert machines.end(240) == [0, 0, 0, 0], machines.text()[-6000:]
        assert "4 images per step = 2 nodes x 2 devices x 1" in machines.logs[0].read_text()
        assert machines.text().count("images per step") == machines.text().count("Model: ") == 1  # the first one's
    assert steps_of(folder / "out") == list(range(1, STEPS + 1))
    return folder / "out"


@pytest.mark.parametrize("start", [slurm, by_hand])
def test_however_they_are_started_the_same_is_learned(
    whole: Path, tmp_path: Path, start: Callable[[], list[tuple[int, dict[str, str]]]]
) -> None:
    with Machines(tmp_path / "logs", start(), [str(run_file(tmp_path))]) as machines:
        assert set(machines.end(240)) == {0}, machines.text()[-6000:]
    assert (tmp_path / "out" / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert largest_difference(tmp_path / "out", whole) == 0


def wait_for_steps(folder: Path, count: int, said: Callable[[], str]) -> None:
    deadline = time.monotonic() + 200
    while not (folder / "out" / "metrics.csv").exists() or len(steps_of(folder / "out")) < count:
        assert time.monotonic() < deadline, said()[-6000:]
        time.sleep(0.02)


def interrupted(folder: Path) -> str:
    """Start a run, kill one rank, check how the others end, and return the run file."""
    file = str(run_file(folder))
    with Machines(folder / "logs", torchrun(), [file]) as machines:
        wait_for_steps(folder, 5, machines.text)
        os.kill(machines.processes[3].pid, signal.SIGKILL)
        begin = time.monotonic()
        codes = machines.end(60)
        print(f"ended {time.monotonic() - begin:.1f} s after the kill: {codes}")
        assert codes == [1, 1, 1, -signal.SIGKILL], machines.text()[-6000:]
        for rank, log in enumerate(machines.logs[:3]):
            shown = " ".join(log.read_text().split())
            assert f"rank {rank} of 4 (process {machines.processes[rank].pid} on {HOSTS[rank // 2]}), step" in shown
            assert "another rank of this run has ended or stopped responding" in shown
            assert "Traceback" not in shown
    assert len(steps_of(folder / "out")) < STEPS
    return file


def test_one_rank_is_killed_all_end_and_the_run_goes_on(whole: Path, tmp_path: Path) -> None:
    file, out = interrupted(tmp_path), tmp_path / "out"
    with Machines(tmp_path / "again", torchrun(), [file, "--resume", str(out)]) as machines:
        assert machines.end(240) == [0, 0, 0, 0], machines.text()[-6000:]
    assert steps_of(out) == list(range(1, STEPS + 1))  # none lost, none twice
    for ours, theirs in zip(table(out), table(whole), strict=True):
        for name in ("loss", "gradient_norm", "panoptic/PQ"):
            assert ours[name] == theirs[name] or float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-5)
    difference = largest_difference(out, whole)
    print(f"largest difference of a weight: {difference:.1e}")
    assert difference < 5e-6  # rounding, where ten steps of Adam can move a weight by 1e-3


def test_it_goes_on_with_fewer_ranks(hosts: None, tmp_path: Path) -> None:
    file, out = interrupted(tmp_path), tmp_path / "out"
    alone = [file, "trainer.num_nodes=1", "trainer.devices=2", "--resume", str(out)]
    with Machines(tmp_path / "again", torchrun(nodes=1), alone) as machines:
        assert machines.end(240) == [0, 0], machines.text()[-6000:]
        assert "4 images per step = 2 devices x 2" in machines.text()
        assert "after step 3 (before -> now): trainer.num_nodes 2 -> 1" in machines.text()
    assert steps_of(out) == list(range(1, STEPS + 1))
    weights = load_file(out / "model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values() if value.is_floating_point())


def test_agents_of_torchrun_end_it_likewise(hosts: None, tmp_path: Path) -> None:
    """If a process is killed under real agents, which stop its neighbours, the other machine reports it and ends."""
    file, folder = str(run_file(tmp_path)), tmp_path / "logs"
    folder.mkdir()
    logs = [folder / f"{node}.txt" for node in (0, 1)]
    agents: list[subprocess.Popen[bytes]] = []
    try:
        for node, log in enumerate(logs):
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
            command += ["--node-rank", f"{node}", "--master-addr", ADDRESSES[0], "--master-port", PORT]
            command += ["-m", "mask2former", "train", file]
            environ = {**os.environ, "GLOO_SOCKET_IFNAME": "eth-m2f", "OMP_NUM_THREADS": "1"}
            with log.open("w") as stream:
                place = ["ip", "netns", "exec", HOSTS[node]]
                agents.append(
                    subprocess.Popen([*place, *command], stdout=stream, stderr=stream, env=environ, process_group=0)
                )

        def said() -> str:
            return "\n".join(log.read_text() for log in logs)

        wait_for_steps(tmp_path, 5, said)
        found = subprocess.run(["pgrep", "-P", f"{agents[1].pid}"], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
        begin = time.monotonic()
        assert all(agent.wait(60) for agent in agents)
        print(f"torchrun ended {time.monotonic() - begin:.1f} s after the kill")
        assert "another rank of this run has ended or stopped responding" in logs[0].read_text(), said()[-6000:]
    finally:
        for agent in agents:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
            agent.wait(30)


def test_a_directory_of_its_own_on_each_machine_is_noticed(hosts: None, tmp_path: Path) -> None:
    file = str(run_file(tmp_path))
    (tmp_path / "out").mkdir()
    apart = {1: f"mount -t tmpfs none {tmp_path / 'out'}"}
    with Machines(tmp_path / "logs", torchrun(), [file], shell=apart) as machines:
        assert machines.end(120) == [2, 2, 2, 2], machines.text()[-6000:]
        expected = f"is not the same directory on all machines: what rank 0 on {HOSTS[0]} wrote there is not visible"
        assert machines.text().count(f"{expected} on {HOSTS[1]} (ranks 2, 3)") == 4
    assert list((tmp_path / "out").iterdir()) == []


def test_other_settings_on_one_machine_are_noticed(hosts: None, tmp_path: Path) -> None:
    file = str(run_file(tmp_path))
    others = {2: ["optim.lr=0.5"], 3: ["optim.lr=0.5"]}
    with Machines(tmp_path / "logs", torchrun(), [file], others) as machines:
        assert machines.end(120) == [2, 2, 2, 2], machines.text()[-6000:]
        expected = f"optim.lr is 0.5 for rank 2 on {HOSTS[1]} and 0.0001 for rank 0 on {HOSTS[0]}"
        assert machines.text().count(expected) == 4
    assert not (tmp_path / "out").exists()


def test_a_signal_of_the_cluster_ends_all_and_says_how_to_go_on(hosts: None, tmp_path: Path) -> None:
    """Signals to every task, as SLURM sends them before it ends a job, stop the run with a checkpoint."""
    file = str(run_file(tmp_path, trainer={**TRAINER, "max_steps": 10_000}, evaluation={"interval": 10_000}))
    with Machines(tmp_path / "logs", slurm(), [file]) as machines:
        wait_for_steps(tmp_path, 5, machines.text)
        for process, number in zip(machines.processes, 2 * [signal.SIGTERM, signal.SIGUSR1], strict=True):
            os.kill(process.pid, number)
        codes = machines.end(60)
        print(codes)
        assert set(codes) <= {1, 130, 128 + signal.SIGTERM}, machines.text()[-6000:]
        assert "stopped: the last checkpoint is in" in machines.text(), machines.text()[-6000:]
        assert "Traceback" not in machines.text()
        assert torch.load(tmp_path / "out" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 3
