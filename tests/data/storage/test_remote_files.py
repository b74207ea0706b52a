from __future__ import annotations

import pickle
import re
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import FaultyProxy, S3Server

from mlclf.addresses import secrets_of, without_credentials
from mlclf.data.parquet.decoding import decode_unit
from mlclf.data.parquet.plan import Plan
from mlclf.data.parquet.planning import make_plan
from mlclf.data.storage import remote_files as remote
from mlclf.data.storage import retries, sources
from mlclf.data.storage.finding import find_sources
from mlclf.data.storage.retries import persist, text_of_fault, verdict_of
from mlclf.data.storage.sources import STEADY, Source
from mlclf.data.storage.uris import open_remote
from mlclf.errors import ChangedDataError, DataError, RemoteError

COLUMNS = [f"c{number:02d}" for number in range(50)]
ROWS, GROUP_ROWS = 40_000, 20_000
PATH = "bucket/data/day=1/a.parquet"
DEADLINE = 1.2


def made_table() -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table({name: rng.random(ROWS, dtype=np.float32) for name in COLUMNS})


TABLE = made_table()


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """A server with one file of two row groups and fifty columns, of 80 kB each in a row group."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        running = S3Server()
        try:
            files = direct(running)
            files.create_dir("bucket")
            put(files, PATH)
            yield running
        finally:
            running.stop()


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultyProxy]:
    running = FaultyProxy(server.port)
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(retries, "ATTEMPT_SECONDS", 0.5)
    monkeypatch.setattr(retries, "DEADLINE_SECONDS", DEADLINE)
    monkeypatch.setattr(remote, "LISTING_SECONDS", DEADLINE)
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.02)


def direct(server: S3Server) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        access_key="anyone",
        secret_key="anything",
        region="us-east-1",
        scheme="http",
        endpoint_override=server.endpoint,
        allow_bucket_creation=True,
    )


def put(files: pafs.FileSystem, path: str) -> None:
    pq.write_table(TABLE, path, filesystem=files, row_group_size=GROUP_ROWS, compression="none", use_dictionary=False)


def uri(endpoint: str, path: str = "bucket/data") -> str:
    return f"s3://AKIAKEY:s%2Fecret@{path}?region=us-east-1&scheme=http&endpoint_override={endpoint}"


def all_rows(plan: Plan) -> pa.Table:
    pieces = [table for unit in plan.units for _, table in decode_unit(plan, unit, COLUMNS, 7_000)]
    return pa.concat_tables(pieces)


@pytest.fixture
def source(proxy: FaultyProxy) -> Source:
    found = find_sources([uri(proxy.endpoint)])[0][0]
    proxy.requests.clear()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        ["503", "500", "503", "503"],
        ["reset", "reset", "reset"],
        ["stall"],
        ["", "", "", "", "truncate", "", "truncate", "truncate"],
        ["503", "reset", "", "stall", "500", "", "", "", "truncate", "reset", "", "503", "stall"],
    ],
    ids=["503s", "resets", "a stall", "truncated", "all"],
)
def test_data_is_the_same_through_faults(
    proxy: FaultyProxy, script: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DEADLINE_SECONDS", 20.0)
    monkeypatch.setattr(remote, "LISTING_SECONDS", 20.0)
    proxy.faults.script = deque(script)
    plan = make_plan(uri(proxy.endpoint))
    assert [unit.rows for unit in plan.units] == [GROUP_ROWS, GROUP_ROWS]
    assert plan.shards[0].partition == {"day": "1"}
    assert all_rows(plan).equals(TABLE)
    assert not proxy.faults.script


def test_only_the_needed_columns_are_fetched(proxy: FaultyProxy, source: Source) -> None:
    metadata = pq.read_metadata(source.filesystem.open_input_file(source.path))
    proxy.requests.clear()
    columns = ["c03", "c04", "c40"]
    with source.open_unit([1], columns, metadata) as file:
        batches = list(file.iter_batches(3_000, row_groups=[1], columns=columns, use_threads=False))
    assert pa.Table.from_batches(batches).equals(TABLE.slice(GROUP_ROWS).select(columns))
    stored = sum(metadata.row_group(1).column(number).total_compressed_size for number in (3, 4, 40))
    reads = [request for request in proxy.requests if request.method == "GET"]
    assert [request.method for request in proxy.requests] == ["HEAD", "GET", "GET"]  # neighbours come in one request
    assert sum(request.body_bytes for request in reads) == stored
    assert stored < source.size_bytes / 30


def test_large_row_groups_are_read_in_buffers(
    proxy: FaultyProxy, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = pq.read_metadata(source.filesystem.open_input_file(source.path))
    monkeypatch.setattr(sources, "READ_AHEAD_BYTES", metadata.row_group(0).column(1).total_compressed_size - 1)
    monkeypatch.setattr(sources, "REMOTE_BUFFER_BYTES", 30_000)
    proxy.requests.clear()
    with source.open_unit([0], ["c01"], metadata) as file:
        assert file.read_row_group(0, columns=["c01"]).equals(TABLE.slice(0, GROUP_ROWS).select(["c01"]))
    assert len(proxy.requests) > 2
    assert all(request.body_bytes <= 90_000 for request in proxy.requests)


def test_long_reads_are_split(proxy: FaultyProxy, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole_file(source)[100:47_600]
    monkeypatch.setattr(remote, "PART_BYTES", 5_000)
    proxy.requests.clear()
    proxy.faults.script = deque(["", "503", "", "reset", "truncate"])
    with source.filesystem.open_input_file(source.path) as file:
        data = file.read_at(47_500, 100)
    assert data == expected
    assert max(request.body_bytes for request in proxy.requests) == 5_000
    ranges = {request.range for request in proxy.requests if request.method == "GET"}
    assert len(ranges) == 10
    assert "bytes=45100-49195" in ranges


def test_ranges_are_fetched_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).integers(0, 256, 100_000, np.uint8).tobytes()
    asked: list[tuple[int, int]] = []
    together = threading.Barrier(5)  # is passed by five requests at once, or by none

    def read_range(start: int, length: int) -> bytes:
        asked.append((start, length))
        if not together.broken:
            together.wait(5)
        return data[start : start + length]

    monkeypatch.setattr(remote, "LEAST_BYTES", 1)
    monkeypatch.setattr(remote, "PART_BYTES", 10_000)
    monkeypatch.setattr(retries, "ATTEMPT_SECONDS", 10.0)
    file = remote.RemoteFile("memory://a", len(data), read_range)
    file.hold([(1_000, 2_000), (30_000, 55_000), (90_000, 90_001)])
    assert sorted(asked) == [(1_000, 1_000), (30_000, 10_000), (40_000, 10_000), (50_000, 5_000), (90_000, 1)]
    together.abort()
    asked.clear()
    for start, length in [(1_000, 1_000), (1_500, 7), (30_000, 25_000), (44_000, 3), (90_000, 1)]:
        file.seek(start)
        assert file.read(length) == data[start : start + length]
    assert not asked
    file.seek(54_000)
    assert file.read(3_000) == data[54_000:57_000]
    assert asked == [(55_000, 2_000)]


def test_files_read_as_streams(source: Source) -> None:
    data = whole_file(source)
    with source.filesystem.open_input_file(source.path) as file:
        assert file.size() == len(data)
        assert (file.read(5), file.tell(), file.read(3)) == (data[:5], 5, data[5:8])
        assert file.seek(-4, 2) == len(data) - 4
        assert (file.read(100), file.read(1), file.read_at(10, len(data))) == (b"PAR1", b"", b"")


def whole_file(source: Source) -> bytes:
    with source.filesystem.open_input_stream(source.path) as file:
        return bytes(file.read())


ENDINGS = {
    "503": r"AWS Error (SLOW_DOWN during GetObject operation: no|SERVICE_UNAVAILABLE during GetObject operation)",
    "reset": r"AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: .*",
    "truncate": r"AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 18, Transferred a partial file.*",
    "stall": r"no answer within 0\.\d+ seconds",
    "drip": r"no answer within 0\.\d+ seconds",
}
READERS: dict[str, Callable[[pq.ParquetFile], object]] = {
    "503": lambda file: file.read_row_group(1, columns=["c03"]),
    "reset": lambda file: list(file.iter_batches(row_groups=[1], columns=["c03"], use_threads=False)),
    "truncate": lambda file: list(file.iter_batches(row_groups=[1], columns=["c03", "c40"], use_threads=False)),
    "stall": lambda file: list(file.iter_batches(row_groups=[1], columns=["c03"])),
    "drip": lambda file: file.read(columns=["c03"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ENDINGS)
def test_lasting_faults_end_by_the_deadline_as_remote_errors_through_pyarrow(
    proxy: FaultyProxy, source: Source, fault: str
) -> None:
    metadata = pq.read_metadata(source.filesystem.open_input_file(source.path))
    started = time.monotonic()
    with source.open_parquet(metadata) as file:
        proxy.faults.always = fault
        message = (
            r"s3://bucket/data/day=1/a\.parquet: reading bytes [\d,]+–[\d,]+: must succeed within 1.2 seconds, "
            rf"\d+ attempts did not, the last with: {ENDINGS[fault]}; "
            r"check the network and the storage service, then start again"
        )
        with pytest.raises(RemoteError, match=f"^{message}$") as caught:
            READERS[fault](file)
    assert time.monotonic() - started < DEADLINE + 1
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, DataError)


def test_ranges_that_never_come_end_by_one_deadline(proxy: FaultyProxy, source: Source) -> None:
    file = source.filesystem.handler.open_file(source.path)
    proxy.faults.always = "503"
    started = time.monotonic()
    with pytest.raises(RemoteError, match=r"^s3://bucket/data/day=1/a\.parquet: reading .*must succeed within 1.2 sec"):
        file.hold([(start, start + 100) for start in range(0, 40_000, 1_000)])
    assert time.monotonic() - started < DEADLINE + 1


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "deed"), [("503", "looking it up"), ("stall", "looking it up")])
def test_planning_ends_by_the_deadline(proxy: FaultyProxy, fault: str, deed: str) -> None:
    proxy.faults.always = fault
    started = time.monotonic()
    with pytest.raises(RemoteError, match=rf"^s3://bucket/data: {deed}: must succeed within 1.2 seconds, \d+ attempts"):
        make_plan(uri(proxy.endpoint))
    assert time.monotonic() - started < 2 * DEADLINE + 1


def test_a_server_that_is_not_there(proxy: FaultyProxy) -> None:
    endpoint = proxy.endpoint
    proxy.stop()
    with pytest.raises(RemoteError, match=r"^s3://bucket/data: looking it up: must succeed .* curlCode: 7, "):
        find_sources([uri(endpoint)])


def test_denials_are_not_retried(proxy: FaultyProxy, source: Source) -> None:
    proxy.faults.always = "403"
    message = (
        "s3://bucket/data/day=1/a.parquet: opening: permission denied (When reading information for key "
        "'data/day=1/a.parquet' in bucket 'bucket': AWS Error ACCESS_DENIED during HeadObject operation: "
        "No response body); check the credentials and who may read it"
    )
    with pytest.raises(PermissionError, match=f"^{re.escape(message)}$"):
        source.open_parquet()
    assert len(proxy.requests) == 1
    with pytest.raises(DataError, match=r"^s3://bucket/data: looking it up: permission denied \(.*\); check the cred"):
        make_plan(uri(proxy.endpoint))
    assert len(proxy.requests) == 2
    proxy.faults.only = ("GET",)
    with (
        source.filesystem.open_input_file(source.path) as file,
        pytest.raises(PermissionError, match="bytes 4–7: perm"),
    ):
        file.read_at(4, 4)
    assert len(proxy.requests) == 4


def test_a_denied_listing(proxy: FaultyProxy) -> None:
    proxy.faults.script = deque(["", "", "403"])
    message = (
        "s3://bucket/data: listing the folder: permission denied (When listing objects under key 'data/' in bucket "
        "'bucket': AWS Error ACCESS_DENIED during ListObjectsV2 operation: no); check the credentials and who may "
        "read it"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        make_plan(uri(proxy.endpoint))


def test_missing_files_are_named_and_not_retried(proxy: FaultyProxy, source: Source) -> None:
    for path in ("bucket/none.parquet", "nobucket/a.parquet"):
        with pytest.raises(DataError, match=rf"^s3://{path}: no such file; check the path$"):
            make_plan(uri(proxy.endpoint, path))
    with pytest.raises(
        DataError, match=r"^s3://bucket/\*.parquet: no such file; patterns are for local files: name the "
    ):
        make_plan(uri(proxy.endpoint, "bucket/*.parquet"))
    proxy.requests.clear()
    proxy.faults.always = "404"
    with pytest.raises(
        FileNotFoundError, match=r"^s3://bucket/data/day=1/a.parquet: opening: there is no such file or "
    ):
        source.open_parquet()
    assert len(proxy.requests) == 1


def test_a_folder_without_parquet_files(server: S3Server) -> None:
    with direct(server).open_output_stream("bucket/notes/readme.txt") as file:
        file.write(b"no")
    with pytest.raises(DataError, match=r"^s3://bucket/notes: no Parquet file in this folder"):
        find_sources([uri(server.endpoint, "bucket/notes")])


def test_the_environment_names_the_server(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "anyone", "SECRET_ACCESS_KEY": "anything", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server.endpoint}")
    assert [source.name for source in find_sources([f"s3://{PATH}"])[0]] == [f"s3://{PATH}"]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    with pytest.raises(RemoteError, match="curlCode: 7"):
        find_sources([f"s3://{PATH}"])
    given = f"s3://{PATH}?endpoint_override=http%3A%2F%2F{server.endpoint}%2F&anonymous=true"
    assert len(find_sources([given])[0]) == 1


def test_options_of_s3_are_known() -> None:
    message = (
        "s3://bucket/a: no S3 option is called 'endpoint', 'regoin'; there are access_key, secret_key, session_token, "
        "role_arn, session_name, external_id, region, scheme, endpoint_override, tls_ca_file_path, anonymous, "
        "force_virtual_addressing"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        open_remote("s3://bucket/a?regoin=x&endpoint=y")
    with pytest.raises(
        RemoteError, match=r"^s3://bucket/a: opening the storage: refused \(.*secret_key.*\); check the "
    ):
        open_remote("s3://bucket/a?region=x&access_key=only")


def test_names_and_versions(server: S3Server) -> None:
    path = "bucket/spaced/a b+c.parquet"
    put(direct(server), path)
    for given in ("bucket/spaced", "bucket/spaced/", "bucket/spaced/a%20b+c.parquet"):
        (found,) = find_sources([uri(server.endpoint, given)])[0]
        assert (found.path, found.is_remote) == (path, True)
        assert found.relative in ("a b+c.parquet", "a%20b+c.parquet")
        assert found.name in (f"s3://{path}", "s3://bucket/spaced/a%20b+c.parquet")
        assert int(found.version) > 1e18


def test_sources_are_told_apart_by_their_server(server: S3Server, proxy: FaultyProxy) -> None:
    found, warnings = find_sources([uri(server.endpoint), uri(proxy.endpoint), uri(server.endpoint)])
    assert [source.relative for source in found] == ["day=1/a.parquet", "day=1/a-2.parquet"]
    assert warnings == ["s3://bucket/data/day=1/a.parquet was given more than once; it is read once"]
    assert found[0].filesystem != found[1].filesystem


def test_sources_travel_to_other_processes(source: Source) -> None:
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert copy.magic() == (b"PAR1", b"PAR1")


@pytest.mark.parametrize("pieces", [0, 1])
def test_an_object_that_is_written_again_is_noticed_by_its_version(server: S3Server, pieces: int) -> None:
    """Other values, in as many bytes and with the same footer."""
    files = direct(server)
    files.create_dir(f"bucket/changed{pieces}")
    path = f"bucket/changed{pieces}/a.parquet"
    columns = {"x": np.arange(2_000.0)}
    options: dict[str, Any] = {"filesystem": files, "row_group_size": 1_000, "compression": "none"}
    options |= {"use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table(columns), path, **options)
    plan = make_plan(uri(server.endpoint, path))
    unit = replace(plan.units[0], groups=(0,), rows=1_000)
    for _ in range(pieces):
        assert sum(table.num_rows for _, table in decode_unit(plan, unit, ["x"], 500)) == 1_000
    pq.write_table(pa.table({"x": columns["x"] + 1}), path, **options)
    message = f"s3://{path}: has changed while it was read: the storage says that it was written again; {STEADY}"
    with pytest.raises(ChangedDataError, match=f"^{re.escape(message)}$"):
        list(decode_unit(plan, unit, ["x"], 500))


def test_magic_does_not_hide_a_fault_of_the_network(proxy: FaultyProxy, source: Source) -> None:
    proxy.faults.always = "503"
    with pytest.raises(RemoteError, match="opening"):
        source.magic()
    proxy.faults.always = "404"
    assert source.magic() == (b"", b"")


def test_remote_data_is_only_read(source: Source) -> None:
    with pytest.raises(NotImplementedError, match=r"^remote data is only read$"):
        source.filesystem.delete_file(source.path)


@pytest.fixture
def memory_uri() -> str:
    with fsspec.filesystem("memory").open("/mlclf-remote/a.parquet", "wb") as file:
        pq.write_table(TABLE, file, row_group_size=GROUP_ROWS)
    return "memory://mlclf-remote"


def test_fsspec_is_read_through_faults(memory_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch, faults, ended = MemoryFileSystem.cat_file, deque(["reset", "", "short", "reset", "stall"]), threading.Event()

    def faulty(self: MemoryFileSystem, *arguments: object, **options: object) -> bytes:
        fault = faults.popleft() if faults else ""
        if fault == "reset":
            raise ConnectionResetError("reset by peer")
        if fault == "stall":
            ended.wait()
        data = bytes(fetch(self, *arguments, **options))
        return data[:-1] if fault == "short" else data

    monkeypatch.setattr(MemoryFileSystem, "cat_file", faulty)
    plan = make_plan(memory_uri)
    assert plan.shards[0].source.name == "memory://mlclf-remote/a.parquet"
    assert all_rows(plan).equals(TABLE)
    assert not faults
    ended.set()


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (
            ConnectionResetError("a=topsecret"),
            RemoteError,
            r"must succeed within 1.2 seconds, \d+ attempts did not, .*: …;",
        ),
        (PermissionError("a=topsecret"), PermissionError, r"permission denied \(…\); check the credentials and who"),
        (FileNotFoundError("topsecret"), FileNotFoundError, r"there is no such file or folder \(…\); check the path$"),
        (
            ValueError("no?a=topsecret"),
            RemoteError,
            r"refused \(no\?…\); check the address, its options and the region$",
        ),
        (ValueError(), RemoteError, r"refused \(ValueError\);"),
    ],
)
def test_fsspec_errors(
    memory_uri: str, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: type[Exception], message: str
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise raised

    filesystem, path = open_remote(memory_uri + "/a.parquet")
    filesystem.handler.secrets = secrets_of("memory://host/x?a=topsecret")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    whole = rf"^memory://mlclf-remote/a.parquet: reading bytes 0–3: {message}"
    with filesystem.open_input_file(path) as file, pytest.raises(expected, match=whole) as caught:
        file.read_at(4, 0)
    assert "topsecret" not in "".join(traceback.format_exception(caught.value))


def test_credentials_stay_out_of_everything(proxy: FaultyProxy) -> None:
    given = uri(proxy.endpoint) + "&session_token=tok%2Ben"
    texts = [repr(find_sources([given])), *(source.name for source in find_sources([given])[0])]
    for fault in ("503", "403", "404"):
        proxy.faults.always = fault
        with pytest.raises(DataError) as caught:
            find_sources([given])
        texts += traceback.format_exception(caught.value)
    texts.append(text_of_fault(OSError(f"cannot reach {given}"), secrets_of(given)))
    found = "\n".join(texts)
    assert "s3://" in texts[-1]
    for secret in ("AKIAKEY", "s/ecret", "s%2Fecret", "tok%2Ben", "tok+en"):
        assert secret not in found
    assert without_credentials("https://u:p@h.org/a@b/c.parquet?sig=x@y") == "https://h.org/a@b/c.parquet"


class AnswerError(Exception):
    """As fsspec's HTTP libraries raise it."""

    def __init__(self, status: int) -> None:
        super().__init__("an answer")
        self.status = status


@pytest.mark.parametrize(
    ("error", "final"),
    [
        *((AnswerError(status), None) for status in (408, 425, 429, 500, 502, 503, 504)),
        *((AnswerError(status), RemoteError) for status in (301, 400, 409, 416)),
        *((AnswerError(status), PermissionError) for status in (401, 403)),
        (AnswerError(404), FileNotFoundError),
        (TimeoutError(), None),
        (OSError("AWS Error SLOW_DOWN during GetObject operation: x"), None),
        (OSError("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: x"), None),
        (OSError("AWS Error UNKNOWN (HTTP status 301) during HeadObject operation: x"), RemoteError),
        (OSError("AWS Error UNKNOWN (HTTP status 400) during GetObject operation: … ExpiredToken"), PermissionError),
        (OSError("AWS Error SIGNATURE_DOES_NOT_MATCH during GetObject operation: x"), PermissionError),
        (OSError("AWS Error INVALID_OBJECT_STATE during GetObject operation: x"), RemoteError),
        (OSError("When listing: AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation: x"), FileNotFoundError),
        (OSError("google::cloud::Status(PERMISSION_DENIED: x)"), PermissionError),
        (OSError("google::cloud::Status(UNAVAILABLE: x)"), None),
        (type("NoCredentialsError", (Exception,), {})("x"), PermissionError),
        (IsADirectoryError("x"), RemoteError),
        (KeyError("x"), RemoteError),
    ],
)
def test_which_faults_may_pass(error: Exception, final: type[Exception] | None) -> None:
    assert verdict_of(error) is final


def test_waits_grow_at_random_up_to_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []
    waits: list[float] = []

    def drawn(low: float, high: float) -> float:
        assert low == 0
        bounds.append(high)
        return high / 1e6

    def fail() -> None:
        raise ConnectionError("no") if len(bounds) < 9 else KeyboardInterrupt

    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.2)
    monkeypatch.setattr(retries._jitter, "uniform", drawn)
    monkeypatch.setattr(retries, "wait_for", waits.append)
    with pytest.raises(KeyboardInterrupt):
        persist(fail, "x", deadline_seconds=60)
    assert bounds == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10]
    assert waits == [bound / 1e6 for bound in bounds]


ENDLESS = """
import sys
from mlclf.data.storage import retries
from mlclf.data.storage.uris import open_remote
from mlclf.errors import RemoteError
retries.ATTEMPT_SECONDS, retries.DEADLINE_SECONDS = 0.3, 0.5
filesystem, path = open_remote(sys.argv[1])
try:
    filesystem.open_input_file(path).read_at(100, 0)
except RemoteError as error:
    print(error)
sys.exit(7)
"""


def test_the_process_ends_while_a_request_does_not(proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.faults.only = ("GET",)
    proxy.faults.always = "drip"
    given = uri(proxy.endpoint, PATH)
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS, given], capture_output=True, text=True, timeout=20, check=False, cwd=tmp_path
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith(f"s3://{PATH}: reading bytes 0–99: must succeed within 0.5 seconds")


def test_an_attempt_that_the_deadline_cuts_short_does_not_hide_the_reason() -> None:
    calls = 0

    def attempt() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            time.sleep(5)
        raise OSError("the cable is cut")

    with pytest.raises(RemoteError, match=r"2 attempts did not, the last with: the cable is cut;"):
        persist(attempt, "s3://bucket/a: reading", attempt_seconds=4, deadline_seconds=0.7)
