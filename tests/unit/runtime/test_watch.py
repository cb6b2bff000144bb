from __future__ import annotations

import os

from edgeward_runtime.watch import ConfigWatch


def configmap(root, revision: str, text: str) -> None:
    """Lays files out as a kubelet does: models.json -> ..data/models.json, ..data -> a folder, swapped by rename."""
    folder = root / f"..{revision}"
    folder.mkdir()
    (folder / "models.json").write_text(text)
    (root / "..data_tmp").symlink_to(folder.name)
    os.rename(root / "..data_tmp", root / "..data")
    if not (root / "models.json").is_symlink():
        (root / "models.json").symlink_to("..data/models.json")


def test_a_configmap_volume(tmp_path):
    watch = ConfigWatch(tmp_path)
    assert watch.changed() is None
    configmap(tmp_path, "1", "one")
    assert watch.changed() == b"one" and watch.changed() is None
    configmap(tmp_path, "2", "two")
    assert watch.changed() == b"two" and watch.changed() is None


def test_a_file_that_goes_away_is_no_change(tmp_path):
    path = tmp_path / "models.json"
    path.write_text("one")
    watch = ConfigWatch(tmp_path)
    assert watch.changed() == b"one"
    path.unlink()
    assert watch.changed() is None
    path.write_text("other")
    assert watch.changed() == b"other"


def test_a_folder_in_its_place(tmp_path):
    (tmp_path / "models.json").mkdir()
    assert ConfigWatch(tmp_path).changed() is None
