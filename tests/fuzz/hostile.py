"""Hostile values and files, drawn from a seeded generator."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PLANTED = "planted_by_fuzz"  # a module in the working directory of every case
SENTINEL = "code_was_executed"
DEEP = 100_000


class Executes:
    """An object whose pickle, when loaded, writes the sentinel into the working directory."""

    def __reduce__(self):
        return open, (SENTINEL, "w")


def scalar(rng: random.Random) -> Any:
    """Draw a JSON value that a reader does not expect."""
    return rng.choice(
        [
            None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e308, 1e-320, float("nan"),
            float("inf"), "", " ", "0", "-1", "nan", "1e999", "x" * 10_000, "a\0b", "a\nb", "ü\U0001f600", "\ud800",
            "[/red]", "$x_$", "=1+1", "../../etc/passwd", "/dev/zero", "<script>", f"{PLANTED}:Hopper-v4",
            "Hopper-v4", [], {}, [[]], [None], {"": None}, [1] * 1000, {"env": f"{PLANTED}:X-v0"}, [10**18],
        ]
    )  # fmt: skip


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    """List (container, key) of every value in a JSON tree, from the outside in."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop(0)
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        found += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    return found


def spoil_json(data: bytes, rng: random.Random) -> bytes:
    """Change values, keys or types of a JSON document, or replace it by text that is hard to parse."""
    tree = json.loads(data)
    kind = rng.randrange(12)
    if kind == 0:
        return rng.choice([b"[" * DEEP, b'{"a":' * DEEP, b"[" * DEEP + b"]" * DEEP, b"1" * 5000, b'"' + b"\\u0000" * 9])
    if kind == 1:
        return data.replace(b":", b": " + b"9" * 5000 + b", ", 1)
    if kind == 2:
        return json.dumps(scalar(rng)).encode()
    for _ in range(rng.randrange(1, 4)):
        if places := _leaves(tree):
            # values near the root are more often read than one of a thousand returns
            node, key = places[min(int(rng.expovariate(1 / 20)), len(places) - 1)]
            if kind == 3 and isinstance(node, dict):
                node[str(scalar(rng))[:50]] = node.pop(key)
            elif kind == 4:
                del node[key]
            else:
                node[key] = scalar(rng)
    text = json.dumps(tree)
    if kind == 5:
        text = text.replace("1", "1" * 5000, 1)
    return text.encode(errors="surrogatepass")


def spoil_lines(data: bytes, rng: random.Random) -> bytes:
    """Spoil one line of a JSON lines file, or fill the end with zeros as a crash does."""
    lines = data.splitlines(keepends=True)
    if rng.random() < 0.3:
        return data + b"\0" * rng.randrange(1, 5000)
    at = rng.randrange(len(lines))
    lines[at] = spoil_json(lines[at], rng) + b"\n"
    return b"".join(lines)


def spoil_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, cut, overwrite, lengthen, repeat or replace bytes."""
    at, n = rng.randrange(len(data)), rng.randrange(1, 60)
    return rng.choice(
        [
            data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :],
            data[:at],
            data[:at] + rng.randbytes(n) + data[at + n :],
            data[:at] + rng.randbytes(n) + data[at:],
            data + data,
            data[:at] + b"\0" * (len(data) - at),
            rng.choice([b"", b"\0", b"\xff\xfe", b"PK\x05\x06" + b"\0" * 18, b"\x93NUMPY", b"\x80\x04."]),
            pickle.dumps(Executes()),
        ]
    )


def cell(rng: random.Random) -> str:
    """Draw a csv cell."""
    plain = [
        "",
        "0",
        "-1",
        "1.5",
        "50.0",
        " 1",
        "1e3",
        "nan",
        "inf",
        "9" * 5000,
        "x",
        "=1+1",
        '"',
        '""',
        "\0",
        "ü",
        "0x10",
    ]
    return rng.choice([*plain, "1;2", "1\t2", "test", "train", "TRUE", "[/b]", "a" * 200_000])


def spoil_csv(data: bytes, rng: random.Random) -> bytes:
    """Change cells, columns, separators, quoting or the encoding of a csv file."""
    rows = [line.split(",") for line in data.decode().splitlines()]
    kind = rng.randrange(9)
    if kind == 0:
        return data.decode().encode(rng.choice(["utf-16", "utf-8-sig", "utf-32"]))
    if kind == 1:
        return data.replace(b",", rng.choice([b";", b"\t", b"|", b" , "]))
    if kind == 2:
        return rng.choice(
            [b"", b"\n\n\n", b"," * 100_000, b'"' + data, rows[0][0].encode(), ",".join(rows[0]).encode()]
        )
    if kind == 3:
        rows[0][rng.randrange(len(rows[0]))] = cell(rng)
    elif kind == 4:
        column = rng.randrange(len(rows[0]))
        rows = [row[:column] + row[column + 1 :] for row in rows]
    for _ in range(rng.randrange(1, 4)):
        row = rng.choice(rows[1:])
        if row:
            row[rng.randrange(len(row))] = cell(rng)
    if kind == 5:
        rng.choice(rows).append(cell(rng))
    return "\n".join(map(",".join, rows)).encode()


# ----------------------------------------------------------------------------------------------------------------- npz


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=True)
    return out.getvalue()


def _npy_header(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


HEADERS: list[Callable[[], bytes]] = [
    lambda: _npy_header("(1000000000000,)"),
    lambda: _npy_header("(1000000, 1000000)"),
    lambda: _npy_header("(-1,)"),
    lambda: _npy_header("(" * 50 + ")" * 50),
    lambda: _npy_header("(2,)", "'|O'") + pickle.dumps(Executes()),
    lambda: _npy_header("(2,)", "[('a', '<f8'), ('b', '|O')]"),
    lambda: _npy_header("(3,)", "'<U100000000'"),
    lambda: _npy_header("__import__('os').system('true')"),
    lambda: _npy(np.array([Executes()], dtype=object)),
    lambda: _npy(np.array(["a", "b"])),
    lambda: _npy(np.zeros((0, 0))),
    lambda: _npy(np.zeros(())),
    lambda: _npy(np.zeros((3, 0))),
    lambda: _npy(np.zeros(4, "c16")),
    lambda: _npy(np.zeros(4, "M8[s]")),
    lambda: _npy(np.full(5, np.nan)),
    lambda: _npy(np.full((5, 11), 1e308)),
    lambda: _npy(np.zeros((2, 3, 4))),
]


def _change_array(array: np.ndarray, rng: random.Random) -> np.ndarray:
    if array.dtype.kind not in "fiub" or not array.size:
        return array[: len(array) // 2]
    changed = array.astype(np.float64 if array.dtype.kind == "f" else array.dtype).copy()
    spoilers: list[Callable[[], np.ndarray]] = [
        lambda: changed[: rng.randrange(len(changed) + 1)],
        lambda: changed[..., None],
        lambda: changed.reshape(-1)[: len(changed)],
        lambda: np.concatenate([changed, changed]),
        lambda: changed.astype(rng.choice(["U3", "c16", "f2", "i1", "u8", "?"])),
        lambda: np.where(np.arange(changed.size).reshape(changed.shape) == 3, np.nan, changed.astype(float)),
        lambda: changed.astype(float) * 1e300,
        lambda: -changed.astype(float),
        lambda: changed.T,
    ]
    return rng.choice(spoilers)()


def spoil_npz(data: bytes, rng: random.Random) -> bytes:
    """Change arrays, headers or the zip structure of an npz file."""
    with zipfile.ZipFile(io.BytesIO(data)) as f:
        members = {name: f.read(name) for name in f.namelist()}
    name, kind = rng.choice(list(members)), rng.randrange(8)
    method = zipfile.ZIP_DEFLATED
    if kind <= 2:
        members[name] = rng.choice(HEADERS)()
    elif kind <= 4:
        array = np.lib.format.read_array(io.BytesIO(members[name]))
        with np.errstate(all="ignore"):
            members[name] = _npy(np.asarray(_change_array(array, rng)))
    elif kind == 5:
        members[rng.choice(["../evil.npy", "x" * 60_000, "obs", "ü.npy", "a/b.npy"])] = members.pop(name)
    elif kind == 6:
        method = rng.choice([zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_STORED])
    return _zipped(members, method, encrypted=kind == 7)


def _zipped(members: dict[str, bytes], method: int, encrypted: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method, compresslevel=1) as f:
        for name, content in members.items():
            f.writestr(name, content)
    data = out.getvalue()
    if encrypted:  # set the flag in every local and central header
        data = data.replace(b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\1").replace(
            b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"
        )
    return data


def bomb(path: Path, name: str, size: int = 3 * 2**29) -> None:
    """Write an npz or zip with one member of zeros that is small on disk."""
    head = _npy_header(f"({size // 88}, 11)")
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as f,
        f.open(name, "w", force_zip64=True) as out,
    ):
        out.write(head)
        block = bytes(2**22)
        for _ in range(size // len(block)):
            out.write(block)


# ------------------------------------------------------------------------------------------------- zips and safetensors


def spoil_policy_zip(data: bytes, rng: random.Random) -> bytes:
    """Change the JSON, the tensors or the members of a Stable-Baselines3 zip."""
    import torch

    with zipfile.ZipFile(io.BytesIO(data)) as f:
        members = {name: f.read(name) for name in f.namelist()}
    kind = rng.randrange(6)
    if kind <= 1:
        members["data"] = spoil_json(members["data"], rng)
    elif kind == 2:
        name = rng.choice([name for name in members if name.endswith(".pth")])
        members[name] = rng.choice([pickle.dumps(Executes()), spoil_bytes(members[name], rng), members["data"]])
    elif kind == 3:
        members.pop(rng.choice(list(members)))
    else:
        state = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
        name = rng.choice(list(state))
        state[name] = _odd_tensor(state[name], rng)
        if rng.random() < 0.2:
            state[rng.choice([3, None, ("a",), "x" * 1000])] = state.pop(name)
        out = io.BytesIO()
        torch.save(state, out)
        members["policy.pth"] = out.getvalue()
    return _zipped(members, zipfile.ZIP_DEFLATED)


def _odd_tensor(tensor: Any, rng: random.Random) -> Any:
    import torch

    choices: list[Callable[[], Any]] = [
        lambda: torch.full_like(tensor, rng.choice([float("nan"), float("inf"), 1e30])),
        lambda: tensor.double() * 1e300,
        lambda: tensor.to_sparse(),
        lambda: tensor.to("meta"),
        lambda: tensor.to(torch.float8_e4m3fn),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.long(),
        lambda: tensor.bool(),
        lambda: tensor.t() if tensor.ndim == 2 else tensor[None],
        lambda: tensor[:0],
        lambda: tensor[:1].expand(10**9, *tensor.shape[1:]),
        lambda: torch.zeros(()),
        lambda: [tensor],
        lambda: {"a": tensor},
        lambda: "text",
        lambda: Executes(),
    ]
    with_code = rng.choice(choices)
    return with_code()


def spoil_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Change the header, its length or the numbers of a safetensors file."""
    (n,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + n], data[8 + n :]
    kind = rng.randrange(6)
    if kind == 0:
        return struct.pack("<Q", rng.choice([0, 1, n + 1, 2**31, 2**40, 2**63, 2**64 - 1])) + header + body
    if kind == 1:
        body = rng.choice([b"", body[: len(body) // 2], body * 2, b"\xff" * len(body)])
    elif kind <= 3:
        header = spoil_json(header, rng)
    else:
        tree = json.loads(header)
        about = tree["__metadata__"]
        key = rng.choice(list(about))
        about[key] = spoil_json(about[key].encode(), rng).decode(errors="replace")
        header = json.dumps(tree).encode()
    return struct.pack("<Q", len(header)) + header + body


# ---------------------------------------------------------------------------------------------------------------- TOML

TOML_VALUES = [
    "-1", "0", "10**9", "1000000000", "9223372036854775807", "9" * 5000, "1e308", "nan", "inf", '""', '"x"', "true",
    "[]", "[[]]", "[1, 'a']", "{}", "{a = 1}", "1979-05-27", '"' + "x" * 10_000 + '"', f'"{PLANTED}:Hopper-v4"',
    f'["{PLANTED}:Hopper-v4"]', '["Hopper-v4", "Hopper-v4"]', '["../../x"]', '"[/red]"', '"$x"', '"=1"', '"a\\u0000b"',
    "[" * 50_000, "[" * 900 + "]" * 900, "[0.1, nan]", "[1, 2, 3, 4]", '["all"]', '"all"',
]  # fmt: skip
TOML_KEYS = [
    "title", "about", "environments", "methods", "seeds", "first_seed", "demos", "pairs", "run.evaluations",
    "run.device", "run.precision", "run.final_episodes", "run.checkpoint", "run.env", "dataset.error", "dataset.clip",
    "dataset.levels", "dataset.noise", "dataset.demos", "dataset", "run", "method.bc.steps", "method.bc.clone.updates",
    "method.x.of", "environment.Hopper-v4.data", "environment.Hopper-v4.method.bc.steps", "report.baseline",
    "report.tables", "report", "nonsense", "a.b.c.d.e",
]  # fmt: skip


def toml(rng: random.Random) -> bytes:
    """Draw an experiment file with a few hostile settings."""
    given = {"environments": '["Hopper-v4"]', "methods": '["bc"]', "seeds": "2", "demos": "2", "pairs": "20"}
    for _ in range(rng.randrange(1, 3)):
        given[rng.choice(TOML_KEYS)] = rng.choice(TOML_VALUES)
    text = "\n".join(f"{key} = {value}" for key, value in given.items())
    return spoil_bytes(text.encode(), rng) if rng.random() < 0.15 else text.encode()


WORDS = [
    "", " ", "0", "-1", "1", "2.5", "nan", "inf", "-inf", "1e400", "9" * 5000, "2147483648", "9223372036854775808", "x",
    "--", "-", "=", "None", "True", "../../x", "/dev/zero", "/dev/null", "/proc/self/mem", ".", "/", "a" * 300,
    "a" * 100_000, "ü\U0001f600", "a\nb", "[/red]", "$x$", "Hopper-v4", "Hopper-v99", "FrozenLake-v1", "CartPole-v1",
    "Reach-v0", "a/b/c", "cpu", "cuda", "cuda:99", "meta", "float32", "expert=", "=x.zip", "expert=x.zip", "expert+2",
]  # fmt: skip
