"""How fast the learner is, beside other learners, in one run: one thread each, turn by turn, medians and ratios.

    python -m aihf_control.speed [--sbx PYTHON]

writes measurements, a table and a figure to results/speed. Every measurement is a process of its own, pinned to one
core; the learners take turns within a round, so that what else the machine does falls on all of them alike.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from matplotlib.figure import Figure

from aihf_control import rivals
from aihf_control.checkpoint import Checkpoints
from aihf_control.direct import CloneConfig
from aihf_control.environments import rollout, spec_of
from aihf_control.files import BadInput, at_least_one, exit_code, write_bytes
from aihf_control.fused import product
from aihf_control.generate import DataConfig, make_dataset
from aihf_control.machine import one_thread, products
from aihf_control.methods import aihf
from aihf_control.rivals import BATCH, STEPS, timed
from aihf_control.sac import SACConfig
from aihf_control.task import Task
from aihf_control.truth import Pupil, TruthConfig

FLOOR = "products alone"
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """What is measured."""

    envs: tuple[str, ...] = ("Hopper-v4", "HalfCheetah-v4", "Humanoid-v4")
    """Gymnasium ids of the comparison; the first also serves the rest."""
    width: int = 256
    """Width of the two hidden layers of the comparison."""
    lanes: tuple[int, ...] = (1, 5, 10)
    """Lanes of ours in the comparison."""
    growth_lanes: tuple[int, ...] = (1, 2, 5, 10, 20, 32)
    """Lanes of the figure of growing cost."""
    growth_widths: tuple[int, ...] = (64, 128, 256, 512)
    """Widths of the figure of growing cost."""
    rounds: int = 3
    """Rounds of the comparison, in each of which every learner has a turn."""
    seconds: float = 3.0
    """How long a turn times updates, and again as long the whole loop."""
    sbx: Path | None = None
    """The Python of an environment that has SBX, which is measured too if this is given."""
    out: Path = Path("results/speed")
    """Folder to write."""


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["--turn"]:  # how the command calls itself
        print(json.dumps(turn(json.loads(argv[1]))))
        return 0
    options = tyro.cli(Options, args=argv, prog="python -m aihf_control.speed", description=(__doc__ or "")[:120])
    return exit_code(measure, options)


def measure(options: Options) -> None:
    at_least_one({"--rounds": options.rounds, "--width": options.width, "--lanes": min(options.lanes, default=0)})
    if options.sbx and not options.sbx.is_file():
        raise BadInput(f"--sbx {options.sbx}: give the path of a Python")
    for env in options.envs:
        spec_of(env)
    rows: list[Row] = []
    for row in measurements(options):
        rows.append(row)
        print(" ".join(f"{k}={v:.0f}" if isinstance(v, float) else f"{v}" for k, v in row.items()), flush=True)
        frame = pd.DataFrame(rows)
        write_bytes(options.out / "speed.csv", frame.round(2).to_csv(index=False, lineterminator="\n").encode())
    text = table(pd.DataFrame(rows))
    write_bytes(options.out / "table.md", text.encode())
    write_bytes(options.out / "growth.png", figure(pd.DataFrame(rows)))
    print(text)


# ------------------------------------------------------------------------------------------------------- measurements


def measurements(options: Options) -> Iterator[Row]:
    """All turns: the comparison, then how cost grows, then the rest of the work."""
    precisions = sorted({"float32", products("auto", "cpu")}, reverse=True)
    ours = [{"learner": "ours", "lanes": n, "precision": p} for n in options.lanes for p in precisions]
    floors = [{"learner": FLOOR, "lanes": max(options.lanes), "precision": p} for p in precisions]
    others = ["sb3", "plain", *(["sbx"] if options.sbx else [])]
    rest = [{"learner": name, "lanes": 1, "precision": "float32"} for name in others]
    for env in options.envs:
        for k in range(options.rounds):
            for who in [*ours, *rest, *floors]:
                yield _turn({"part": "comparison", "env": env, "round": k, "width": options.width, **who}, options)
    env = options.envs[0]
    for width in options.growth_widths:
        for n in options.growth_lanes:
            who = {"learner": "ours", "lanes": n, "precision": products("auto", "cpu")}
            yield _turn({"part": "growth", "env": env, "round": 0, "width": width, **who}, options)
    for k in range(options.rounds):
        for learner in ("rollout", "evaluate_policy", "checkpoint"):
            who = {"learner": learner, "lanes": 5 if learner == "checkpoint" else 1, "precision": "float32"}
            yield _turn({"part": "rest", "env": env, "round": k, "width": options.width, **who}, options)


def _turn(what: Row, options: Options) -> Row:
    """Measures one learner in a process of its own: `what` with its figures."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "XLA_FLAGS": _XLA}
    words = [sys.executable, "-m", "aihf_control.speed", "--turn", json.dumps({**what, "seconds": options.seconds})]
    if what["learner"] in ("sb3", "plain", "sbx"):
        python = str(options.sbx) if what["learner"] == "sbx" else sys.executable
        words = [python, rivals.__file__, what["learner"], what["env"], str(what["width"]), str(options.seconds)]
    done = subprocess.run(words, capture_output=True, text=True, env=alone)
    if done.returncode:
        raise BadInput(f"measuring {what['learner']} on {what['env']} failed: {done.stderr.strip()[-300:]}")
    return what | json.loads(done.stdout.splitlines()[-1])


_XLA = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def turn(what: Row) -> Row:
    """What a process of its own measures: rates a second, summed over lanes, and the peak memory in MiB."""
    one_thread()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    works = {"ours": _ours, FLOOR: _floor, "rollout": _rollout, "evaluate_policy": _evaluate_policy}
    work = (works | {"checkpoint": _checkpoint})[what["learner"]]
    return work(what) | {"memory": rivals.peak_memory()}


def _ours(what: Row) -> Row:
    """SB3's defaults in our learner: no layer normalisation, automatic entropy weight, a step an update."""
    spec, n = spec_of(what["env"]), what["lanes"]
    sac = SACConfig(hidden=(what["width"],) * 2, alpha=(), layer_norm=False, tau=0.005)
    cfg = TruthConfig(updates=1_000_000, envs=1, warmup=STEPS, sac=sac, capacity=100_000)
    pupil = Pupil(spec, range(n), cfg, products=getattr(torch, what["precision"]))
    for _ in range(STEPS):
        pupil.step(random=True)

    def both() -> None:
        pupil.step()
        pupil.update()

    rates = {"updates": pupil.update, "loop": both, "steps": pupil.step}
    return {name: n * timed(_times(work), what["seconds"]) for name, work in rates.items()}


def _floor(what: Row) -> Row:
    """The matrix products of one update and nothing else."""
    spec, width, n = spec_of(what["env"]), what["width"], what["lanes"]
    rounded = what["precision"] == "bfloat16"
    pairs = [
        (torch.randn(nets, a, b), torch.randn(nets, b, c), rounded and inner)
        for nets, times, sizes in _products_of_an_update(spec.n_obs, spec.n_act, width, n)
        for (a, b, c), inner in sizes
        for _ in range(times)
    ]

    def work(k: int) -> None:
        for _ in range(k):
            for a, b, r in pairs:
                product(a, b, r)

    return {"updates": n * timed(work, what["seconds"], 5)}


def _products_of_an_update(o: int, a: int, w: int, n: int) -> Iterator[tuple[int, int, list]]:
    """(networks, how often, [((rows, inner, columns), whether an inner layer)]) of the passes of one update."""

    def forward(i: int, out: int) -> list:
        return [((BATCH, i, w), False), ((BATCH, w, w), True), ((BATCH, w, out), False)]

    def to_input(out: int) -> list:
        return [((BATCH, out, w), False), ((BATCH, w, w), True)]

    def to_weights(i: int, out: int) -> list:
        return [((i, BATCH, w), False), ((w, BATCH, w), True), ((w, BATCH, out), False)]

    yield n, 2, forward(o, 2 * a)  # the actor at the next and at this observation
    yield n, 1, to_input(2 * a) + to_weights(o, 2 * a)
    yield 2 * n, 3, forward(o + a, 1)  # the targets, the critics, and the critics at the actor's action
    yield 2 * n, 2, to_input(1)
    yield 2 * n, 1, to_weights(o + a, 1)
    yield 2 * n, 1, [((BATCH, w, o + a), False)]  # the actor's gradient through the critics' input


def _rollout(what: Row) -> Row:
    """Steps a second of 32 episodes at once, acting with a network."""
    policy, spec = _model(what), spec_of(what["env"])

    def act(obs: np.ndarray) -> np.ndarray:
        return spec.from_env(policy.predict(obs, deterministic=True)[0])

    return {"steps": _steps_a_second(lambda: sum(len(t) for t in rollout(spec, act, range(32))), what["seconds"])}


def _evaluate_policy(what: Row) -> Row:
    """Steps a second of Stable-Baselines3's evaluation loop with the same network."""
    from stable_baselines3.common.evaluation import evaluate_policy

    policy = _model(what)

    def episodes() -> int:
        _, lengths = evaluate_policy(policy, policy.get_env(), 32, return_episode_rewards=True)
        return int(np.sum(lengths))

    return {"steps": _steps_a_second(episodes, what["seconds"])}


def _checkpoint(what: Row) -> Row:
    """What it takes to save AIHF's state: seconds, MiB of a state, bytes of the replay a lane and step."""
    with tempfile.TemporaryDirectory() as there:
        small = DataConfig(demos=1, episodes=4, noise=(0.0,), pairs=10, test_pairs=4)
        task = Task(make_dataset(what["env"], small), range(what["lanes"]), 1, 10)
        cfg = aihf.Config(warmup=10, clone=CloneConfig(updates=1))
        for _, _ in zip(range(200), aihf.train(task, cfg), strict=False):
            pass
        kept, seconds = Checkpoints(Path(there)), []
        for k in range(10):
            began = time.perf_counter()
            kept.save(200 + k, [], task)
            seconds.append(time.perf_counter() - began)
        state = max(path.stat().st_size for path in Path(there).glob("*.state"))
        row = (Path(there) / "buffer.rows").stat().st_size / 199 / what["lanes"]
    return {"save": float(np.median(seconds)), "state": state / 2**20, "row": row}


def _model(what: Row) -> Any:
    import gymnasium as gym
    from stable_baselines3 import SAC

    kwargs = {"net_arch": [what["width"]] * 2}
    return SAC("MlpPolicy", gym.make(what["env"]), policy_kwargs=kwargs, buffer_size=1000, seed=0, device="cpu")


def _steps_a_second(episodes: Callable[[], int], seconds: float) -> float:
    counted: list[int] = []
    rate = timed(lambda n: counted.extend(episodes() for _ in range(n)), seconds, 1)
    return rate * float(np.mean(counted))


def _times(work: Callable[[], Any]) -> Callable[[int], None]:
    def repeat(n: int) -> None:
        for _ in range(n):
            work()

    return repeat


# -------------------------------------------------------------------------------------------------------------- table


def table(frame: pd.DataFrame) -> str:
    """Markdown: medians over rounds, ratios to SB3 within each round, shares of the floor."""
    lines = ["| environment | learner | lanes | precision | updates/s | whole loop/s | updates : SB3 | loop : SB3 | "]
    lines[0] += "share of the products' own speed | rest of the loop | MiB |"
    lines.append("|---" * 11 + "|")
    rows = frame.loc[frame["part"] == "comparison"]
    for (env, learner, lanes, precision), turns in rows.groupby(["env", "learner", "lanes", "precision"], sort=False):
        peer = rows.loc[(rows["env"] == env) & (rows["learner"] == "sb3")].set_index("round")
        own = turns.set_index("round")
        floor = rows.loc[(rows["env"] == env) & (rows["learner"] == FLOOR) & (rows["precision"] == precision)]
        cells = [env, learner, int(lanes), precision, f"{own['updates'].median():.0f}", _number(own["loop"])]
        cells += [_ratio(own, peer, "updates"), _ratio(own, peer, "loop")]
        cells += [f"{own['updates'].median() / floor['updates'].median():.0%}" if learner == "ours" else "-"]
        cells += [_rest(own), f"{own['memory'].max():.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", _rollouts(frame), _memory(frame), _saving(frame), ""])


def _number(x: pd.Series) -> str:
    return f"{x.median():.0f}" if x.count() else "-"


def _ratio(own: pd.DataFrame, peer: pd.DataFrame, what: str) -> str:
    ratio = own[what] / peer[what]
    return "-" if np.isnan(ratio.median()) else f"{ratio.median():.2f} [{ratio.min():.2f}, {ratio.max():.2f}]"


def _rest(own: pd.DataFrame) -> str:
    """Share of the whole loop that is not the update."""
    share = (1 - own["loop"] / own["updates"]).median()
    return "-" if np.isnan(share) else f"{share:.0%}"


def _rollouts(frame: pd.DataFrame) -> str:
    rest = frame.loc[frame["part"] == "rest"]
    ours, peer = (
        rest.loc[rest["learner"] == name].set_index("round")["steps"] for name in ("rollout", "evaluate_policy")
    )
    return (
        f"Rollouts of 32 episodes of {rest['env'].iloc[0]} at once: {ours.median():.0f} steps a second, "
        f"`evaluate_policy` {peer.median():.0f}: {(ours / peer).median():.1f} times as fast."
    )


def _saving(frame: pd.DataFrame) -> str:
    saves = frame.loc[frame["learner"] == "checkpoint"]
    save, state, row = (saves[name].median() for name in ("save", "state", "row"))
    lanes = int(saves["lanes"].iloc[0])
    return (
        f"A checkpoint of AIHF with {lanes} lanes takes {1000 * save:.0f} ms, which is {save / 180:.2%} of the time "
        f"at one every three minutes; {state / lanes:.2f} MiB a lane and {row:.0f} bytes a lane and environment step."
    )


def _memory(frame: pd.DataFrame) -> str:
    growth = frame.loc[frame["part"] == "growth"]
    each = []
    for width, cells in growth.groupby("width"):
        few, many = cells.loc[cells["lanes"].idxmin()], cells.loc[cells["lanes"].idxmax()]
        each.append(
            f"{(many['memory'] - few['memory']) / max(1, many['lanes'] - few['lanes']):.1f} MiB at width {width:.0f}"
        )
    return f"Memory a lane, with a replay of 100,000 transitions: {', '.join(each)}."


def figure(frame: pd.DataFrame) -> bytes:
    """Updates a second, summed over lanes, against lanes, a line a width."""
    canvas = Figure(figsize=(6, 4), layout="constrained")
    axes = canvas.subplots()
    for width, cells in frame.loc[frame["part"] == "growth"].groupby("width"):
        axes.plot(cells["lanes"], cells["updates"], marker="o", label=f"2 x {width}")
    axes.set(xscale="log", yscale="log", xlabel="lanes", ylabel="updates a second, all lanes together")
    ticks = sorted(frame.loc[frame["part"] == "growth", "lanes"].unique())
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.legend(title="networks")
    out = io.BytesIO()
    canvas.savefig(out, format="png", dpi=110)
    return out.getvalue()


if __name__ == "__main__":
    sys.exit(main())
