"""What the speed command measured, as a table and a figure: medians, ratios within a round, and how cost grows."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aihf_control.speed.worker import BY_TORCH, FLOOR, OURS


def table(frame: pd.DataFrame) -> str:
    """Markdown: medians over rounds, ratios to SB3 within each round (median, middle half), shares of the floor."""
    lines = ["| environment | learner | lanes | precision | updates/s | whole loop/s | updates : SB3 | loop : SB3 | "]
    lines[0] += "share of its products alone | rest of the loop | MiB |"
    lines.append("|---" * 11 + "|")
    rows = frame.loc[frame["part"] == "comparison"].set_index(["env", "beside", "round"])
    for (env, learner, lanes, precision), own in rows.groupby(["env", "learner", "lanes", "precision"], sort=False):
        peer = rows.loc[rows["learner"] == "sb3"]
        floor = rows.loc[(rows["learner"] == FLOOR) & (rows["precision"] == precision)]
        cells = [env, learner, int(lanes), precision, f"{own['updates'].median():.0f}", _number(own["loop"])]
        cells += [_ratio(own, peer, "updates"), _ratio(own, peer, "loop")]
        share = (own["updates"] / floor["updates"].reindex(own.index)).median()
        cells += [f"{share:.0%}" if learner in (OURS, BY_TORCH) else "-"]
        cells += [_rest(own), f"{own['memory'].max():.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    where = f"Networks on: {', '.join(rows['device'].unique())}. {_kernels(rows)}".rstrip()
    return "\n".join([*lines, "", where, _rollouts(frame), _memory(frame), _saving(frame), _rewards(frame), ""])


def _kernels(rows: pd.DataFrame) -> str:
    """Name the kernel that computes our perceptrons, by precision."""
    if "kernel" not in rows:
        return ""
    ours = rows.loc[rows["learner"] == OURS].drop_duplicates(["precision", "kernel"])
    return f"Ours by: {', '.join(ours['precision'] + ' ' + ours['kernel'])}."


def _number(x: pd.Series) -> str:
    return f"{x.median():.0f}" if x.count() else "-"


def _ratio(own: pd.DataFrame, peer: pd.DataFrame, what: str) -> str:
    ratio = own[what] / peer[what].reindex(own.index)
    low, middle, high = ratio.quantile([0.25, 0.5, 0.75])
    return "-" if np.isnan(middle) else f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _rest(own: pd.DataFrame) -> str:
    """Share of the whole loop that is not the update."""
    share = (1 - own["loop"] / own["updates"]).median()
    return "-" if np.isnan(share) else f"{share:.0%}"


def _rollouts(frame: pd.DataFrame) -> str:
    rest = frame.loc[frame["part"] == "rest"]
    if rest.empty:
        return "Rollouts: not measured."
    ours, peer = (
        rest.loc[rest["learner"] == name].set_index("round")["steps"] for name in ("rollout", "evaluate_policy")
    )
    return (
        f"Rollouts of 32 episodes of {rest['env'].iloc[0]} at once: {ours.median():.0f} steps a second, "
        f"`evaluate_policy` {peer.median():.0f}: {(ours / peer).median():.1f} times as fast."
    )


def _saving(frame: pd.DataFrame) -> str:
    saves = frame.loc[frame["learner"] == "checkpoint"]
    if saves.empty:
        return "A checkpoint of AIHF: not measured."
    save, state, row = (saves[name].median() for name in ("save", "state", "row"))
    lanes = int(saves["lanes"].iloc[0])
    return (
        f"A checkpoint of AIHF with {lanes} lanes takes {1000 * save:.0f} ms, which is {save / 180:.2%} of the time "
        f"at one every three minutes; {state / lanes:.2f} MiB a lane and {row:.0f} bytes a lane and environment step."
    )


def _rewards(frame: pd.DataFrame) -> str:
    steps = frame.loc[frame["learner"] == "reward"]
    if steps.empty:
        return "Reward steps: not measured."
    clips, whole, make = (steps[name].median() for name in ("clips", "whole", "make"))
    return (
        f"A reward step of AIHF with {int(steps['lanes'].iloc[0])} lanes takes {1000 / clips:.1f} ms on clips of 50 "
        f"and {1000 / whole:.1f} ms on whole trajectories; making the default dataset takes {make:.1f} s."
    )


def _memory(frame: pd.DataFrame) -> str:
    growth = frame.loc[frame["part"] == "growth"]
    if growth.empty:
        return "Memory a lane: not measured."
    each = []
    for width, rounds in growth.groupby("width"):
        cells = rounds.loc[rounds["round"] == rounds["round"].max()]  # what was needed at most until then
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
        axes.plot(cells.groupby("lanes")["updates"].median(), marker="o", label=f"2 x {width}")
    axes.set(xscale="log", yscale="log", xlabel="lanes", ylabel="updates a second, all lanes together")
    ticks = sorted(frame.loc[frame["part"] == "growth", "lanes"].unique())
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.legend(title="networks")
    out = io.BytesIO()
    canvas.savefig(out, format="png", dpi=110)
    return out.getvalue()
