from __future__ import annotations

from kdlora.spec.fingerprint import hash_file, hash_json, hash_model_folder
from kdlora.spec.run import seed_for


def test_json_hash_ignores_key_order_and_sees_values():
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 1.5})


def test_file_hash_follows_the_content(tmp_path):
    path = tmp_path / "f"
    path.write_text("one")
    first = hash_file(path)
    path.write_text("two!")
    assert hash_file(path) != first
    path.write_text("one")
    assert hash_file(path) == first


def test_model_hash_sees_head_tail_and_size_of_large_files(tmp_path):
    path = tmp_path / "model.safetensors"
    content = bytearray(5 << 20)
    seen = set()
    for position in (0, len(content) - 1, None):
        if position is not None:
            content[position] ^= 1
        path.write_bytes(bytes(content) + (b"" if position is not None else b"x"))
        seen.add(hash_model_folder(tmp_path))
    assert len(seen) == 3


def test_seeds_differ_by_purpose_and_seed_and_are_stable():
    seeds = {seed_for(s, p) for s in range(50) for p in ("init", "order", "dropout")}
    assert len(seeds) == 150
    assert seed_for(42, "init") == seed_for(42, "init") < 2**31
