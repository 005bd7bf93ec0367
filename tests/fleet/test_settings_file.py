from __future__ import annotations

import pytest

from fleet.settings import SettingsError
from fleet.settings_file import read_settings


def test_the_command_line_goes_before_the_environment_and_that_before_the_folder(tmp_path):
    for name, port in (("fleet.toml", 1111), ("env.toml", 2222), ("named.toml", 3333)):
        (tmp_path / name).write_text(f"[dashboard]\nport = {port}\n")
    environment = {"AIFLEET_CONFIG": str(tmp_path / "env.toml")}
    assert read_settings({}, folder=tmp_path)[0].dashboard.port == 1111
    assert read_settings(environment, folder=tmp_path)[0].dashboard.port == 2222
    settings, origin = read_settings(environment, named=tmp_path / "named.toml", folder=tmp_path)
    assert (settings.dashboard.port, origin) == (3333, str(tmp_path / "named.toml"))


def test_no_file_is_fine_and_said(tmp_path):
    settings, origin = read_settings({}, folder=tmp_path, host="box")
    assert (settings.general.host, origin) == ("box", "defaults and environment")


def test_a_named_file_that_is_not_there_or_no_text_is_an_error_with_what_to_write(tmp_path):
    with pytest.raises(SettingsError, match=r"no\.toml: cannot be read .*--config or AIFLEET_CONFIG"):
        read_settings({}, named=tmp_path / "no.toml")
    (tmp_path / "fleet.toml").write_bytes(b"ok = \xff")
    with pytest.raises(SettingsError, match="not UTF-8 at byte 5"):
        read_settings({}, folder=tmp_path)
