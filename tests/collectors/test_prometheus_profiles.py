"""Profiles of an operator's own folder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collectors.__main__ import main
from collectors.prometheus_profiles import profiles_of
from fleet.profiles import builtin_profiles
from fleet.settings import General, Settings, SettingsError

MINE = """id = "mine"
title = "Ours"
source = "our own code"
anchors = ["my_running"]
[fields.requests_running]
metric = "my_running"
type = "gauge"
"""


def settings(folder):
    return replace(Settings(), general=General(profiles_dir=str(folder)))


def test_a_folder_adds_to_the_profiles_of_the_product(tmp_path):
    (tmp_path / "mine.toml").write_text(MINE)
    assert [one.id for one in profiles_of(settings(tmp_path))] == [*(one.id for one in builtin_profiles()), "mine"]
    assert profiles_of(Settings()) == builtin_profiles()


def test_mistakes_of_all_files_are_mistakes_of_the_settings(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.toml").write_text(MINE.replace("gauge", "gouge"))
    (tmp_path / "other.toml").write_text(MINE.replace('id = "mine"', "id = 3"))
    with pytest.raises(SettingsError) as caught:
        profiles_of(settings(tmp_path))
    assert [line.split(":")[:2] for line in caught.value.mistakes] == [
        ["profiles_dir", " mine.toml"],
        ["profiles_dir", " other.toml"],
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.toml").write_text(f'profiles_dir = "{tmp_path / "none"}"\n')
    assert main(["check-config"]) == 2
    assert "profiles_dir" in capsys.readouterr().err
