"""Keys in an address reach no file and no message, and a run is resumed by the same address with its keys."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
from made_tables import plain_table, write
from s3_server import S3Server

import mlclf
from mlclf.cli import output

SECRET = "dummy/SECRET+key"
KEY = "DUMMYKEY"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Parquet file on a server of S3 on this machine, with its keys."""
    made = write(tmp_path_factory.mktemp("made") / "p.parquet", plain_table(300), row_group_size=100)
    server = S3Server()
    try:
        files = pafs.S3FileSystem(
            access_key=KEY, secret_key="any", endpoint_override=server.endpoint, scheme="http", region="us-east-1",
            allow_bucket_creation=True,
        )  # fmt: skip
        files.create_dir("bkt")
        with files.open_output_stream("bkt/p.parquet") as out:
            out.write(Path(made).read_bytes())
        yield f"s3://{KEY}:{SECRET}@bkt/p.parquet?endpoint_override={server.endpoint}&scheme=http&region=us-east-1"
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.chdir(tmp_path)


FIT = ("--labels", "label_a", "label_b", "--valid-fraction", "0.3", "--set", "optimizer.l2=0.1")


def assert_no_secret(folder: Path, *said: str) -> None:
    texts = [*said, *(path.read_bytes().decode("latin-1") for path in folder.rglob("*") if path.is_file())]
    assert len(texts) > len(said)
    for text in texts:
        assert "SECRET" not in text
        assert KEY not in text


@pytest.mark.slow
@pytest.mark.parametrize("slash", ["/", "%2F"])
def test_no_file_of_a_run_and_no_message_holds_a_secret(
    address: str, mlclf_command: Any, tmp_path: Path, slash: str
) -> None:
    uri = address.replace(SECRET, SECRET.replace("/", slash))
    said = [mlclf_command("fit", uri, "--valid", uri, *FIT[:3], *FIT[5:], "--out", "run", "--debug")]
    said += [mlclf_command(*arguments, "--debug") for arguments in (
        ("inspect", uri), ("evaluate", "run", uri, "--out", "metrics.json"), ("predict", "run", uri, "--out", "scores"),
        ("calibrate", "run", uri), ("shuffle", uri, "--out", "shuffled"), ("split", uri, "--out", "parts"),
    )]  # fmt: skip
    assert [called.code for called in said] == [0] * 7, said
    assert_no_secret(tmp_path, *(called.out + called.err for called in said))
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "s3://bkt/p.parquet?endpoint_override=" in config


def test_errors_hold_no_secret(address: str, mlclf_command: Any, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "some.txt").write_text("so that there is a file")
    for wrong in (
        address.replace("p.parquet", "none.parquet"), address.replace("p.parquet", "*.parquet"),
        address + "&tokn=SECRET",
        address.replace("region=us-east-1", "session_token=SECRET&region=us-east-1").replace("bkt", "other"),
        f"nosuch://{KEY}:SECRET@host/p.parquet", f"https://{KEY}:SECRET@127.0.0.1:1/p.parquet?sig=SECRET",
    ):  # fmt: skip
        called = mlclf_command("inspect", wrong, "--debug")
        assert called.code == 2, called
        assert_no_secret(tmp_path, called.out, called.err)


def test_a_defect_is_reported_without_secrets(
    address: str, mlclf_command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: Any, *_: Any, **__: Any) -> None:
        raise RuntimeError(f"cannot open {data}")

    monkeypatch.setattr("mlclf.data.inspection.report.inspect", broken)
    called = mlclf_command("inspect", address, "--debug")
    assert called.code == 1
    assert "this is a defect of mlclf" in called.err
    assert "Traceback" in called.err
    (tmp_path / "any").write_text("")
    assert_no_secret(tmp_path, called.err)
    assert output.safe_text(f"{os.sep}x {address}").startswith("/x s3://bkt/p.parquet?")


class Stopped(BaseException):
    """What ends a fit between two epochs."""


@pytest.mark.slow
def test_a_run_is_resumed_by_the_same_address(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlclf.fitting import mini_batch

    save, count = mini_batch.save_checkpoint, []

    def stopping(*arguments: Any, **options: Any) -> None:
        save(*arguments, **options)
        count.append(1)
        if len(count) == 2:
            raise Stopped

    settings = {"optimizer.name": "adam", "optimizer.l2": 0.1, "training.epochs": 4}
    fit = {"labels": ["label_a", "label_b"], "valid_fraction": 0.3, "settings": settings}
    monkeypatch.setattr(mini_batch, "save_checkpoint", stopping)
    with pytest.raises(Stopped):
        mlclf.fit(address, out="run", **fit)  # type: ignore[arg-type]
    monkeypatch.setattr(mini_batch, "save_checkpoint", save)
    assert_no_secret(tmp_path)
    with pytest.raises(mlclf.ConfigError, match=r"^--train: the run has \['s3://bkt/p\.parquet\?endpoint"):
        mlclf.fit(address.replace("p.parquet", "q.parquet"), out="run", resume=True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    resumed = mlclf.fit(address, out="run", resume=True)
    assert resumed.metrics == mlclf.fit(address, out="whole", **fit).metrics  # type: ignore[arg-type]
    assert_no_secret(tmp_path)
