"""Damage and strangers: a flipped bit anywhere is seen, tensors are there once, and a signature of OpenSSF holds for the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import nn

import petl
from petl.delta.sealed_text import KEY
from petl.format.tensorfile import read_header
from tests.support import golden
from tests.support.delta_files import edit, header_of


@pytest.mark.parametrize("kind", ["combined", "int4"])
def test_a_flipped_bit_in_any_tensor_is_seen(kind: str, tmp_path: Path) -> None:
    """The first, the middle and the last byte of every tensor, in turn."""
    path, base = tmp_path / "d.safetensors", golden.backbone(kind)
    data = golden.path_of(kind).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    for entry in read_header(golden.path_of(kind))[1].values():
        for place in {entry.begin, (entry.begin + entry.end) // 2, entry.end - 1}:
            at = start + place
            path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
            with pytest.raises(petl.DeltaError, match="checksum"):
                petl.load(path, base)


def test_files_without_a_checksum_by_other_tools_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    text = json.dumps({key: value for key, value in header_of(golden.path_of("norm")).items() if key != "checksum"})
    save_file(load_file(golden.path_of("norm")), path, metadata={KEY: text})
    assert petl.record(petl.load(path, golden.backbone("norm"))) is not None


def test_a_frozen_tensor_of_the_base_has_no_place_in_a_file(tmp_path: Path) -> None:
    path, base = tmp_path / "d.safetensors", golden.backbone("norm")
    name = "blocks.0.mlp.fc1.weight"
    tensors = {**load_file(golden.path_of("norm")), name: base.state_dict()[name].clone() + 1}
    header = {**header_of(golden.path_of("norm")), "checksum": None}
    for also in ([], [name]):  # also where the header says that it was unfrozen by hand, which the base's digest shows
        save_file(tensors, path, metadata={KEY: json.dumps({**header, "also": also})})
        with pytest.raises(petl.DeltaError):
            petl.load(path, base)


def test_sizes_out_of_a_header_reach_no_backbone(tmp_path: Path) -> None:
    """Found by the fuzz: an image size that is none, and a tensor whose type isn't the base's, which unwrap gives back."""
    path = tmp_path / "d.safetensors"
    path.write_bytes(golden.path_of("low-base").read_bytes())
    known = header_of(path)["backbone"]
    edit(path, lambda header: {"backbone": {**known, "args": {**known["args"], "img_size": [1, None]}}})
    base: nn.Module = golden.backbone("low-base")
    assert petl.record(petl.load(path, base)) is not None
    other = golden.backbone("norm")
    before = {key: value.clone() for key, value in other.state_dict().items()}
    tensors = {key: value.half() for key, value in load_file(golden.path_of("norm")).items()}
    save_file(tensors, path, metadata={KEY: json.dumps({**header_of(golden.path_of("norm")), "checksum": None})})
    petl.unwrap(petl.load(path, other))
    after = other.state_dict()
    assert all(after[key].dtype == value.dtype and bool((after[key] == value).all()) for key, value in before.items())


@pytest.mark.deep
def test_a_signature_of_openssf_holds_for_the_file(tmp_path: Path) -> None:
    signing = pytest.importorskip("model_signing.signing")
    verifying = pytest.importorskip("model_signing.verifying")
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")
    from cryptography.hazmat.primitives import serialization as pem

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    private.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    path, signature = tmp_path / "d.safetensors", tmp_path / "d.safetensors.sig"
    data = golden.path_of("lora").read_bytes()
    path.write_bytes(data)
    signing.Config().use_elliptic_key_signer(private_key=private).sign(path, signature)
    check = verifying.Config().use_elliptic_key_verifier(public_key=public)
    check.verify(path, signature)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError):
        check.verify(path, signature)
