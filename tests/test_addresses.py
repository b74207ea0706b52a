"""Secrets leave every form of URI, and what is not a secret stays."""

from __future__ import annotations

import pytest

from mlclf.addresses import hidden, secrets_of, without_credentials, without_secrets

SECRET = "S3cr3t"
URIS = {
    f"s3://KEY:{SECRET}@bucket/a.parquet": "s3://bucket/a.parquet",
    f"s3://KEY:{SECRET}/x+y@bucket/a.parquet": "s3://bucket/a.parquet",
    f"s3://KEY:{SECRET}%2Fx@bucket/a@b.parquet": "s3://bucket/a@b.parquet",
    f"s3://bucket/a.parquet?access_key=KEY&secret_key={SECRET}&region=eu-west-1": "s3://bucket/a.parquet?region=eu-west-1",
    f"s3://bucket/?session%5Ftoken={SECRET}&scheme=http": "s3://bucket/?scheme=http",
    f"s3://bucket/a?endpoint_override=http://user:{SECRET}@host:9000&scheme=http": (
        "s3://bucket/a?endpoint_override=http://host:9000&scheme=http"
    ),
    f"https://user:{SECRET}@host:8443/a.parquet": "https://host:8443/a.parquet",
    f"https://host:8443/a@b.parquet?sig={SECRET}&se=2030": "https://host:8443/a@b.parquet",
    f"https://host/a.parquet?X-Amz-Signature={SECRET}#token={SECRET}": "https://host/a.parquet",
    f"https://host/a.parquet#access_token={SECRET}": "https://host/a.parquet",
    f"abfs://container@account.dfs.core.windows.net/a?account_key={SECRET}": "abfs://account.dfs.core.windows.net/a",
    f"simplecache::s3://KEY:{SECRET}@bucket/a.parquet": "simplecache::s3://bucket/a.parquet",
    f"zip://a.parquet::https://user:{SECRET}@host/b.zip?sas={SECRET}": "zip://a.parquet::https://host/b.zip",
    "s3://bucket/day=1/a#1.parquet": "s3://bucket/day=1/a#1.parquet",
}


@pytest.mark.parametrize("uri", URIS)
def test_an_address_without_secrets(uri: str) -> None:
    assert without_secrets(uri) == URIS[uri]
    assert without_secrets(URIS[uri]) == URIS[uri]
    assert without_credentials(uri) == URIS[uri].partition("?")[0]
    assert hidden(f"({uri}): no such file, '{uri}'.") == f"({URIS[uri]}): no such file, '{URIS[uri]}'."


@pytest.mark.parametrize("uri", [uri for uri in URIS if SECRET in uri])
def test_secrets_are_found(uri: str) -> None:
    text = uri
    for secret in secrets_of(uri):
        text = text.replace(secret, "…")
    assert SECRET not in text


def test_paths_and_texts_stay() -> None:
    for text in ("data/a?b#c@d.parquet", "a: b", "x = 'http'", "1::2", "", "see https://host/page for more"):
        assert hidden(text) == text
        assert without_secrets(text) == text
