"""The compressed protocol carries any stream of bytes, however it is cut, and believes no length."""

from __future__ import annotations

import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kingbus_node.wire.compression import ZSTD_LEVELS, Algorithm, Compression
from kingbus_node.wire.errors import ProtocolError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

both = pytest.mark.parametrize("algorithm", list(Algorithm))


def all_of(compression: Compression, data: bytes) -> bytes:
    """What the pieces in `data` hold, as a connection would read them."""
    out = bytearray()
    piece = compression.inflate(data)
    while piece:
        out += piece
        piece = compression.inflate()
    return bytes(out)


def piece_of(body: bytes, size: int) -> bytes:
    return len(body).to_bytes(3, "little") + b"\0" + size.to_bytes(3, "little") + body


@given(
    st.lists(st.binary(max_size=200) | st.sampled_from([b"a" * 300_000, bytes(40)]), max_size=5),
    st.integers(1, 99),
    st.sampled_from(Algorithm),
    st.sampled_from(ZSTD_LEVELS),
)
def test_what_goes_in_comes_out(buffers: list[bytes], cut: int, algorithm: Algorithm, level: int) -> None:
    ours, theirs = Compression(algorithm, level), Compression(algorithm)
    ours.number = 1
    wire = b"".join(ours.deflate(buffers))
    found = b"".join(all_of(theirs, wire[at : at + cut]) for at in range(0, len(wire), cut))
    assert found == b"".join(buffers)
    assert theirs.number == (ours.number if wire else 0)


@both
def test_pieces_are_numbered_and_short_ones_are_not_compressed(algorithm: Algorithm) -> None:
    ours = Compression(algorithm)
    ours.number = 255
    first, second = ours.deflate([b"x" * (256 * 1024), b"y" * 10])
    assert (first[3], second[3]) == (255, 0)
    assert int.from_bytes(first[4:7], "little") == 256 * 1024
    assert second == b"\x0a\0\0\0\0\0\0" + b"y" * 10


@both
def test_what_would_become_longer_is_not_compressed(algorithm: Algorithm) -> None:
    noise = bytes(range(256))
    assert Compression(algorithm).deflate([noise]) == [b"\0\x01\0\0\0\0\0" + noise]


def test_a_higher_level_of_zstd_gives_fewer_bytes() -> None:
    text = b"".join(b"row %d of %d;" % (n * n, n) for n in range(15_000))
    sizes = [sum(map(len, Compression(Algorithm.ZSTD, level).deflate([text]))) for level in (1, 22)]
    assert sizes[1] < sizes[0] * 0.95


@pytest.mark.parametrize("level", [0, 23, -1])
def test_a_level_that_does_not_exist_is_refused(level: int) -> None:
    with pytest.raises(ValueError, match=f"expected a level of 1 to 22, found {level}"):
        Compression(Algorithm.ZSTD, level)


def test_an_answer_is_numbered_after_the_question_but_acknowledgements_change_nothing() -> None:
    ours = Compression()
    assert ours.inflate(b"\x02\0\0\0\0\0\0ab") == b"ab"
    assert ours.number == 1
    ours.number = 77
    assert ours.inflate_aside(b"\x02\0\0\0\0\0\0ab") == b"ab"
    assert ours.number == 77


def test_a_piece_of_nothing_does_not_hide_the_next_one() -> None:
    assert Compression().inflate(bytes(7) + b"\x02\0\0\x01\0\0\0ab") == b"ab"


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (zlib.compress(bytes(1000)), 999),
        (zlib.compress(bytes(1000)), 1001),
        (zlib.compress(bytes(1000)) + b"more", 1000),
        (zlib.compress(bytes(1000))[:-1], 1000),
        (b"no zlib at all", 5),
        (zstd.compress(bytes(1000)), 1000),
        (zlib.compress(bytes(50_000_000)), 0xFFFFFF),
    ],
)
def test_a_length_that_is_wrong_is_refused(body: bytes, size: int) -> None:
    with pytest.raises(ProtocolError):
        Compression().inflate(piece_of(body, size))


def _with_a_long_window() -> bytes:
    machine = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    return machine.compress(bytes(1000)) + machine.flush()


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (zstd.compress(bytes(1000)), 999),
        (zstd.compress(bytes(1000)), 1001),
        (zstd.compress(bytes(1000)) + b"more", 1000),
        (zstd.compress(bytes(500)) + zstd.compress(bytes(500)), 1000),
        (zstd.compress(bytes(1000))[:-1], 1000),
        (b"no zstd at all", 5),
        (zlib.compress(bytes(1000)), 1000),
        (zstd.compress(bytes(200_000_000)), 0xFFFFFF),
        (_with_a_long_window(), 1000),
    ],
)
def test_the_same_holds_for_zstd(body: bytes, size: int) -> None:
    with pytest.raises(ProtocolError):
        Compression(Algorithm.ZSTD).inflate(piece_of(body, size))


@pytest.mark.parametrize("level", [1, 22])
def test_the_longest_piece_that_a_client_can_send_is_read(level: int) -> None:
    data = bytes(0xFFFFFF)
    assert Compression(Algorithm.ZSTD).inflate(piece_of(zstd.compress(data, level), len(data))) == data


_MANY_BOMBS = """\
from pathlib import Path
from kingbus_node.wire.compression import Compression, Algorithm, zlib, zstd
size = 0xFFFFFF
body = {compress}(bytes(size))
piece = len(body).to_bytes(3, "little") + bytes(1) + size.to_bytes(3, "little") + body

def most():  # not ru_maxrss: that is inherited, and whoever starts this has had much more
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])

before = most()
theirs = Compression(Algorithm.{algorithm})
assert len(theirs.inflate(piece * 40)) == size
for _ in range(39):
    assert len(theirs.inflate()) == size
assert theirs.inflate() == b""
print(most() - before)
"""


@pytest.mark.parametrize(("algorithm", "compress"), [("ZLIB", "zlib.compress"), ("ZSTD", "zstd.compress")])
def test_forty_pieces_that_grow_a_thousandfold_are_never_held_at_once(algorithm: str, compress: str) -> None:
    """640 MiB in all. In a process of its own, whose memory nothing else uses."""
    code = _MANY_BOMBS.format(algorithm=algorithm, compress=compress)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 * 1024  # KiB
