"""Hostile values and files, drawn from a seeded generator."""

from __future__ import annotations

import hashlib
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


def spoil_state(data: bytes, rng: random.Random) -> bytes:
    """Change a checkpoint's tree or tensors, and write its digest anew, as someone who forges it would."""
    body = spoil_safetensors(data[32:], rng)
    return hashlib.sha256(body).digest() + body


# ---------------------------------------------------------------------------------------------------- HDF5 and pickles


def _datasets(f: Any) -> list[str]:
    import h5py

    names: list[str] = []
    f.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


def spoil_hdf5(data: bytes, rng: random.Random) -> bytes:
    """Replace a dataset of an HDF5 file by another array, a declared size, a link, or a group."""
    import h5py

    out = io.BytesIO(data)
    with h5py.File(out, "r+") as f:
        name = rng.choice(_datasets(f))
        array = f[name][()]
        if rng.random() < 0.4:
            with np.errstate(all="ignore"):
                changed = np.asarray(_change_array(np.asarray(array), rng))
            del f[name]
            f[name] = changed.astype("S") if changed.dtype.kind == "U" else changed
        else:
            del f[name]
            rng.choice(_HDF5)(f, name)
    return out.getvalue()


def _virtual(f: Any, name: str) -> None:
    import h5py

    layout = h5py.VirtualLayout(shape=(10,), dtype="f8")
    layout[:] = h5py.VirtualSource("policy.zip", "obs", shape=(10,))
    f.create_virtual_dataset(name, layout)


def _link(f: Any, name: str, path: str, external: str = "") -> None:
    import h5py

    f[name] = h5py.ExternalLink(external, path) if external else h5py.SoftLink(path)


def _nest(f: Any, name: str) -> None:
    group = f.create_group(name)
    for _ in range(500):
        group = group.create_group("a")


_HDF5: list[Callable[[Any, str], Any]] = [
    lambda f, name: None,
    lambda f, name: f.create_dataset(name, (10**12,), "f4", chunks=(10**6,)),
    lambda f, name: f.create_dataset(name, (10**6, 10**6), "f8", chunks=(1000, 1000)),
    lambda f, name: f.create_dataset(name, (3 * 2**28,), "f8", chunks=(2**20,), compression="gzip"),
    lambda f, name: f.create_dataset(name, (10,), "f8", external=[("/dev/zero", 0, 80)]),
    lambda f, name: f.create_dataset(name, (3, 0), "f8"),
    lambda f, name: f.create_dataset(name, data=[b"text", b"x"]),
    lambda f, name: f.create_dataset(name, data="text"),
    lambda f, name: f.create_dataset(name, data=np.zeros(4, [("a", "f8"), ("b", "i4")])),
    lambda f, name: f.create_dataset(name, data=np.full((5, 3), np.nan)),
    lambda f, name: f.create_dataset(name, data=np.zeros((2, 3, 4, 5))),
    lambda f, name: f.create_group(name),
    lambda f, name: _link(f, name, f"/{name}"),
    lambda f, name: _link(f, name, "/nothing"),
    lambda f, name: _link(f, name, "/", "/dev/zero"),
    lambda f, name: _link(f, name, "/obs", "mine.hdf5"),
    _virtual,
    _nest,
]

_PICKLES: list[Callable[[], bytes]] = [
    lambda: pickle.dumps(Executes()),
    lambda: b"(" * DEEP + b".",
    lambda: b"\x80\x04" + b"]" * DEEP + b"a" * (DEEP - 1) + b".",
    lambda: b"\x80\x04" + b")\x85" * DEEP + b".",
    lambda: b"\x80\x04]" + b"(2222222222e" * 40 + b".",  # doubles its list again and again
    lambda: b"\x80\x04\x8b" + struct.pack("<I", 2**31 - 1) + b"\1.",
    lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    lambda: b"\x80\x04r" + struct.pack("<I", 2**32 - 1) + b".",
    lambda: b"\x80\x04Nr\xff\xff\xff\x7f.",  # a memo of 2^31 places
    lambda: b"I" + b"9" * 10_000 + b"\n.",
    lambda: b"cos\nsystem\n(S'touch " + SENTINEL.encode() + b"'\ntR.",
    lambda: pickle.dumps({"obs_rms": np.zeros(3), "clip_obs": 10.0}),
    lambda: pickle.dumps(np.array([Executes()], dtype=object)),
]


def spoil_pickle(data: bytes, rng: random.Random) -> bytes:
    """Change the numbers or bytes of a VecNormalize file, or replace it by a pickle that is hard to load."""
    kind = rng.randrange(4)
    if kind == 0:
        return spoil_bytes(data, rng)
    if kind == 1:
        return rng.choice(_PICKLES)()
    saved = pickle.loads(data)
    saved.__dict__ |= {"class_attributes": {}, "returns": None}  # neither is saved, both are needed to save it again
    owner, name = rng.choice([(saved, "clip_obs"), (saved, "epsilon"), (saved.obs_rms, "mean"), (saved.obs_rms, "var")])
    odd = [
        np.zeros((2, 2)),
        np.array([Executes()], object),
        np.full(3, np.nan),
        np.full(3, -1.0),
        np.zeros(0),
        Executes(),
    ]
    setattr(owner, name, rng.choice([scalar(rng), *odd]))
    return pickle.dumps(saved)


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
    "report.tables", "report", "claim", "claim.better", "nonsense", "a.b.c.d.e",
]  # fmt: skip


def toml(rng: random.Random) -> bytes:
    """Draw an experiment file with a few hostile settings."""
    given = {"environments": '["Hopper-v4"]', "methods": '["bc"]', "seeds": "2", "demos": "2", "pairs": "20"}
    for _ in range(rng.randrange(1, 3)):
        given[rng.choice(TOML_KEYS)] = rng.choice(TOML_VALUES)
    text = "\n".join(f"{key} = {value}" for key, value in given.items())
    return spoil_bytes(text.encode(), rng) if rng.random() < 0.15 else text.encode()


def spoil_toml(data: bytes, rng: random.Random) -> bytes:
    """Change values or keys of a TOML file, or its bytes."""
    if rng.random() < 0.2:
        return spoil_bytes(data, rng)
    lines = data.decode().splitlines()
    at = rng.randrange(len(lines))
    lines[at] = f"{lines[at].partition(' =')[0].strip('# ')} = {rng.choice(TOML_VALUES)}"
    if rng.random() < 0.3:
        lines.append(f"{rng.choice(TOML_KEYS)} = {rng.choice(TOML_VALUES)}")
    return "\n".join(lines).encode()


WORDS = [
    "", " ", "0", "-1", "1", "2.5", "nan", "inf", "-inf", "1e400", "9" * 5000, "2147483648", "9223372036854775808", "x",
    "--", "-", "=", "None", "True", "../../x", "/dev/zero", "/dev/null", "/proc/self/mem", ".", "/", "a" * 300,
    "a" * 100_000, "ü\U0001f600", "a\nb", "[/red]", "$x$", "Hopper-v4", "Hopper-v99", "FrozenLake-v1", "CartPole-v1",
    "Reach-v0", "a/b/c", "cpu", "cuda", "cuda:99", "meta", "float32", "expert=", "=x.zip", "expert=x.zip", "expert+2",
]  # fmt: skip
