"""Buckets, on moto's server: real HTTP, s3fs's own client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm

import petl
from petl.addresses.local_file import local_file
from tests.support.hub import Hub, leftovers


@pytest.fixture
def bucket(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket called pets, and s3fs's defaults pointed at it by the environment."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for name, value in {**environment, "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "*"}.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="pets")
    yield client
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.mark.deep
@pytest.mark.filterwarnings("default:datetime.datetime.utcnow")
def test_a_bucket(bucket: Any, hub: Hub, tmp_path: Path) -> None:
    model = petl.wrap(timm.create_model("test_vit", num_classes=2), "bias")
    delta = petl.save(model, tmp_path / "pets.safetensors", labels=["cat", "dog"])
    bucket.put_object(Bucket="pets", Key="a/pets.safetensors", Body=delta.read_bytes())
    address = "s3://pets/a/pets.safetensors"
    assert petl.read(address) == petl.read(delta) and str(local_file(address)) == address
    fetched = Path(local_file(address).__fspath__()).stat().st_mtime_ns
    assert petl.read(address) == petl.read(delta)
    assert Path(local_file(address).__fspath__()).stat().st_mtime_ns == fetched  # the version is the same

    other = petl.save(model, tmp_path / "other.safetensors", labels=["eel", "ape"])
    bucket.put_object(Bucket="pets", Key="a/pets.safetensors", Body=other.read_bytes())
    assert petl.read(address)["labels"] == ["eel", "ape"]
    assert len(leftovers(tmp_path / "cache")) == 2

    bucket.put_object(Bucket="pets", Key="a/page", Body=b"<html>")
    for wrong, said in (
        ("a/none", "there is no s3://pets/a/none"),
        ("a/page", "begins with '<html>'"),
        ("a", "is a folder"),
    ):
        with pytest.raises(petl.DeltaError, match=said):
            petl.read(f"s3://pets/{wrong}")
    with pytest.raises(petl.DeltaError, match="there is no s3://cats"):
        petl.read("s3://cats/a.safetensors")
