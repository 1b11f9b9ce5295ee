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
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import tyro
from matplotlib.figure import Figure

from aihf_control import kernel, rivals
from aihf_control.cards import card_of
from aihf_control.environments import spec_of
from aihf_control.files import BadInput, at_least_one, exit_code, write_bytes
from aihf_control.machine import products
from aihf_control.turns import BY_TORCH, FLOOR, OURS, Row, turn


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
    ours = [{"learner": OURS, "lanes": n, "precision": p} for n in options.lanes for p in precisions]
    if kernel.library():
        ours += [{"learner": BY_TORCH, "lanes": n, "precision": "bfloat16"} for n in options.lanes]
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
            who = {"learner": OURS, "lanes": n, "precision": products("auto", "cpu")}
            yield _turn({"part": "growth", "env": env, "round": 0, "width": width, **who}, options)
    for k in range(options.rounds):
        for learner, lanes in (("rollout", 1), ("evaluate_policy", 1), ("checkpoint", 5), ("reward", 5)):
            if learner == "reward" and not card_of(env):
                continue  # its dataset is made from bundled policies
            who = {"learner": learner, "lanes": lanes, "precision": "float32"}
            yield _turn({"part": "rest", "env": env, "round": k, "width": options.width, **who}, options)


def _turn(what: Row, options: Options) -> Row:
    """Measures one learner in a process of its own: `what` with its figures."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "XLA_FLAGS": _XLA}
    if what["learner"] == BY_TORCH:
        alone[kernel.SWITCH] = "0"
    words = [sys.executable, "-m", "aihf_control.speed", "--turn", json.dumps({**what, "seconds": options.seconds})]
    if what["learner"] in ("sb3", "plain", "sbx"):
        python = str(options.sbx) if what["learner"] == "sbx" else sys.executable
        words = [python, rivals.__file__, what["learner"], what["env"], str(what["width"]), str(options.seconds)]
    done = subprocess.run(words, capture_output=True, text=True, env=alone)
    if done.returncode:
        raise BadInput(f"measuring {what['learner']} on {what['env']} failed: {done.stderr.strip()[-300:]}")
    return what | json.loads(done.stdout.splitlines()[-1])


_XLA = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


# -------------------------------------------------------------------------------------------------------------- table


def table(frame: pd.DataFrame) -> str:
    """Markdown: medians over rounds, ratios to SB3 within each round, shares of the floor."""
    lines = ["| environment | learner | lanes | precision | updates/s | whole loop/s | updates : SB3 | loop : SB3 | "]
    lines[0] += "share of torch's products alone | rest of the loop | MiB |"
    lines.append("|---" * 11 + "|")
    rows = frame.loc[frame["part"] == "comparison"]
    for (env, learner, lanes, precision), turns in rows.groupby(["env", "learner", "lanes", "precision"], sort=False):
        peer = rows.loc[(rows["env"] == env) & (rows["learner"] == "sb3")].set_index("round")
        own = turns.set_index("round")
        floor = rows.loc[(rows["env"] == env) & (rows["learner"] == FLOOR) & (rows["precision"] == precision)]
        cells = [env, learner, int(lanes), precision, f"{own['updates'].median():.0f}", _number(own["loop"])]
        cells += [_ratio(own, peer, "updates"), _ratio(own, peer, "loop")]
        cells += [f"{own['updates'].median() / floor['updates'].median():.0%}" if learner in (OURS, BY_TORCH) else "-"]
        cells += [_rest(own), f"{own['memory'].max():.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", _rollouts(frame), _memory(frame), _saving(frame), _rewards(frame), ""])


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


def _rewards(frame: pd.DataFrame) -> str:
    steps = frame.loc[frame["learner"] == "reward"]
    if steps.empty:
        return "Reward steps: not measured, for want of bundled policies."
    clips, whole, make = (steps[name].median() for name in ("clips", "whole", "make"))
    return (
        f"A reward step of AIHF with {int(steps['lanes'].iloc[0])} lanes takes {1000 / clips:.1f} ms on clips of 50 "
        f"and {1000 / whole:.1f} ms on whole trajectories; making the default dataset takes {make:.1f} s."
    )


def _memory(frame: pd.DataFrame) -> str:
    growth = frame.loc[frame["part"] == "growth"]
    each = []
    for width, cells in growth.groupby("width"):
        if cells["lanes"].nunique() < 2:
            return "Memory a lane: not measured, for want of two numbers of lanes."
        few, many = cells.loc[cells["lanes"].idxmin()], cells.loc[cells["lanes"].idxmax()]
        each.append(f"{(many['memory'] - few['memory']) / (many['lanes'] - few['lanes']):.1f} MiB at width {width:.0f}")
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
