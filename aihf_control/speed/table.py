"""Table and figure of the speed command: medians, ratios within a round, and cost against lanes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from aihf_control.report.plotting import png_of
from aihf_control.speed.worker import BY_TORCH, OURS, PRODUCTS


def format_table(frame: pd.DataFrame) -> str:
    """Format the measurements as Markdown.

    Medians over rounds; ratios to SB3 within each round (median, middle half); shares of the rate of the matrix
    products alone.
    """
    lines = ["| environment | learner | lanes | precision | updates/s | whole loop/s | updates : SB3 | loop : SB3 | "]
    lines[0] += "share of its products alone | rest of the loop | MiB |"
    lines.append("|---" * 11 + "|")
    rows = frame.loc[frame["part"] == "comparison"].set_index(["env", "beside", "round"])
    for (env, learner, lanes, precision), own in rows.groupby(["env", "learner", "lanes", "precision"], sort=False):
        cells = [env, learner, int(lanes), precision, *_format_rates(own, rows, learner, precision)]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    where = f"Networks on: {', '.join(rows['device'].unique())}. {_describe_kernels(rows)}".rstrip()
    rest = [
        describe(frame) for describe in (_describe_rollouts, _describe_memory, _describe_checkpoint, _describe_rewards)
    ]
    return "\n".join([*lines, "", where, *rest, ""])


def _format_rates(own: pd.DataFrame, rows: pd.DataFrame, learner: str, precision: str) -> list[str]:
    """Format the cells of one learner, whose rows are `own`, against SB3 and against the matrix products alone."""
    peer = rows.loc[rows["learner"] == "sb3"]
    products = rows.loc[(rows["learner"] == PRODUCTS) & (rows["precision"] == precision)]
    share = (own["updates"] / products["updates"].reindex(own.index)).median()
    return [
        _format_median(own, "updates"),
        _format_median(own, "loop"),
        _format_ratio(own, peer, "updates"),
        _format_ratio(own, peer, "loop"),
        f"{share:.0%}" if learner in (OURS, BY_TORCH) else "-",
        _format_rest(own),
        f"{own['memory'].max():.0f}",
    ]


def _describe_kernels(rows: pd.DataFrame) -> str:
    """Name the kernel that computes our perceptrons, by precision."""
    if "kernel" not in rows:
        return ""
    ours = rows.loc[rows["learner"] == OURS].drop_duplicates(["precision", "kernel"])
    return f"Ours by: {', '.join(ours['precision'] + ' ' + ours['kernel'])}."


def _format_median(own: pd.DataFrame, what: str) -> str:
    values = own[what].dropna()
    return f"{values.median():.0f}" if len(values) else "-"


def _format_ratio(own: pd.DataFrame, peer: pd.DataFrame, what: str) -> str:
    ratio = own[what] / peer[what].reindex(own.index)
    low, middle, high = ratio.quantile([0.25, 0.5, 0.75])
    return "-" if np.isnan(middle) else f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _format_rest(own: pd.DataFrame) -> str:
    """Format the share of the whole loop that is not the update."""
    share = (1 - own["loop"] / own["updates"]).median()
    return "-" if np.isnan(share) else f"{share:.0%}"


def _describe_rollouts(frame: pd.DataFrame) -> str:
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


def _describe_checkpoint(frame: pd.DataFrame) -> str:
    saves = frame.loc[frame["learner"] == "checkpoint"]
    if saves.empty:
        return "A checkpoint of AIHF: not measured."
    save, state, row = (saves[name].median() for name in ("save", "state", "row"))
    lanes = int(saves["lanes"].iloc[0])
    return (
        f"A checkpoint of AIHF with {lanes} lanes takes {1000 * save:.0f} ms, which is {save / 180:.2%} of the time "
        f"at one every three minutes; {state / lanes:.2f} MiB a lane and {row:.0f} bytes a lane and environment step."
    )


def _describe_rewards(frame: pd.DataFrame) -> str:
    steps = frame.loc[frame["learner"] == "reward"]
    if steps.empty:
        return "Reward steps: not measured."
    clips, whole, make = (steps[name].median() for name in ("clips", "whole", "make"))
    return (
        f"A reward step of AIHF with {int(steps['lanes'].iloc[0])} lanes takes {1000 / clips:.1f} ms on clips of 50 "
        f"and {1000 / whole:.1f} ms on whole trajectories; making the default dataset takes {make:.1f} s."
    )


def _describe_memory(frame: pd.DataFrame) -> str:
    growth = frame.loc[frame["part"] == "growth"]
    if growth.empty:
        return "Memory a lane: not measured."
    each = []
    for width, rounds in growth.groupby("width"):
        cells = rounds.loc[rounds["round"] == rounds["round"].max()]  # memory is the peak up to that round
        if cells["lanes"].nunique() < 2:
            return "Memory a lane: not measured, for want of two numbers of lanes."
        few, many = cells.loc[cells["lanes"].idxmin()], cells.loc[cells["lanes"].idxmax()]
        each.append(f"{(many['memory'] - few['memory']) / (many['lanes'] - few['lanes']):.1f} MiB at width {width:.0f}")
    return f"Memory a lane, with a replay of 100,000 transitions: {', '.join(each)}."


def draw_growth(frame: pd.DataFrame) -> bytes:
    """Draw updates per second, summed over lanes, against lanes, with a line per width; return a PNG."""
    canvas = Figure(figsize=(6, 4), layout="constrained")
    axes = canvas.subplots()
    for width, cells in frame.loc[frame["part"] == "growth"].groupby("width"):
        axes.plot(cells.groupby("lanes")["updates"].median(), marker="o", label=f"2 x {width}")
    axes.set(xscale="log", yscale="log", xlabel="lanes", ylabel="updates a second, all lanes together")
    ticks = sorted(frame.loc[frame["part"] == "growth", "lanes"].unique())
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.legend(title="networks")
    return png_of(canvas)
