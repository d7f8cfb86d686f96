"""How a source is reached: compression, TLS, names that move, and a second address when the first is gone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from clusters.certificates import Authority
from servers.compatibility import Reads
from servers.fixtures import Pool
from servers.ingest import SEMI_SYNC, Ingest
from servers.workload import PACKET_LIMIT, Workload

from kingbus_node.demo.instance import Options
from kingbus_node.demo.servers import Flavor
from kingbus_node.source.reader import SourceState

RELEASES = ("mysql-9.7", "mariadb-10.11", "mariadb-11.8")
BEST = ["zstd", "zlib", "uncompressed"]


def flavor_of(release: str) -> Flavor:
    return Flavor.MYSQL if release.startswith("mysql") else Flavor.MARIADB


@pytest.mark.parametrize(
    ("release", "algorithm", "tls"),
    [
        ("mysql-9.7", "zstd", "required"),
        ("mysql-9.7", "zlib", "disabled"),
        ("mariadb-10.11", "zlib", "required"),
        ("mariadb-11.8", "zlib", "disabled"),
    ],
)
def test_a_compressed_stream_is_stored_as_it_was(
    release: str, algorithm: str, tls: str, pool: Pool, tmp_path: Path, reads: Reads
) -> None:
    """Asynchronous first and then semi-sync, whose acknowledgements are compressed as well."""
    source = pool.server(release, {**SEMI_SYNC[flavor_of(release)], **certificate(tmp_path, ["127.0.0.1"])})
    work = Workload(source).create()
    work.everything()
    work.event_sizes((PACKET_LIMIT - 1, PACKET_LIMIT))
    ingest = Ingest(tmp_path / "ingest", source)
    for semi_sync in (False, True):
        with ingest.running(compression=[algorithm], tls={"mode": tls}, semi_sync=semi_sync) as running:
            running.wait_for(SourceState.CONNECTED)
            work.blobs((PACKET_LIMIT,))
            work.small()
            running.wait_all()
            running.assert_holds_the_source_files()
            status = running.status()
            assert (status.compression, status.tls is not None) == (algorithm, tls == "required")
            assert (status.acks > 0, status.reconnects) == (semi_sync, 0)
    reads(source, f"compression: {algorithm}{' within TLS' if tls == 'required' else ''}, then with semi-sync")


@pytest.mark.parametrize("algorithm", ["zstd", "zlib"])
def test_a_compressed_stream_cut_anywhere_leaves_no_gap(algorithm: str, pool: Pool, tmp_path: Path) -> None:
    source = pool.server("mysql-9.7")
    work = Workload(source).create()
    work.everything()
    proxy = pool.proxy(source.port)
    ingest = Ingest(tmp_path / "ingest", source, port=proxy.port, entry_bytes=5_000)
    chance = random.Random(4)
    proxy.cut_after(iter([chance.randrange(3_000, 60_000) for _ in range(30)]))
    with ingest.running(compression=[algorithm], tls={"mode": "disabled"}) as running:
        running.wait_all()
        work.everything()
        running.wait_all()
        running.assert_holds_the_source_files()
        assert running.status().reconnects >= 5


def test_the_best_that_a_mysql_source_offers_is_used(pool: Pool, tmp_path: Path, reads: Reads) -> None:
    source = pool.server("mysql-9.7")
    work = Workload(source).create()
    ingest = Ingest(tmp_path / "ingest", source)
    for offered, allowed, used in (
        ("zlib,zstd,uncompressed", BEST, "zstd"),
        ("zlib,zstd,uncompressed", ["zlib", "zstd"], "zlib"),
        ("zlib,zstd,uncompressed", ["uncompressed"], None),
        ("zlib,uncompressed", BEST, "zlib"),
        ("uncompressed", BEST, None),
    ):
        source.sql(f"SET GLOBAL protocol_compression_algorithms = '{offered}'")
        work.small(5)
        with ingest.running(compression=allowed) as running:
            running.wait_all()
            assert running.status().compression == used
            running.assert_holds_the_source_files()
    refused = "source.compression allows zstd, zlib, but the source offers uncompressed only"
    with ingest.running(compression=["zstd", "zlib"]) as running:
        assert refused in (running.wait_for(SourceState.REFUSED).error or "")
    source.sql("SET GLOBAL protocol_compression_algorithms = 'zstd'")  # from now on it lets nobody in without
    with ingest.running(compression=["uncompressed"]) as running:
        assert "expected source.compression to name what it insists on" in (
            running.wait_for(SourceState.REFUSED).error or ""
        )
    reads(source, "compression: the first of a list that is offered")


@pytest.mark.parametrize("release", RELEASES[1:])
def test_the_best_that_a_mariadb_source_offers_is_used(release: str, pool: Pool, tmp_path: Path, reads: Reads) -> None:
    source = pool.server(release)
    Workload(source).create().small(5)
    ingest = Ingest(tmp_path / "ingest", source)
    with ingest.running(compression=BEST) as running:
        running.wait_all()
        assert running.status().compression == "zlib"
        running.assert_holds_the_source_files()
    refused = "source.compression allows zstd, but the source offers zlib and uncompressed only"
    with ingest.running(compression=["zstd"]) as running:
        assert refused in (running.wait_for(SourceState.REFUSED).error or "")
    reads(source, "compression: the first of a list that is offered")


def certificate(folder: Path, hosts: list[str]) -> Options:
    """Server options for a certificate for these names, of a CA in `folder`."""
    files = Authority(folder / "tls").issue("server", hosts)
    for path in (files.ca, files.cert, files.key):
        path.chmod(0o644)  # a server that is started by root runs as another user
    return {"ssl-ca": str(files.ca), "ssl-cert": str(files.cert), "ssl-key": str(files.key)}


def without_tls(release: str) -> Options:
    """Server options that switch TLS off."""
    return {"tls-version": ""} if release.startswith("mysql") else {"skip-ssl": None}


def outcome(ingest: Ingest, mode: str, **files: Path) -> str:
    """What comes of a connection with these settings: the version of TLS, "in clear", or why it is refused."""
    with ingest.running(tls={"mode": mode, **files}) as running:
        state = (SourceState.CONNECTED, SourceState.REFUSED)
        running.wait_for(*state)
        status = running.status()
        if status.state is SourceState.REFUSED:
            return status.error or ""
        running.wait_all()
        running.assert_holds_the_source_files()
        return status.tls or "in clear"


@pytest.mark.parametrize("release", RELEASES)
def test_each_tls_mode_lets_in_what_it_should(release: str, pool: Pool, tmp_path: Path, reads: Reads) -> None:
    """As MySQL's --ssl-mode; at a source with a certificate for its address, and one for another name."""
    right, other = certificate(tmp_path / "right", ["127.0.0.1"]), certificate(tmp_path / "other", ["db.example"])
    ca, stranger = Path(str(right["ssl-ca"])), Authority(tmp_path / "stranger").ca
    ingest = ingest_of(pool, tmp_path, release, right)
    assert outcome(ingest, "disabled") == "in clear"
    for mode in ("preferred", "required", "verify-ca", "verify-identity"):
        assert outcome(ingest, mode, ca=ca).startswith("TLSv1")
    for mode in ("preferred", "required"):  # these do not look at it
        assert outcome(ingest, mode, ca=stranger).startswith("TLSv1")
    for mode in ("verify-ca", "verify-identity"):
        assert "certificate does not pass" in (refusal := outcome(ingest, mode, ca=stranger))
        assert "was it issued by source.tls.ca?" in refusal

    ca = Path(str(other["ssl-ca"]))
    ingest = ingest_of(pool, tmp_path / "other", release, other)
    assert outcome(ingest, "verify-ca", ca=ca).startswith("TLSv1")
    assert "source.endpoints must name the source as it does" in outcome(ingest, "verify-identity", ca=ca)
    for mode in ("disabled", "preferred", "required", "verify-ca", "verify-identity"):
        reads(ingest.source, f"TLS: {mode}")


@pytest.mark.parametrize("release", RELEASES)
def test_a_source_without_tls_is_refused_by_all_modes_that_need_it(
    release: str, pool: Pool, tmp_path: Path, reads: Reads
) -> None:
    ca = Authority(tmp_path / "ca").ca
    ingest = ingest_of(pool, tmp_path, release, without_tls(release))
    for mode in ("disabled", "preferred"):
        assert outcome(ingest, mode) == "in clear"
    for mode in ("required", "verify-ca", "verify-identity"):
        assert f"source.tls.mode is {mode}, but 127.0.0.1 offers no TLS" in outcome(ingest, mode, ca=ca)
    reads(ingest.source, "TLS: a source that has none, in clear or refused as the mode says")


@pytest.mark.parametrize("release", RELEASES)
def test_an_account_that_needs_a_certificate_is_let_in_with_one(
    release: str, pool: Pool, tmp_path: Path, reads: Reads
) -> None:
    options = certificate(tmp_path, ["127.0.0.1"])
    ingest = ingest_of(pool, tmp_path, release, options)
    ingest.source.sql("ALTER USER repl@'%' REQUIRE X509")
    ca, cert, key = (Path(str(options[f"ssl-{name}"])) for name in ("ca", "cert", "key"))
    assert "Access denied" in outcome(ingest, "required")
    assert outcome(ingest, "verify-identity", ca=ca, cert=cert, key=key).startswith("TLSv1")
    reads(ingest.source, "TLS: a source that wants the certificate of the cluster (REQUIRE X509)")


def ingest_of(pool: Pool, folder: Path, release: str, options: Options) -> Ingest:
    folder.mkdir(exist_ok=True)
    source = pool.server(release, options)
    Workload(source).create().small(5)
    return Ingest(folder / "ingest", source)
