"""PyTorch's `.pth` files: what was saved is read in both formats, nothing in a file is run, damaged files are refused."""

import argparse
import collections
import contextlib
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from keras_resnets.weights.torch_archive import read_torch_archive

# A writer of its own: pickles of protocol 2 put together from their instructions, as PyTorch writes them.
FALSE, DICT = b"\x89", b"}"


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x0b" + value.to_bytes(11, "little", signed=True)


def named(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def several(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def call(name: str, *arguments: bytes) -> bytes:
    return named(name) + several(*arguments) + b"R"


def mapping(**items: bytes) -> bytes:
    return call("collections.OrderedDict") + b"(" + b"".join(text(k) + v for k, v in items.items()) + b"u"


def finished(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def tensor(key: str, count: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0,
           kind: str = "FloatStorage", view: bytes = b"") -> bytes:  # fmt: skip
    storage = several(text("storage"), named(f"torch.{kind}"), text(key), text("cpu"), number(count), view) + b"Q"
    return call("torch._utils._rebuild_tensor_v2", storage, number(offset), several(*map(number, shape)),
                several(*map(number, strides)), FALSE, call("collections.OrderedDict"))  # fmt: skip


Write = Callable[..., None]


def write_archive(path: Path, saved: bytes, storages: dict[str, np.ndarray], order: str = "little") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_name/data.pkl", finished(saved))
        archive.writestr("some_name/byteorder", order)
        for key, values in storages.items():
            archive.writestr(f"some_name/data/{key}", values.tobytes())


def write_stream(path: Path, saved: bytes, storages: dict[str, np.ndarray], order: str = "little") -> None:
    little = b"\x88" if order == "little" else FALSE
    parts = [number(0x1950A86A20F9469CFC6C), number(1001), mapping(little_endian=little), saved,
             b"](" + b"".join(map(text, storages)) + b"e"]  # fmt: skip
    bodies = [values.size.to_bytes(8, "little") + values.tobytes() for values in storages.values()]
    path.write_bytes(b"".join(map(finished, parts)) + b"".join(bodies))


both = pytest.mark.parametrize("write", [write_archive, write_stream])
COUNTING = np.arange(24, dtype="float32")


@both
def test_tensors(tmp_path: Path, write: Write) -> None:
    """Two tensors share a storage; one is transposed, one begins in the middle, one is a scalar, one is repeated, one empty."""
    path = tmp_path / "net.pth"
    saved = mapping(
        whole=tensor("7", 24, (4, 6), (6, 1)),
        transposed=tensor("7", 24, (6, 4), (1, 6)),
        middle=tensor("7", 24, (2, 3), (3, 1), offset=5),
        scalar=tensor("8", 1, (), (), kind="LongStorage"),
        repeated=tensor("9", 2, (3, 2), (0, 1), kind="HalfStorage"),
        empty=tensor("9", 2, (0, 5), (5, 1), kind="HalfStorage"),
        epoch=number(90),
    )
    write(path, saved, {"7": COUNTING, "8": np.array(-3), "9": np.array([1.5, -2], "float16")})
    read = read_torch_archive(path)
    expected = {
        "whole": COUNTING.reshape(4, 6),
        "transposed": COUNTING.reshape(4, 6).T,
        "middle": COUNTING[5:11].reshape(2, 3),
        "scalar": np.array(-3),
        "repeated": np.array([[1.5, -2]] * 3, "float16"),
        "empty": np.zeros((0, 5), "float16"),
    }
    assert list(read) == list(expected)
    for name, array in expected.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


@both
@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("DoubleStorage", np.array([1.5, -2e300])),
        ("IntStorage", np.array([-1, 1 << 30], "int32")),
        ("ShortStorage", np.array([-300, 7], "int16")),
        ("CharStorage", np.array([-3, 7], "int8")),
        ("ByteStorage", np.array([250, 7], "uint8")),
        ("BoolStorage", np.array([True, False])),
    ],
)
def test_types(tmp_path: Path, write: Write, kind: str, values: np.ndarray) -> None:
    write(tmp_path / "net.pth", mapping(x=tensor("0", 2, (2,), (1,), kind=kind)), {"0": values})
    (read,) = read_torch_archive(tmp_path / "net.pth").values()
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, values)


@both
def test_bfloat16_is_the_upper_half_of_float32(tmp_path: Path, write: Write) -> None:
    halves = np.array([1.5, -3.0], "float32").view("uint16")[1::2].copy()
    write(tmp_path / "net.pth", mapping(x=tensor("0", 2, (2,), (1,), kind="BFloat16Storage")), {"0": halves})
    (read,) = read_torch_archive(tmp_path / "net.pth").values()
    assert read.dtype.name == "bfloat16"
    np.testing.assert_array_equal(read.astype("float32"), [1.5, -3.0])


@both
@pytest.mark.parametrize("wrappers", [(), ("state_dict",), ("model",), ("model", "state_dict"), ("model_state",)])
def test_state_dictionary_is_found(tmp_path: Path, write: Write, wrappers: tuple[str, ...]) -> None:
    saved = mapping(**{"module.fc.weight": tensor("0", 24, (24,), (1,)), "module.fc.bias": tensor("0", 24, (2,), (1,))})
    for wrapper in reversed(wrappers):
        beside = {"epoch": number(3), "best": tensor("0", 24, (), ()), "args": call("argparse.Namespace")}
        saved = mapping(**beside, **{wrapper: saved})
    write(tmp_path / "net.pth", saved, {"0": COUNTING})
    assert list(read_torch_archive(tmp_path / "net.pth")) == ["fc.weight", "fc.bias"]


def test_view_of_a_storage(tmp_path: Path) -> None:
    """The older format has references to parts of storages."""
    view = several(text("11"), number(6), number(4))
    write_stream(tmp_path / "net.pth", mapping(x=tensor("0", 24, (2,), (1,), 1, view=view)), {"0": COUNTING})
    np.testing.assert_array_equal(read_torch_archive(tmp_path / "net.pth")["x"], [7, 8])


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_files_of_pytorch(tmp_path: Path, archive: bool, protocol: int) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch writes the files of this test")
    base = torch.arange(24.0)
    state = collections.OrderedDict(
        base=base.reshape(4, 6), transposed=base.reshape(4, 6).t(), middle=base[5:11], repeated=base[:1].expand(3, 4),
        empty=torch.zeros(0, 3), scalar=torch.tensor(7), parameter=torch.nn.Parameter(torch.randn(2, 2)),
        float16=torch.randn(3).half(), bfloat16=torch.randn(5).bfloat16(), float64=torch.randn(2).double(),
        bool=torch.tensor([True, False]), uint8=torch.arange(3, dtype=torch.uint8), last=torch.randn(3, 2, 1, 1),
    )  # fmt: skip
    beside = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "accuracy": np.float64(76.1), "device": torch.device("cpu"),
              "size": base.shape, "optimizer": {"state": {0: {"momentum": base}}, "betas": (0.9, 0.99)}}  # fmt: skip
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    for saved, tensors in (
        (state, state),
        ({**beside, "model": state}, state),
        (module.state_dict(), module.state_dict()),
    ):
        torch.save(saved, tmp_path / "net.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=archive)
        read = read_torch_archive(tmp_path / "net.pth")
        assert list(read) == list(tensors)
        for name, value in tensors.items():
            assert read[name].dtype.name == str(value.dtype).removeprefix("torch.")
            np.testing.assert_array_equal(read[name].astype("float64"), value.detach().double().numpy(), name)


def shell(target: Path) -> bytes:
    return text(f"touch {target}")


HOSTILE = {
    "reduce": lambda target: call("os.system", shell(target)),
    "inside a tensor": lambda target: mapping(x=call("torch._utils._rebuild_parameter", call("os.system", shell(target)))),
    "instance": lambda target: b"(" + shell(target) + b"ios\nsystem\n",
    "object": lambda target: b"(" + named("os.system") + shell(target) + b"o",
    "stack global": lambda target: b"\x8c\x02os\x8c\x06system\x93" + several(shell(target)) + b"R",
    "nested getattr": lambda target: (
        call("builtins.getattr", call("importlib.import_module", text("os")), text("system"))
        + several(shell(target)) + b"R"
    ),
    "eval": lambda target: call("builtins.eval", text(f"open({str(target)!r}, 'w').close()")),
    "attributes": lambda target: (
        call("collections.OrderedDict") + DICT + text("x") + call("os.system", shell(target)) + b"sb"
    ),
    "subprocess": lambda target: call("subprocess.getoutput", shell(target)),
    "python 2": lambda target: call("posix.system", shell(target)),
    "storage kind": lambda target: several(text("storage"), call("os.system", shell(target))) + b"Q",
}  # fmt: skip
ASKED_FOR = {"nested getattr": "builtins.getattr", "eval": "builtins.eval", "subprocess": "subprocess.getoutput",
             "python 2": "posix.system"}  # fmt: skip


class ToleratesReferences(pickle.Unpickler):
    def persistent_load(self, reference: object) -> object:
        return reference


@both
@pytest.mark.parametrize("how", HOSTILE)
def test_nothing_is_run(tmp_path: Path, write: Write, how: str) -> None:
    """Python's own reader runs the same pickles: the attack is real."""
    target, path = tmp_path / "was_here", tmp_path / "hostile.pth"
    attack = HOSTILE[how](target)
    path.write_bytes(finished(attack))
    if how != "inside a tensor":  # which needs PyTorch
        with path.open("rb") as file, contextlib.suppress(TypeError):
            ToleratesReferences(file).load()
        assert target.exists()
        target.unlink()
    write(path, attack, {})
    with pytest.raises(
        ValueError, match=rf"hostile.pth' is refused: its pickle asks for {ASKED_FOR.get(how, 'os.system')},"
    ):
        read_torch_archive(path)
    assert not target.exists()


@both
def test_a_whole_module_is_refused(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "net.pth", call("torchvision.models.resnet.ResNet"), {})
    with pytest.raises(ValueError, match="asks for torchvision.models.resnet.ResNet"):
        read_torch_archive(tmp_path / "net.pth")


@both
def test_every_truncation_is_noticed(tmp_path: Path, write: Write) -> None:
    saved = mapping(a=tensor("0", 24, (4, 6), (6, 1)), b=tensor("1", 3, (3,), (1,)))
    write(tmp_path / "net.pth", saved, {"0": COUNTING, "1": COUNTING[:3]})
    whole = (tmp_path / "net.pth").read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut.pth' is not a whole PyTorch checkpoint: "):
            read_torch_archive(tmp_path / "cut.pth")


def deep(levels: int) -> bytes:
    """A tuple in a tuple in a tuple …, as the key of a dictionary."""
    return DICT + b")" + b"\x85" * levels + number(0) + b"s"


X = {"0": COUNTING}
DAMAGED = {
    "no tensors": (mapping(epoch=number(3)), {}, "it holds no tensors by name"),
    "not a dictionary": (several(number(1)), {}, "it holds no tensors by name"),
    "a bare tensor": (tensor("0", 24, (24,), (1,)), X, "it holds no tensors by name"),
    "itself inside": (b"}q\x00X\x05\x00\x00\x00modelh\x00s", {}, "it holds no tensors by name"),
    "deep": (deep(100_000), {}, "it holds no tensors by name"),
    "beyond": (mapping(x=tensor("0", 24, (5, 5), (5, 1))), X, r"shape \(5, 5\) reaches beyond"),
    "beyond by offset": (mapping(x=tensor("0", 24, (2,), (1,), 23)), X, "reaches beyond"),
    "beyond by stride": (mapping(x=tensor("0", 24, (2,), (1 << 80,))), X, "reaches beyond"),
    "negative offset": (mapping(x=tensor("0", 24, (2,), (1,), -1)), X, "a tensor that cannot be"),
    "negative stride": (mapping(x=tensor("0", 24, (2,), (-1,), 5)), X, "a tensor that cannot be"),
    "negative size": (mapping(x=tensor("0", 24, (-2,), (1,))), X, "a tensor that cannot be"),
    "strides missing": (mapping(x=tensor("0", 24, (2, 2), (1,))), X, "a tensor that cannot be"),
    "longer storage": (mapping(x=tensor("0", 25, (2,), (1,))), X, "storage 0"),
    "other type": (mapping(x=tensor("0", 24, (2,), (1,)), y=tensor("0", 24, (2,), (1,), kind="IntStorage")), X, "two ways"),
    "absent storage": (mapping(x=tensor("1", 24, (2,), (1,))), X, "storage"),
    "huge memo": (b"}r\xff\xff\xff\x7fX\x01\x00\x00\x00aj\xff\xff\xff\x7e0", {}, ""),
    "calls a number": (number(1) + several() + b"R", {}, "not a function"),
    "takes too much": (b"\x86", {}, "takes more than it made"),
    "no mark": (b"t", {}, ""),
    "extension": (b"\x82\x01", {}, "instruction EXT1"),
    "a tensor of nothing": (mapping(x=call("torch._utils._rebuild_tensor_v2")), {}, "missing"),
    "other reference": (several(text("module"), FALSE, FALSE, FALSE, FALSE) + b"Q", {}, "something else than a storage"),
}  # fmt: skip


@both
@pytest.mark.parametrize("damage", DAMAGED)
def test_damage(tmp_path: Path, write: Write, damage: str) -> None:
    saved, storages, message = DAMAGED[damage]
    write(tmp_path / "bad.pth", saved, storages)
    with pytest.raises(ValueError, match=rf"bad.pth' is not a whole PyTorch checkpoint: .*{message}"):
        read_torch_archive(tmp_path / "bad.pth")


@both
def test_big_endian_is_refused(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "net.pth", mapping(x=tensor("0", 24, (24,), (1,))), X, order="big")
    with pytest.raises(ValueError, match="big-endian"):
        read_torch_archive(tmp_path / "net.pth")


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    bodies = {"empty": b"", "text": b"class Text: pass\n", "page": b"<!DOCTYPE html>", "pickle": pickle.dumps({"a": 1}),
              "zeros": bytes(4096), "safetensors": b"\x02\0\0\0\0\0\0\0{}", "other number": finished(number(5)) * 5}  # fmt: skip
    for body in bodies.values():
        path.write_bytes(body)
        with pytest.raises(ValueError, match="other.pth' is not a whole PyTorch checkpoint: "):
            read_torch_archive(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no pickle")
    with pytest.raises(ValueError, match="has no data.pkl"):
        read_torch_archive(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", finished(mapping(epoch=number(1))))
    with pytest.raises(ValueError, match="damaged or compressed"):
        read_torch_archive(path)
    for absent in (tmp_path, tmp_path / "absent.pth"):
        with pytest.raises(ValueError, match="is not a file"):
            read_torch_archive(absent)


PEAK = """
import resource, sys
from keras_resnets.weights.torch_archive import read_torch_archive
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    print(sum(float(array.sum()) for array in read_torch_archive(path).values()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory(tmp_path: Path) -> None:
    """Everything read once: little more memory than the file."""
    count = 20_000_000
    saved = mapping(x=tensor("0", count, (count,), (1,)), y=tensor("0", count, (count,), (1,)))
    paths = [tmp_path / "archive.pth", tmp_path / "stream.pth"]
    for write, path in zip((write_archive, write_stream), paths, strict=True):
        write(path, saved, {"0": np.ones(count, "float32")})
    command = [sys.executable, "-c", PEAK, *map(str, paths)]
    light = {**os.environ, "KERAS_BACKEND": "numpy"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=light)
    *totals, kilobytes = map(float, run.stdout.split())
    assert totals == [2 * count, 2 * count]
    assert kilobytes * 1024 < 1.3 * 4 * count
