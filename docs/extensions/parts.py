"""Markdown about methods, settings, names and results, read from the package and from `results/`."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import itertools
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.pycode import ModuleAnalyzer

import aihf_control
from aihf_control import methods

ROOT = Path(__file__).parents[2]
NOT_RUN = "not run yet"
LEFT_OUT = {"mean", "median", "optimality gap", "late", "diverged", "runs"}
"""Columns of a report's table of scores that pages do not show."""


def method_page(name: str) -> str:
    """Return pseudo-code, settings, the claim of the paper and committed results of a method."""
    module = methods.load(name)
    about = _indented_as_text((module.__doc__ or "").partition("\n\n")[2])
    flags = (
        f"Flags of `python -m aihf_control.run --method {name}`, which are fields of "
        f"`aihf_control.methods.{name}.Config`. A group with a dot is shared by several methods."
    )
    parts = ["## Algorithm", about, "## Settings", flags, settings_table(module.Config, "../settings.md")]
    return "\n\n".join([*parts, *claims_of(name), "## Results", results_of(name)])


def method_list(_: str) -> str:
    """Return a table of all methods, with links to their pages and the verdicts on the claims of their papers."""
    heads = {name: (methods.load(name).__doc__ or "").splitlines()[0] for name in methods.names()}
    rows = [f"| [`{name}`](methods/{name}.md) | {head} | {_verdicts(name)} |" for name, head in heads.items()]
    return "\n".join(["| name | method | [claim of its paper](regimes.md#claims) |", "|---|---|---|", *rows])


def shared_settings(_: str) -> str:
    """Return the docstrings and tables of all groups of settings that methods have, with the methods of each."""
    users: dict[tuple[type, str], list[str]] = {}
    for name in methods.names():
        config = methods.load(name).Config()
        for field in dataclasses.fields(config):
            if dataclasses.is_dataclass(value := getattr(config, field.name)):
                users.setdefault((type(value), field.name), []).append(name)
    return "\n\n".join(_group(cls, prefix, names) for (cls, prefix), names in users.items())


def _group(cls: type, prefix: str, names: list[str]) -> str:
    used = f"Methods: {', '.join(f'[{name}](methods/{name}.md)' for name in names)}."
    return f"## {cls.__name__}\n\n{inspect.getdoc(cls)} {used}\n\n{settings_table(cls, '', f'{prefix}.')}"


def settings_table(cls: type, page: str, prefix: str = "") -> str:
    """Return a table of the fields of a dataclass: flag, default and meaning. A group of settings is one row."""
    docs = ModuleAnalyzer.for_module(cls.__module__).find_attr_docs()
    rows = [
        _row(cls, f.name, " ".join(docs.get((cls.__name__, f.name), [])), page, prefix) for f in dataclasses.fields(cls)
    ]
    return "\n".join(["| flag | default | meaning |", "|---|---|---|", *rows])


def names(paths: str) -> str:
    """Return the documentation of names given as MODULE.NAME, separated by spaces."""
    return _eval_rst([line for path in paths.split() for line in _autodoc(path, _named(path))])


def public_names(_: str) -> str:
    """Return the documentation of every public name of the package."""
    found = {name: getattr(aihf_control, name) for name in sorted(aihf_control.__all__)}
    return _eval_rst([line for name, value in found.items() for line in _autodoc(f"aihf_control.{name}", value)])


def scores(grid: str) -> str:
    """Return the table of scores of a grid of `results/bench`, without the columns that a page has no room for."""
    lines = (ROOT / f"results/bench/{grid}/report/scores.md").read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    head, rows = cells[0], cells[2:]
    kept = [i for i, name in enumerate(head) if name not in LEFT_OUT]
    table = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row[i] for i in kept)} |" for row in table)


def results_of(name: str) -> str:
    """Return a table of a method's rows in the reports of `results/bench`, or where its experiment is."""
    paths = sorted((ROOT / "results/bench").glob("**/report/scores.csv"))
    rows = [row for path in paths for row in _score_rows(path, name)]
    if not rows:
        return "No grid in `results/` has this method yet."
    head = ["| grid | as | score (IQM) | n | env steps | labels |", "|---|---|---|---|---|---|"]
    note = "[How scores are summarised](../statistics.md); [all results](../results.md)."
    return "\n".join([*head, *rows, "", note])


def claims_of(name: str) -> list[str]:
    """Return the claims of a method's regime, with the verdicts of `results/regimes/claims.csv` if they are there."""
    claims = _claims(name)
    if not claims:
        return []
    about = (
        f"`experiments/regimes/{name}.toml` states the claim of the paper as a comparison. [The rule of the verdicts]"
        f"(../regimes.md#claims). To run it: `python -m aihf_control.bench experiments/regimes/{name}.toml`."
    )
    head = ["| claim | comparison | verdict | P | gain | gain in the control |", "|---|---|---|---|---|---|"]
    return ["## Claim", about, "\n".join([*head, *(_claim_row(name, claim) for claim in claims)])]


def _claims(name: str) -> list[dict[str, Any]]:
    path = ROOT / f"experiments/regimes/{name}.toml"
    return tomllib.loads(path.read_text()).get("claim", []) if path.exists() else []


def _verdicts(name: str) -> str:
    """Return the verdicts on a method's claims in their order; a dash for a method without a regime."""
    return ", ".join(_result_of(name, claim).get("verdict", NOT_RUN) for claim in _claims(name)) or "-"


def _claim_row(name: str, claim: dict[str, Any]) -> str:
    than = {"as good": "as good as", "not worse": "not worse than"}.get(claim.get("kind", ""), "better than")
    measure = f" by {claim['measure'].replace('_', ' ')}" if "measure" in claim else ""
    where = _where(claim, "where", ", ") + _where(claim, "than_where", ", against ")
    row = _result_of(name, claim)
    numbers = [_interval(row, column) for column in ("P", "gain", "gain in the control")]
    compared = f"`{claim['better']}` {than} `{claim['than']}`{measure}{where}"
    return f"| {claim['text']} | {compared} | {row.get('verdict', NOT_RUN)} | {' | '.join(numbers)} |"


def _where(claim: dict[str, Any], key: str, start: str) -> str:
    words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in claim.get(key, {}).items())
    return f"{start}{words}" if words else ""


def _result_of(name: str, claim: dict[str, Any]) -> dict[str, str]:
    """Return the row of claims.csv about a claim; an empty one if it has none."""
    path = ROOT / "results/regimes/claims.csv"
    rows = csv.DictReader(path.read_text().splitlines()) if path.exists() else []
    known = (f"regimes/{name}", claim["text"], claim["better"], claim["than"])
    return next((row for row in rows if tuple(row[x] for x in ("experiment", "claim", "better", "than")) == known), {})


def _interval(row: dict[str, str], column: str) -> str:
    if not row.get(column):
        return "-"
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(float(row[f"{column}{end}"]) for end in ("", " low", " high")))


def _named(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _indented_as_text(text: str) -> str:
    """Mark indented blocks as plain text, so that they are not highlighted as Python."""
    block = re.compile(r"(?:^ {4}.*\n(?:\n(?= {4}))?)+", re.MULTILINE)
    return block.sub(lambda found: f"```text\n{inspect.cleandoc(found[0])}\n```\n", text)


def _row(cls: type, name: str, about: str, page: str, prefix: str) -> str:
    value, flag = getattr(cls(), name), f"--{prefix}{name.replace('_', '-')}"
    if dataclasses.is_dataclass(value):
        group = type(value).__name__
        return f"| `{flag}.*` | {_differences(value)} | [{group}]({page}#{group.lower()}) |"
    return f"| `{flag}` | {_written(value)} | {about.replace('|', chr(92) + '|')} |"


def _written(value: Any) -> str:
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{text}`" if text else "none"


def _differences(value: Any) -> str:
    """Return the fields of a group of settings that differ from the group's own defaults."""
    own = type(value)()
    changed = [f.name for f in dataclasses.fields(value) if getattr(value, f.name) != getattr(own, f.name)]
    listed = ", ".join(f"{name.replace('_', '-')} {_written(getattr(value, name))}" for name in changed)
    return listed or "the group's"


def _eval_rst(lines: list[str]) -> str:
    return "\n".join(["```{eval-rst}", *lines, "```"])


def _autodoc(path: str, value: Any) -> list[str]:
    if not inspect.isclass(value):
        return [f".. autofunction:: {path}", ""]
    members = [] if issubclass(value, Exception) else ["   :members:"]
    fields = not members or issubclass(value, tuple) or dataclasses.is_dataclass(value)
    without = ["   :exclude-members: __init__, __new__"] if fields else []  # they repeat the fields
    return [f".. autoclass:: {path}", *members, *without, ""]


def _score_rows(path: Path, name: str) -> list[str]:
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["IQM"] and re.fullmatch(rf"{name}(-[\w.]+)?", row["method"])]
    grid = str(path.parents[1].relative_to(ROOT / "results/bench"))
    return [_score_row(grid, row) for row in rows]


def _score_row(grid: str, row: dict[str, str]) -> str:
    score = _interval(row, "IQM")
    swept = [f"{key} {value}" for key, value in itertools.takewhile(lambda item: item[0] != "method", row.items())]
    counts = [f"{float(row[key]):,.0f}" if row[key] else "-" for key in ("n", "env steps", "labels")]
    return f"| {grid} | {', '.join([row['method'], *swept])} | {score} | {' | '.join(counts)} |"
